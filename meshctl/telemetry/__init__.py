"""What the proxies tell, put together: collection over SSH, rates, the graph of calls.

collect   hosts -> their ``Stats``, again and again
rates     two ``Stats`` of each host -> a ``View``
view      the ``View``: what ``top``, ``edges``, the dashboard and the report show
graph     who calls whom, from a ``View`` or an inventory; drawn as text, DOT or SVG
words     figures in words
"""
