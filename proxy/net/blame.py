"""What is held against an endpoint: a word for the metric, a short sentence for people."""

from typing import Final

from proxy.core.retry import Failure
from proxy.http.exchange import Exchange
from proxy.model.flags import SENTENCE, Flag

MAX_WHY: Final = 200
"""Some of it comes from the other side."""
STATUS: Final = "status"
REASON_OF: Final = {
    Failure.CONNECT: Flag.UPSTREAM_CONNECT_FAILURE.value,
    Failure.REFUSED_BY_PEER: "refused",
    Failure.UNPROCESSED: "refused",
    Failure.RESET: Flag.UPSTREAM_RESET.value,
    Failure.PROTOCOL: Flag.UPSTREAM_PROTOCOL_ERROR.value,
    Failure.TIMEOUT: Flag.UPSTREAM_TIMEOUT.value,
    Failure.PER_TRY_TIMEOUT: Flag.UPSTREAM_TIMEOUT.value,
}
"""A response flag, ``refused`` by the peer's proxy, or ``status``: the application's answer."""
_SAYS: Final = {"refused": "the proxy of the endpoint refused the request"} | {
    flag.value: text for flag, text in SENTENCE.items()
}


def blame(exchange: Exchange) -> tuple[str, str]:
    """Of a request that its endpoint failed: the reason, and what is known beyond it."""
    flag = exchange.flag
    if not flag or flag == Flag.FAULT_DELAY.value:
        if exchange.grpc is not None and exchange.grpc.status is not None:
            return STATUS, f"answered {exchange.grpc.status.name}"
        return STATUS, f"answered {exchange.status}"
    return flag, exchange.detail


def sentence(reason: str, detail: str) -> str:
    return ": ".join(part for part in (_SAYS.get(reason, ""), detail) if part)[:MAX_WHY]
