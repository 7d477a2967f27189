"""HTTP/1.1 on the wire: what a request goes through between two sockets that others own.

``fields``, ``head``, ``chunked``
    Bytes to values and back, strictly. Pure.
``exchange``
    One request and its response, between a downstream half and an upstream half; it decides what
    happens when the upstream half fails. Another version of HTTP is another kind of half.
``downstream``, ``upstream``
    The two halves for HTTP/1.1: protocols to a transport, one exchange after the other.
``reply``
    The answers that the proxy gives itself.
``ledger``
    Who is open, and by which coarse clock they time out.
"""
