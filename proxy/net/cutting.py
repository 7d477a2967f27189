"""Ends what lives of callers that a new policy shuts out, where that policy asks for it.

A connection is let in once and lives on, so a policy that takes access away says whether what it
would not let in any more may go on. Whoever may still ask for something keeps its connections: each
of its requests is judged as it arrives, and those that have begun end by themselves.
"""

from proxy.http.downstream import DownstreamConnection
from proxy.http.exchange import Exchange
from proxy.http.h2.server import Http2Server
from proxy.http.ledger import Ledger
from proxy.http.streams_server import StreamsServer
from proxy.net.inbound import InboundRelay, InboundSession


def cut_denied(ledger: Ledger) -> None:
    """Of the inbound side, after the policy was applied. A request in flight that has no answer yet
    gets one that says why; one whose answer has begun, like a TCP session, is reset."""
    for each in tuple(ledger.exchanges):
        if isinstance(each, InboundRelay):
            each.cut_if_denied()
        elif isinstance(each, Exchange) and isinstance(each.handler, InboundSession):
            each.handler.cut_if_denied(each)
    for connection in tuple(ledger.connections):
        if (
            isinstance(connection, (DownstreamConnection, Http2Server, StreamsServer))
            and isinstance(connection.handler, InboundSession)
            and connection.handler.is_shut_out
        ):
            connection.dismiss()
