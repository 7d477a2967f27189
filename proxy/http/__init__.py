"""HTTP/1.1 on the wire: what a request goes through between two sockets that others own.

``fields``, ``head``, ``chunked``
    Bytes to values and back, strictly. Pure.
``exchange``
    One request and its response, between a downstream half and an upstream half. Another version
    of HTTP is another kind of half.
``halves``
    What an exchange sees of the two, and of whoever decides where it goes.
``repetition``
    Whether it gets another try.
``downstream``, ``upstream``
    The two halves for HTTP/1.1: protocols to a transport, one exchange after the other.
``reply``
    The answers that the proxy gives itself.
``ledger``
    Who is open, and by which coarse clock they time out.
"""
