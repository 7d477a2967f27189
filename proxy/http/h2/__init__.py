"""HTTP/2 (RFC 9113), between a proxy and an application, or a peer that is not ours.

``frames``
    Constants, packing and unpacking. Pure.
``states``
    The life of a stream as a literal table.
``stream``, ``connection``
    The engine, either role: bytes in, bytes out, no clock and no socket of its own. A connection is
    made of layers: ``output`` (what its streams share for sending), ``roster`` (which streams there
    are, and how an error ends them), ``messages`` (HEADERS and DATA), ``control`` (the rest).
    ``backlog`` is what waits for credit, ``settings`` what each side allows the other, ``floods``
    what a peer may do in a second.
``representation``, ``hpack``
    One field and a whole block of HPACK; without a dynamic table as soon as the peer agrees.
``pseudo``, ``request``, ``heads``, ``encoding``
    Blocks to the heads that HTTP/1.1 makes too, strictly, and back.
``wired``, ``server``, ``server_stream``, ``client``
    The engine on a transport, and the two halves; ``websocket`` is what their handshakes differ in.
"""
