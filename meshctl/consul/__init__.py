"""The operator's edge to Consul: values in, values out, errors with what to do next.

``client`` holds py-consul and every translation of a failure; ``workloads`` makes values of the
catalogue; ``edge`` is what the commands use.
"""

from meshctl.consul.edge import ConsulEdge, Publication
from meshctl.consul.workloads import CheckStatus, RegisteredWorkload

__all__ = ["CheckStatus", "ConsulEdge", "Publication", "RegisteredWorkload"]
