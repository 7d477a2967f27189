"""The ``mesh.yaml`` that ``meshctl init`` writes: timeouts, and where the rest is described."""

from meshctl import durations
from proxy.model.policy import Timeouts

_TEXT = """\
# Traffic policy of the mesh. `meshctl deploy` checks it and publishes it through Consul; the
# proxies pick it up within seconds, without a restart. docs/mesh-yaml.md describes what else there
# is (retries, balancing, routes, limits, ...); `meshctl schema mesh` prints a JSON Schema.
version: 1

# In force wherever a service says nothing else. Durations: 250ms, 15s, 5m, 1h.
defaults:
  timeouts:
    # TCP and TLS together, to one endpoint.
    connect: {connect}
    # From the last byte of a request to the last of its response; 0: none.
    request: {request}
    # No byte in either direction within a request or TCP session.
    stream_idle: {stream_idle}
    # A connection from an application without a request.
    connection_idle: {connection_idle}
    # An unused connection to an application; keep it below the application's own keep-alive.
    pool_idle: {pool_idle}

# By service, as named in inventory.yaml, for all who call it; overrides the defaults field by
# field. For instance:
#
#   api:
#     timeouts:
#       request: 5s
services:
"""


def starting_mesh_yaml() -> str:
    """Its defaults are the proxies' own, so that the file documents rather than changes them."""
    timeouts = Timeouts()
    return _TEXT.format(
        connect=durations.show(timeouts.connect_s),
        request=durations.show(timeouts.request_s),
        stream_idle=durations.show(timeouts.stream_idle_s),
        connection_idle=durations.show(timeouts.connection_idle_s),
        pool_idle=durations.show(timeouts.pool_idle_s),
    )
