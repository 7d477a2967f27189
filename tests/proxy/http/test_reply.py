from proxy.http.reply import make_reply
from proxy.model.flags import SENTENCE, STATUS, Flag


def test_a_reply_names_the_services_the_reason_and_the_detail() -> None:
    head, body = make_reply("web -> api", Flag.UPSTREAM_TIMEOUT, "waited 15 s")
    assert body == b"web -> api: the service did not answer in time: waited 15 s\n"
    assert (head.status, head.flag, head.reason) == (504, b"UT", b"504 Gateway Timeout")
    assert head.length == len(body)
    assert b"content-length: %d" % len(body) in head.lines


def test_every_flag_that_has_a_status_makes_a_reply() -> None:
    for flag, status in STATUS.items():
        head, body = make_reply("s", flag)
        assert head.status == status
        assert body == f"s: {SENTENCE[flag]}\n".encode()
