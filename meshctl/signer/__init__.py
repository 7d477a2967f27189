"""The online signer: what renews identities while the operator sleeps. Runs on control hosts.

It holds an intermediate key that was made where it runs (``keys``) and that the root certified at
deploy. A proxy asks with the certificate that it has, over mutual TLS (``listener``), and gets
another for the same service on the same host, as long as the deploy record gives it that
(``decision``, ``signing``); nothing that the request says changes who it is. ``service`` is the
HTTP around this, ``admin`` what it says of itself, ``state`` the files it lives on and their
reload. Two signers know nothing of each other.

On a host there is this package and the few modules of ``meshctl`` that it imports, nothing else
of the operator's side.
"""
