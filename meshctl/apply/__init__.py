"""Plan x transports -> report. The only part that changes hosts.

``gather`` reads them, ``run`` carries a plan out, ``steps`` knows how each kind of step is done,
``report`` is what came of it, ``remove`` takes a host out of the mesh again.
"""
