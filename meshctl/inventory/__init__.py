"""``inventory.yaml``: which hosts, how to reach them, what runs there, who calls whom.

``model`` is what it becomes; ``parse`` makes that from text, or says everything that is wrong.
``fields`` is the table of keys that ``parse`` and ``schema`` (for editors) share, in the terms of
``shape`` and ``words``; ``checks`` and ``ports`` are the rules between values. ``files`` looks
whether named files exist, ``starting`` is what ``init`` writes.
"""
