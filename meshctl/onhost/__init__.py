"""Programs that run on a host, sent there as text: the standard library and each other, no more.

``ship`` makes the text of them. An operation is one remote command that runs to its end even when
the connection, or meshctl, goes away in the middle: what must not be left half done is never
spread over two commands.
"""
