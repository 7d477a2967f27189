"""What a host is, read in one round trip: a probe that runs there and a pure parser here.

``request`` makes the command, ``probe`` is the program it runs, ``model`` is what comes back, and
``preflight`` says what of it stands in the way of a deploy.
"""
