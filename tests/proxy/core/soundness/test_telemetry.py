"""What is sound is what those who use it understand."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.core import soundness
from proxy.core.access_format import FIELDS, parse_format
from proxy.model.policy import Policy, ServicePolicy
from proxy.model.telemetry import AccessLog, Telemetry, Tracing
from proxy.net.otlp import parse_receiver

URLS = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["http://", "https://", "HTTP://", "grpc://", "//", ""]),
        st.sampled_from(
            ["a", "[::1]", "[::1", "me@a", "me:pw@a", "a b", "é", "", "a\r\nb", "1.2.3.4"]
        ),
        st.sampled_from(["", ":4318", ":0", ":99999", ":x"]),
        st.sampled_from(["", "/", "/v1/traces", "/v1 /x", "?a=b", "/#", "/\n"]),
    ),
)
PIECES = st.sampled_from(["%", "%%", " ", "\n", "é", '"', "%x%", *(f"%{name}%" for name in FIELDS)])


@given(URLS)
def test_a_sound_url_is_one_that_can_be_sent_to_and_nothing_else_gets_into_the_request(
    url: str,
) -> None:
    if soundness.check(Policy(telemetry=Telemetry(otlp=url))) or not url:
        return
    receiver = parse_receiver(url)
    assert receiver.host
    assert 0 < receiver.port < 65536
    for part in (receiver.authority, receiver.target):
        assert part.isascii()
        assert part.isprintable()
        assert " " not in part


@given(st.lists(PIECES, max_size=8).map("".join))
def test_a_sound_format_is_one_that_lines_can_be_made_with(text: str) -> None:
    policy = Policy(defaults=ServicePolicy(access_log=AccessLog(format=text)))
    if soundness.check(policy) or not text:
        return
    made = parse_format(text)
    line = made.fill(["v\n"] * len(made.names))
    assert line.isprintable()


@given(st.text(max_size=20) | st.from_regex(r"[a-z-]{1,9}(: ?[ -~]{0,9})?", fullmatch=True))
def test_a_sound_header_is_one_that_a_request_can_have(text: str) -> None:
    if soundness.check(Policy(defaults=ServicePolicy(tracing=Tracing(header=text)))) or not text:
        return
    name, colon, value = text.partition(":")
    assert name == name.lower()
    assert name.isascii()
    assert bool(value.strip(" ")) == bool(colon)
    assert "\n" not in text
