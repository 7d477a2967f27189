"""``mesh.yaml``: the mesh's traffic policy as its operator writes it.

``parser`` turns its text into a ``proxy.model.policy.Policy`` or into every violation at once.
``service`` and what it is made of (``calling``, ``routing``, ``matching``) are the tables of
keys, in the terms of ``section`` and ``pieces``; ``schema`` (for editors), ``reference`` (the
page in docs) and ``diff`` follow from them. ``surroundings`` holds the policy against the
inventory; ``starting`` is the file that ``init`` writes.
"""

from meshctl.policy.parser import parse
from meshctl.policy.schema import mesh_schema
from meshctl.policy.starting import starting_mesh_yaml

__all__ = ["mesh_schema", "parse", "starting_mesh_yaml"]
