"""A span of time of the whole mesh as a document: measured, wrong, about to end.

building   a ``View`` of the span, the mesh's status, when certificates end -> a ``Report``
traffic    its sections about calls
condition  its sections about hosts, endpoints and certificates
cells      cells and words that they share
model      the ``Report``: sections, tables, cells
page       the same as HTML or Markdown
"""
