"""The benchmark: this project's proxy and its peers doing the same work side by side.

What is set up, all on loopback::

    wrk ──plain──> client sidecar ══mTLS══> server sidecar ──plain──> nginx
    └ load core ┘  └──────────── proxy core ─────────────┘            └ load core ┘

Who does what: ``needs`` installs, ``identities`` makes the certificates, ``policies`` the policies,
``backend`` and ``contestants`` write configurations, ``processes`` starts, pins, reads and stops,
``probe`` asks whether the work is really done, ``load`` drives wrk, ``connections`` holds
connections open, ``turn`` is one contestant's go in one round, ``rounds`` puts the goes in their
order, ``multiplexed`` is the same for HTTP/2, gRPC and WebSocket, with ``h2load``, with streams of
its own (``wire``, ``streams``, ``streaming_app``, ``streaming_load``) and ``websockets``,
``scale`` publishes large policies through ``registry``, ``observability`` switches on and off what
is told of requests (``sink`` takes it, ``viewing`` looks at it), ``figures`` turns samples into
medians and ratios, ``targets`` judges them, ``rows``, ``tables``, ``report`` and ``chart`` write
them down, ``profile`` looks inside ours, ``asked`` and ``command`` are the command line.

Why rounds: on a shared or virtual machine absolute figures drift by a factor of two within
minutes. Each round lets everybody have a go under nearly the same conditions, in an order that
rotates, and a ratio is formed within a round before any averaging.
"""
