"""Any ONNX model -> the plain form that recognition reads.

It has this project's opset, folded constants, and no functions but the op's.

Everything works on the model's skeleton, in which graph inputs stand for large weights, so that
nothing copies these.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from lccl.console.quiet import quiet
from lccl.files.protos import skeleton_of
from lccl.graph.constants import fold_constants
from lccl.graph.conversion import attach_weights, import_graph, plain_constants, require_numbers, to_model
from lccl.graph.op_sets import FOLDABLE, QUANTIZERS, RANDOM_LIKE
from lccl.graph.opset import to_opset, without_other_functions
from lccl.graph.shape_values import computes_sizes, fold_known_sizes
from lccl.graph.shapes import of_every_size

_ROUNDS = 2
"""Rounds of folding: the second folds what the first made constant."""
_NOT_FOLDED = QUANTIZERS | RANDOM_LIKE
"""Ops of constants that are not folded: stored integers stay as they are, and random values differ
in each run."""


@dataclass(frozen=True)
class Simplified:
    """A model in plain form."""

    graph: gs.Graph
    """The graph, which shares its weights with the given model."""
    skeleton: onnx.ModelProto
    """The same without large weights, for shape inference."""


def simplified(model: onnx.ModelProto) -> Simplified:
    """Return the model in opset 18, with all functions inlined except the op's.

    The given model is not changed.

    Raises:
        UserError: onnx cannot convert the opset, or a constant cannot be carried over.
    """
    require_numbers(model)
    skeleton, weights = skeleton_of(model)
    skeleton = without_other_functions(skeleton)
    skeleton = to_opset(skeleton)
    plain_constants(skeleton)
    skeleton = _with_known_sizes(skeleton)
    if _hides_constants(skeleton.graph):
        skeleton = _with_known_sizes(_optimized(skeleton))
    graph = import_graph(skeleton)
    attach_weights(graph, weights)
    if any(_is_of_weights(node) for node in graph.nodes):
        fold_constants(graph)
    return Simplified(graph, skeleton)


def _is_of_weights(node: gs.Node) -> bool:
    """Return whether the node reads stored tensors only, such as a weight to transpose or scale."""
    return (
        node.op not in _NOT_FOLDED | {"Constant"} and bool(node.inputs) and all(isinstance(t, gs.Constant) for t in node.inputs)
    )


def _hides_constants(graph: onnx.GraphProto) -> bool:
    """Return whether the graph computes constants, or has an op that may hide one."""
    stored = {t.name for t in graph.initializer} | {o for n in graph.node if n.op_type == "Constant" for o in n.output} | {""}
    return any(
        node.op_type in FOLDABLE or (node.op_type not in _NOT_FOLDED and node.input and stored.issuperset(node.input))
        for node in graph.node
    )


def _with_known_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the sizes that it computes and that are known stored; else itself."""
    if not computes_sizes(model.graph):
        return model
    out = _copy(model)
    fold_known_sizes(out, of_every_size(out))
    with contextlib.suppress(onnx.shape_inference.InferenceError, RuntimeError):
        return onnx.shape_inference.infer_shapes(out, data_prop=True)  # outputs whose shape was lost have one now
    return out


def _optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its constants folded, or the model as it is if that fails.

    Calls of the op are left.

    onnxscript goes first, which resolves types and shapes; graphsurgeon then folds what onnxscript
    does not. onnxscript's rewrite rules are left out: one of them writes ``auto_pad`` out without
    looking at dilations.
    """
    import onnxscript.optimizer

    with contextlib.suppress(Exception), quiet():
        result = _copy(model)
        for _ in range(_ROUNDS):
            onnxscript.optimizer.fold_constants(result, onnx_shape_inference=True)
            onnxscript.optimizer.remove_unused_nodes(result)
        _keep(result, list(model.functions))
        plain_constants(result)
        return to_model(fold_constants(import_graph(result)), result)
    return model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    return out


def _keep(model: onnx.ModelProto, functions: list[onnx.FunctionProto]) -> None:
    """Put back the op's function, which an optimizer may drop or rewrite, and its domain."""
    del model.functions[:]
    model.functions.extend(functions)
    present = {o.domain for o in model.opset_import}
    model.opset_import.extend(helper.make_opsetid(f.domain, 1) for f in functions if f.domain not in present)
