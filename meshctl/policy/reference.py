"""``mesh.yaml`` as a page: ``python -m meshctl.policy.reference > docs/mesh-yaml.md``.

From the tables that the parser uses; a test compares the page with what is generated.
"""

from collections.abc import Iterator

from meshctl.policy.schema import sections
from meshctl.policy.section import Field, Section
from meshctl.policy.service import DEFAULTS, SERVICE_POLICY, VERSION
from meshctl.policy.telemetry import TELEMETRY
from meshctl.policy.tokens import TOKEN_PROVIDER

_HEAD = f"""\
# mesh.yaml

The mesh's traffic policy. `meshctl apply` checks it as a whole, shows what it changes and for
whom, publishes it as one snapshot with a generation number, and waits until every proxy that
lives runs it. A file with anything wrong in it is refused with all that is wrong, and changes
nothing; a proxy refuses by the same rules, and keeps what it has.

[mesh.example.yaml](../mesh.example.yaml) uses every key; `meshctl schema mesh` prints a JSON
Schema for editors. This page is made by `python -m meshctl.policy.reference`.

| key | value | meaning |
|---|---|---|
| `version` | `{VERSION}` | Of this format. Required. |
| `defaults` | [defaults](#defaults) | {DEFAULTS.about} |
| `telemetry` | [telemetry](#telemetry) | {TELEMETRY.about} |
| `tokens` | name: [token_provider](#token_provider) | {TOKEN_PROVIDER.about} |
| `services` | service: [service](#service) | {SERVICE_POLICY.about} |

A value is written with its unit:

| kind | written |
|---|---|
| duration | `250ms`, `15s`, `5m`, `1h`; where it says so `0` |
| percentage | `20%`, `0.5%`; without the sign it is the same |
| size | `64KiB`, `1MiB` |
| time (RFC 3339) | `2026-12-01T12:00:00Z` |
| regular expression | RE2 syntax; it has to match the whole value |

Who is called with which policy:

* What stands under a service is in force at its callers' proxies, for all who call it; its rate
  limits are enforced at its own.
* A route may lead to other services. A caller is let in there only if the inventory has the
  service among the caller's `upstreams`; a port is not needed. Without that, the file is refused.
* What a route leads to is reached with the load balancing, limits, outlier detection and health
  checks of the service that it belongs to; timeouts, retries and faults stay those of the service
  that was called. The `routes` of a destination are not looked at.
* `retries` and `timeouts` of a route override those of its service field by field.
* For services with `protocol: tcp` in the inventory, keys that only mean something for HTTP are
  refused: matches, changes of the message, `rate_limits`, `faults`, `tracing` and timeouts of
  requests.
"""


def page() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.rstrip()
    for section in sections():
        yield ""
        yield f"## {section.title}"
        yield ""
        yield section.about
        yield ""
        yield from _rules(section)
        yield "| key | value | default | meaning |"
        yield "|---|---|---|---|"
        yield from (_row(section, field) for field in section.fields)


def _rules(section: Section) -> Iterator[str]:
    if section.one_of:
        yield f"Exactly one of {_listed(section.one_of)}."
        yield ""
    if section.at_most_one_of:
        yield f"At most one of {_listed(section.at_most_one_of)}."
        yield ""


def _row(section: Section, field: Field) -> str:
    default = section.default(field)
    told = f"`{default}`" if default else ""
    if field.is_required:
        told = "required"
    if default and field.source:
        told += f" ({field.source})"
    return f"| `{field.key}` | {field.shape.kind} | {told} | {field.about} |"


def _listed(keys: tuple[str, ...]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


if __name__ == "__main__":
    print(page(), end="")
