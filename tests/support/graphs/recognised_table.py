"""The table of exporter/README.md: what recognition makes of every named graph.

``python tests/support/graphs/recognised_table.py`` writes it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lccl.console.text import count
from lccl.graph.layers import describe_layers
from lccl.graph.recognise import recognise
from lccl.op.onnx_op import register_schema
from support.graphs.recognised import GRAPHS, Graph

DOCUMENT = Path(__file__).resolve().parents[3] / "exporter" / "README.md"
HEAD = "| family | form | becomes | |\n|---|---|---|---|\n"


def row(graph: Graph) -> str:
    """One graph, recognised now."""
    found = recognise(graph.model())
    gates = [f"gate {layer.gate}" for layer in describe_layers(found.model) if layer.gated]
    fused = sum(len(layer.fused) for layer in found.layers)
    reasons = "; ".join(re.sub(r" node_\w+", "", miss.reason) for miss in found.near_misses)
    if not gates:
        return f"| {graph.family} | {graph.form} | refused | {reasons or 'no product of two branches'} |"
    becomes = ", ".join(dict.fromkeys(f"{gates.count(g)} x {g}" if gates.count(g) > 1 else g for g in gates))
    more = f"{count(fused, 'op')} behind fused" if fused else ""
    return f"| {graph.family} | {graph.form} | {becomes} | {more} |"


def table() -> str:
    """All graphs."""
    register_schema()
    return HEAD + "".join(f"{row(graph)}\n" for graph in GRAPHS)


def written() -> str:
    """The table as the document has it."""
    text = DOCUMENT.read_text()
    start = text.index(HEAD)
    end = text.find("\n\n", start)
    return text[start : end + 1 if end >= 0 else len(text)]


if __name__ == "__main__":
    DOCUMENT.write_text(DOCUMENT.read_text().replace(written(), table()))
