"""Rewrites of one node: other tensors in the place of its output."""

from __future__ import annotations

from collections.abc import Callable, Container

import onnx_graphsurgeon as gs

from lccl.graph.nodes import producer

Rule = Callable[[gs.Node], gs.Tensor | None]
"""A rewrite of one node: gives the tensor that replaces its only output, or None if the rule does
not apply."""


def replace_output(graph: gs.Graph, node: gs.Node, tensor: gs.Tensor) -> None:
    """Let every reader of the node's output read ``tensor`` instead.

    Names of the graph's outputs stay.
    """
    old = node.outputs[0]
    for reader in list(old.outputs):
        reader.inputs = [tensor if t is old else t for t in reader.inputs]
    if any(t is old for t in graph.outputs):
        source = producer(tensor)
        node.outputs.clear()
        if source is not None and not any(t is tensor for t in graph.outputs):
            for reader in list(tensor.outputs):
                reader.inputs = [old if t is tensor else t for t in reader.inputs]
            source.outputs = [old if t is tensor else t for t in source.outputs]
        else:
            graph.nodes.append(gs.Node("Identity", f"{node.name}_identity", inputs=[tensor], outputs=[old]))
    else:
        node.outputs.clear()


def apply_rules(graph: gs.Graph, rules: tuple[Rule, ...], names: Container[str]) -> int:
    """Apply each rule once to each node of these names, and return the number of rewrites."""
    made = 0
    for node in [n for n in graph.nodes if n.name in names]:
        for rule in rules:
            if len(node.outputs) != 1:
                break
            tensor = rule(node)
            if tensor is not None:
                replace_output(graph, node, tensor)
                made += 1
    graph.cleanup(remove_unused_graph_inputs=False)
    return made
