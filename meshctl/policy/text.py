"""Where things stand in the text of ``mesh.yaml``, so that a finding names a line."""

import re
from collections.abc import Iterator

from meshctl.yamltree import MappingNode, Node, SequenceNode, join
from proxy.core.soundness import Finding
from proxy.model.violation import Violation

_ITEM = re.compile(r"(services\.[^.\[]+\.[a-z_]+\[[0-9]+\])(.*)", re.DOTALL)


class Text:
    """The places that the text has, by path."""

    def __init__(self, root: Node) -> None:
        self._lines = dict(_walk(root, ""))
        self._lines.setdefault("", root.line)
        self.renumbered: dict[str, str] = {}
        """Items of lists, by their path in the policy; they stand elsewhere in the text if items
        before them could not be read."""

    def has(self, path: str) -> bool:
        """Whether something was written there."""
        return self._in_text(path) in self._lines

    def line(self, path: str) -> int | None:
        """Where it was written; None: it was not."""
        return self._lines.get(self._in_text(path))

    def violation(self, finding: Finding) -> Violation:
        """At the first of the finding's places that was written; else at what it is part of."""
        paths = [self._in_text(path) for path in finding.paths]
        path = next((path for path in paths if path in self._lines), paths[0])
        while path not in self._lines:  # a short form, or a value that was left out
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return Violation(
            path=path or "(file)",
            message=finding.message,
            hint=finding.hint,
            line=self._lines[path],
        )

    def _in_text(self, path: str) -> str:
        match = _ITEM.fullmatch(path)
        if match is not None:
            path = self.renumbered.get(match[1], match[1]) + match[2]
        head, bracket, tail = path.rpartition("[0]")
        if bracket and head + bracket not in self._lines:  # one item, written without its list
            return head + tail
        return path


def _walk(node: Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, MappingNode):
        for key, child in node.items:
            here = join(path, key.text)
            yield (
                here,
                child.line if not isinstance(child, MappingNode | SequenceNode) else key.line,
            )
            yield from _walk(child, here)
    elif isinstance(node, SequenceNode):
        for number, child in enumerate(node.items):
            here = join(path, number)
            yield here, child.line
            yield from _walk(child, here)
