"""The mesh's certificate authority: who is who.

``authority`` decides (request, deploy record, now -> certificate; pure), ``store`` keeps the CA's
files and the record of what was issued, ``keyfile`` and ``passphrase`` protect the keys at rest,
``record`` says which identities each host may have.

Two levels: the root, which hosts trust, and an issuing CA under it, which signs leaves. So the
root key is needed once a year, can move offline, and an online signer can later be given an
issuing CA of its own by the same ``authority.create_issuing`` without touching a host.
"""
