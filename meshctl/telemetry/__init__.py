"""What the proxies tell, put together: collection over SSH, rates, the graph of calls.

collect   hosts -> their ``Stats``, again and again
rates     two ``Stats`` of each host -> a ``View``
view      the ``View``: what ``top``, ``edges``, the dashboard and the report show
"""
