"""What the proxies tell, put together: collection over SSH, rates, the graph of calls.

collect   hosts -> their ``Stats``, again and again
rates     two ``Stats`` of each host -> a ``View``; by ``difference``, ``counting``, ``edges``,
          ``endpoints``
view      the ``View``: what ``top``, ``edges``, the dashboard and the report show
graph     who calls whom, from a ``View`` or an inventory; ``layout`` gives it places, and it is
          drawn by ``graph_text`` and ``graph_svg``
tapping   single calls as they end
logs      log lines of all hosts; ``lines`` reads and orders them, ``where`` picks
report/   a span of time as a document
words     figures in words; ``plain`` makes text of hosts fit for a terminal
tasks     the tasks that follow hosts
"""
