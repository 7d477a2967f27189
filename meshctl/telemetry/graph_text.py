"""A graph of calls as a tree to read, and in the DOT language for graphviz."""

from collections.abc import Iterator, Mapping

from meshctl.telemetry import words
from meshctl.telemetry.graph import Graph, Link, Node
from meshctl.telemetry.plain import plain

_FANCY = ("├─ ", "└─ ", "│  ", "   ")
_ASCII = ("|- ", "`- ", "|  ", "   ")


def tree(graph: Graph, *, ascii_only: bool = False) -> str:
    """From each service that nobody calls, or else of each circle from its first by name. What a
    service calls is told once; ``...`` stands for it after that.
    """
    signs = _ASCII if ascii_only else _FANCY
    nodes = {node.service: node for node in graph.nodes}
    links: dict[str, list[Link]] = {}
    for link in graph.links:
        links.setdefault(link.caller, []).append(link)
    called = graph.callers()
    told: set[str] = set()
    lines: list[str] = []
    roots = sorted(nodes, key=lambda name: (bool(called.get(name)), name))
    for root in roots:
        if root in told or (called.get(root) and not links.get(root)):
            continue
        lines.append(_name(nodes, root, ""))
        told.add(root)
        lines += _below(root, nodes, links, told, signs)
    return "\n".join(lines) + "\n" if lines else ""


def _below(
    start: str,
    nodes: Mapping[str, Node],
    links: Mapping[str, list[Link]],
    told: set[str],
    signs: tuple[str, str, str, str],
) -> Iterator[str]:
    fork, last, through, past = signs
    stack = [("", iter(links.get(start, ())), len(links.get(start, ())))]
    while stack:
        indent, rest, left = stack.pop()
        link = next(rest, None)
        if link is None:
            continue
        stack.append((indent, rest, left - 1))
        below = links.get(link.service, [])
        is_known = link.service in told and bool(below)
        name = _name(nodes, link.service, link.protocol)
        yield (
            f"{indent}{last if left == 1 else fork}{name}{_said(link)}{'  ...' if is_known else ''}"
        )
        if not is_known:
            told.add(link.service)
            stack.append((indent + (past if left == 1 else through), iter(below), len(below)))


def _name(nodes: Mapping[str, Node], service: str, protocol: str) -> str:
    node = nodes.get(service)
    note = f" ({node.note})" if node is not None and node.note else ""
    said = words.protocol(protocol or (node.protocol if node is not None else ""))
    return f"{plain(service, 100)}{f' [{said}]' if said else ''}{note}"


def _said(link: Link) -> str:
    if link.edge is None:
        return ""
    parts = [*words.traffic(link.edge), words.SECURITY[link.edge.security]]
    if words.is_failing(link.edge):
        parts.append("FAILING")
    if link.edge.denied:
        parts.append(f"{link.edge.denied} DENIED")
    return "  " + "  ".join(parts)


def dot(graph: Graph) -> str:
    """Plaintext and what is not known to be secured is dashed; what fails is bold."""
    lines = [
        "digraph mesh {",
        "  rankdir=LR;",
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=10];',
    ]
    for node in graph.nodes:
        label = [node.service, words.protocol(node.protocol), node.note]
        lines.append(f"  {_quoted(node.service)} [label={_quoted(*filter(None, label))}];")
    for link in graph.links:
        lines.append(
            f"  {_quoted(link.caller)} -> {_quoted(link.service)} [{', '.join(_attributes(link))}];"
        )
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(link: Link) -> list[str]:
    if link.edge is None:
        return [f"label={_quoted(link.protocol)}"]
    edge = link.edge
    said = [" ".join(words.traffic(edge)), words.SECURITY[edge.security]]
    made = [f"label={_quoted(*said)}"]
    styles = []
    if edge.security != "mutual_tls":
        styles.append("dashed")
    if words.is_failing(edge):
        styles.append("bold")
    return [*made, f"style={_quoted(','.join(styles))}"] if styles else made


def _quoted(*lines: str) -> str:
    r"""A string of DOT; lines are parted by ``\n``, its own escape."""
    escaped = [plain(line, 200).replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'
