"""What tokens may do, as text; that Consul understands it so is shown by ``tests/contract``."""

import re
from pathlib import Path

import pytest

from meshctl.acl import (
    OBSERVER_RULES,
    OPERATOR_RULES,
    Acl,
    HostTokens,
    Token,
    agent_rules,
    grants,
    proxy_rules,
)
from proxy.model.names import HostName, ServiceName

DOCS = Path(__file__).parents[2] / "docs" / "consul.md"
CACHE, WEB = ServiceName("cache"), ServiceName("web")


def normal(rules: str) -> set[str]:
    return {" ".join(line.split()) for line in rules.splitlines() if line.strip()}


@pytest.mark.parametrize("rules", [proxy_rules((WEB, CACHE)), OPERATOR_RULES, OBSERVER_RULES])
def test_the_page_shows_the_very_rules_that_managed_consuls_get(rules: str) -> None:
    shown = [normal(block) for block in re.findall(r"```hcl\n(.*?)```", DOCS.read_text(), re.S)]
    assert normal(rules) in shown


def test_only_a_hosts_own_services_and_node_can_be_written() -> None:
    def written(rules: str) -> list[str]:
        return re.findall(r'^(\w+ "[^"]*") \{ policy = "write" \}$', rules, re.M)

    assert written(proxy_rules((WEB,))) == ['service "mesh-web"']
    assert written(proxy_rules(())) == []
    assert written(agent_rules(HostName("one"))) == ['node "one"', 'agent "one"']
    assert written(OPERATOR_RULES) == ['key_prefix "meshctl/"']
    assert written(OBSERVER_RULES) == []


def test_policies_have_names_that_consul_takes_and_no_two_the_same() -> None:
    longest = HostName("a" * 50)
    tokens = HostTokens(agent=Token("a"), proxy=Token("b"))
    acl = Acl(
        hosts=dict.fromkeys((longest, HostName("operator"), HostName("observer")), tokens),
        operator=Token("c"),
        observer=Token("d"),
    )
    names = [grant.name for grant in grants(acl, {})]
    assert len(set(names)) == len(names) == 8
    assert all(re.fullmatch(r"[A-Za-z0-9\-_]{1,128}", name) for name in names)
