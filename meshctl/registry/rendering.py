"""Values of the registry in the shapes of Consul's JSON, field by field as 1.8 has them."""

import base64
import ipaddress
from typing import Any

from meshctl.registry.catalogue import Check, Service
from meshctl.registry.kv import Entry, Failure, Result
from meshctl.registry.state import Node

_NO_PROXY: dict[str, Any] = {"MeshGateway": {}, "Expose": {}}


def entry(value: Entry, *, with_value: bool = True) -> dict[str, Any]:
    encoded = base64.b64encode(value.value).decode() if value.value and with_value else None
    return {
        "LockIndex": 0,
        "Key": value.key,
        "Flags": value.flags,
        "Value": encoded,
        "CreateIndex": value.create_index,
        "ModifyIndex": value.modify_index,
    }


def transaction(results: tuple[Result, ...], failures: tuple[Failure, ...]) -> dict[str, Any]:
    errors = [{"OpIndex": failure.operation, "What": failure.what} for failure in failures]
    shown = [{"KV": entry(result.entry, with_value=result.with_value)} for result in results]
    return {"Results": None if errors else shown, "Errors": errors or None}


def node(value: Node) -> dict[str, Any]:
    return {
        **_node_head(value),
        "Meta": {"consul-network-segment": ""},
        "CreateIndex": value.index,
        "ModifyIndex": value.index,
    }


def agent_service(value: Service) -> dict[str, Any]:
    """As the agent's own list shows it, without indexes."""
    return {
        "ID": value.id,
        "Service": value.name,
        "Tags": list(value.tags),
        "Meta": dict(value.meta),
        "Port": value.port,
        "Address": value.address,
        **({"TaggedAddresses": _tagged(value)} if value.address else {}),
        "Weights": _weights(value),
        "EnableTagOverride": value.enable_tag_override,
    }


def catalogue_service(value: Service, at: Node) -> dict[str, Any]:
    return {
        **_node_head(at),
        "NodeMeta": {"consul-network-segment": ""},
        "ServiceKind": "",
        "ServiceID": value.id,
        "ServiceName": value.name,
        "ServiceTags": list(value.tags),
        "ServiceAddress": value.address,
        "ServiceTaggedAddresses": _tagged(value),
        "ServiceWeights": _weights(value),
        "ServiceMeta": dict(value.meta),
        "ServicePort": value.port,
        "ServiceEnableTagOverride": value.enable_tag_override,
        "ServiceProxy": _NO_PROXY,
        "ServiceConnect": {},
        "CreateIndex": value.create_index,
        "ModifyIndex": value.modify_index,
    }


def instance(value: Service, checks: tuple[Check, ...], at: Node) -> dict[str, Any]:
    """One element of health/service."""
    return {
        "Node": node(at),
        "Service": {
            **agent_service(value),
            "Proxy": _NO_PROXY,
            "Connect": {},
            "CreateIndex": value.create_index,
            "ModifyIndex": value.modify_index,
        },
        "Checks": [catalogue_check(check, at) for check in checks],
    }


def agent_check(value: Check, at: Node) -> dict[str, Any]:
    """With the agent's own view of the output, and no indexes."""
    return {**_check(value, at, value.output), "CreateIndex": 0, "ModifyIndex": 0}


def catalogue_check(value: Check, at: Node) -> dict[str, Any]:
    return {
        **_check(value, at, value.published_output),
        "CreateIndex": value.create_index,
        "ModifyIndex": value.modify_index,
    }


def agent_self(at: Node, version: str) -> dict[str, Any]:
    return {
        "Config": {
            "Datacenter": at.datacenter,
            "NodeName": at.name,
            "NodeID": at.id,
            "Revision": "",
            "Server": True,
            "Version": version,
        },
        "Member": {"Name": at.name, "Addr": at.address, "Status": 1, "Tags": {}},
        "Meta": {"consul-network-segment": ""},
    }


def _node_head(value: Node) -> dict[str, Any]:
    return {
        "ID": value.id,
        "Node": value.name,
        "Address": value.address,
        "Datacenter": value.datacenter,
        "TaggedAddresses": {"lan": value.address, "wan": value.address},
    }


def _check(value: Check, at: Node, output: str) -> dict[str, Any]:
    return {
        "Node": at.name,
        "CheckID": value.definition.id,
        "Name": value.definition.name,
        "Status": value.status.value,
        "Notes": value.definition.notes,
        "Output": output,
        "ServiceID": value.service_id,
        "ServiceName": value.service_name,
        "ServiceTags": list(value.service_tags),
        "Type": "ttl" if value.definition.ttl_s else "",
        "Definition": {},
    }


def _weights(value: Service) -> dict[str, int]:
    passing, warning = value.weights
    return {"Passing": passing, "Warning": warning}


def _tagged(value: Service) -> dict[str, Any]:
    try:
        version = ipaddress.ip_address(value.address).version
    except ValueError:
        return {}
    place = {"Address": value.address, "Port": value.port}
    return {f"lan_ipv{version}": place, f"wan_ipv{version}": place}
