"""BatchNormalization behind a convolution -> into its weights.

torch's exporter does this itself; other exporters may not.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.constants import constant, value_of
from lccl.graph.nodes import producer
from lccl.graph.rewriting import replace_output


def fold_batch_norms(graph: gs.Graph) -> int:
    """Fold each BatchNormalization that alone reads a Conv; return how many were folded."""
    folded = 0
    for norm in [n for n in graph.nodes if n.op == "BatchNormalization"]:
        conv = _foldable(graph, norm)
        if conv is not None:
            _fold(conv, norm)
            replace_output(graph, norm, conv.outputs[0])
            folded += 1
    graph.cleanup(remove_unused_graph_inputs=False)
    return folded


def _foldable(graph: gs.Graph, norm: gs.Node) -> gs.Node | None:
    """Return the convolution that the BatchNormalization can be folded into, or None."""
    conv = producer(norm.inputs[0])
    if conv is None or conv.op != "Conv" or len(conv.outputs[0].outputs) != 1 or len(norm.outputs) != 1:
        return None
    if any(t is conv.outputs[0] for t in graph.outputs):
        return None
    constants = [*norm.inputs[1:5], *conv.inputs[1:]]
    return conv if all(value_of(t) is not None for t in constants) else None


def _fold(conv: gs.Node, norm: gs.Node) -> None:
    scale, bias, mean, var = (np.asarray(value_of(t), np.float64) for t in norm.inputs[1:5])
    factor = scale / np.sqrt(var + norm.attrs.get("epsilon", 1e-5))
    stored = value_of(conv.inputs[1])
    assert stored is not None
    weight = stored.astype(np.float64) * factor.reshape(-1, *[1] * (stored.ndim - 1))
    own = value_of(conv.inputs[2]) if len(conv.inputs) > 2 else None
    shift = bias - mean * factor + (0 if own is None else own.astype(np.float64) * factor)
    conv.inputs = [
        conv.inputs[0],
        constant(f"{norm.outputs[0].name}.folded_weight", weight, stored.dtype),
        constant(f"{norm.outputs[0].name}.folded_bias", shift, stored.dtype),
    ]
