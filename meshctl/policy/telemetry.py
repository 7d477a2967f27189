"""Keys of what is told of calls: ``access_log``, ``tracing``, and the mesh's ``telemetry``."""

from meshctl.policy.pieces import Bytes, Milliseconds, Number, Percent, Text, TextOr, Truth, Word
from meshctl.policy.section import Field, Section
from proxy.core.soundness.numbers import RANGES
from proxy.model.telemetry import AccessLog, Telemetry, Tracing

ACCESS_LOG = Section(
    title="access_log",
    struct=AccessLog,
    about="Which calls get a line in the access log. Those that failed always do, at both sides. "
    "A percentage alone is `percent`.",
    short="percent",
    may_be_empty=True,
    fields=(
        Field(
            key="percent",
            shape=Percent(RANGES[AccessLog]["percent"]),
            about="The share of what went well, the same calls at both sides; 0: none of it.",
            source="ours",
        ),
        Field(
            key="slow",
            field="slow_ms",
            shape=Milliseconds(RANGES[AccessLog]["slow_ms"]),
            about="What takes longer is logged always; 0: time is no reason.",
            source="ours",
        ),
        Field(
            key="format",
            shape=TextOr("line with `%field%` in it", empty="json"),
            about="How a line looks; the [fields](observability.md#fields). `json`: an object "
            "with all of them.",
            source="ours",
        ),
    ),
)

TRACING = Section(
    title="tracing",
    struct=Tracing,
    about="Which requests become traces, if `telemetry` has a receiver for them. A caller that "
    "sends a trace context has decided already. A percentage alone is `percent`.",
    short="percent",
    may_be_empty=True,
    fields=(
        Field(
            key="percent",
            shape=Percent(RANGES[Tracing]["percent"]),
            about="The share of requests that arrive without a trace context; 0: none.",
            source="ours",
        ),
        Field(
            key="header",
            shape=TextOr("header: `name`, or `name: value`", empty="off"),
            about="A request that has it is traced always. The name is in lower case.",
            source="ours",
        ),
    ),
)

TELEMETRY = Section(
    title="telemetry",
    struct=Telemetry,
    about="Where the proxies put what they tell of calls, for the whole mesh.",
    may_be_empty=True,
    fields=(
        Field(
            key="metrics",
            shape=Truth(),
            about="`false`: calls are neither counted nor remembered, so that `meshctl top`, "
            "`tap` and their like see none.",
            source="ours",
        ),
        Field(
            key="otlp",
            shape=Text("URL", "^https?://"),
            about="Where traces go: a receiver of OTLP over HTTP as each host reaches it, with "
            "its path: `http://127.0.0.1:4318/v1/traces`. Without it: nothing is traced.",
        ),
        Field(
            key="log_to",
            shape=Word(("journal", "file")),
            about="Where access logs go. `file`: `access.log` in the proxy's log directory.",
            source="ours",
        ),
        Field(
            key="log_file_size",
            field="log_file_bytes",
            shape=Bytes(RANGES[Telemetry]["log_file_bytes"]),
            about="A file that reaches it is rotated.",
            source="ours",
        ),
        Field(
            key="log_files",
            shape=Number(RANGES[Telemetry]["log_files"]),
            about="How many rotated files are kept.",
            source="ours",
        ),
    ),
)
