"""The operator's side of the mesh: nothing of it runs on the path of a request.

Pure parts (text and values in, values out): ``inventory``, ``facts``, ``plan``, ``artifacts``,
``pki.authority``, ``policy``. Edges (they own sockets, files, processes): ``apply``,
``transport``, ``bundle``, ``pki.store``, ``registry``. ``cli`` is thin and may use both.
"""

from proxy import __version__

__all__ = ["__version__"]
