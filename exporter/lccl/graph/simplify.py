"""Any ONNX model -> the plain form that recognition reads.

It has this project's opset, folded constants, and no functions but the op's.

Everything works on the model's skeleton, in which graph inputs stand for large weights, so that
nothing copies these.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_graphsurgeon as gs
from onnx import helper

from lccl.errors import UserError, first_line
from lccl.graph.op_sets import FOLDABLE, QUANTIZERS, RANDOM_LIKE
from lccl.graph.surgery import (
    attach_weights,
    fold_constants,
    import_graph,
    plain_constants,
    require_numbers,
    to_model,
)
from lccl.op.contract import DOMAIN, OP_TYPE
from lccl.op.onnx_op import IR_VERSION, OPSET, is_lccl_node
from lccl.protos import skeleton_of
from lccl.quiet import quiet

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
    if any((f.domain, f.name) != (DOMAIN, OP_TYPE) for f in skeleton.functions):
        skeleton = onnx.inliner.inline_selected_functions(skeleton, [(DOMAIN, OP_TYPE)], exclude=True)
    skeleton = _to_opset(skeleton)
    plain_constants(skeleton)
    if _hides_constants(skeleton.graph):
        skeleton = _optimized(skeleton)
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


def _to_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in opset 18.

    It comes from onnx's converter, or is renumbered if none of its ops has changed since.

    The export compares the result with the given model in ONNX Runtime before anything is written.
    """
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    if version == OPSET:
        return model
    if any(is_lccl_node(n) for n in model.graph.node):
        raise UserError(f"the model is of ONNX opset {version}; export it with opset {OPSET}")
    model.ir_version = max(model.ir_version, 4)
    model = _without_later_ops(model, version)
    try:
        converted = onnx.version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:
        if version < OPSET:
            raise UserError(
                f"the model is of ONNX opset {version}, which onnx cannot convert ({first_line(error)}): "
                f"export it with opset {OPSET}"
            ) from None
        converted = _renumbered(model, version)
    converted.ir_version = IR_VERSION
    return converted


def _without_later_ops(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return a copy in which onnx's own definitions replace the ops that opset 18 does not have.

    The model itself if it has no such op, or if onnx cannot replace them, for example for want of a
    type.
    """
    later = {n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx") and _is_later(n.op_type, version)}
    if not later:
        return model
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    stored = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    typed.graph.value_info.extend(stored)
    with contextlib.suppress(Exception):
        for node in typed.graph.node:
            if node.op_type in later:
                _write_defaults(node, version)
        functions = [("", op) for op in sorted(later)]
        plain = onnx.inliner.inline_selected_functions(typed, functions, inline_schema_functions=True)
        given = [v for v in plain.graph.value_info if v.name not in {t.name for t in stored}]
        del plain.graph.value_info[:]
        plain.graph.value_info.extend(given)
        return plain
    return model


def _is_later(op: str, version: int) -> bool:
    """Return whether opset 18 does not have the op, or has it with another meaning."""
    if op == "GroupNormalization":
        return version >= 21
    try:
        onnx.defs.get_schema(op, OPSET, "")
    except onnx.defs.SchemaError:
        return True
    return False


def _write_defaults(node: onnx.NodeProto, version: int) -> None:
    """Write out default attributes: onnx's inliner drops what is made of those left out."""
    written = {a.name for a in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, version, "").attributes.items():
        if name not in written and attribute.default_value.type:
            node.attribute.append(attribute.default_value)


def _renumbered(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return the model of a later opset as one of opset 18, if onnx's checker accepts it.

    Raises:
        UserError: the checker does not accept one.
    """
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = OPSET
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"the model is of ONNX opset {version} and uses what opset {OPSET} does not have ({first_line(error)}): "
            f"export it with opset {OPSET}"
        ) from None
    return model


def _hides_constants(graph: onnx.GraphProto) -> bool:
    """Return whether the graph computes constants, or has an op that may hide one."""
    stored = {t.name for t in graph.initializer} | {o for n in graph.node if n.op_type == "Constant" for o in n.output} | {""}
    return any(
        node.op_type in FOLDABLE or (node.op_type not in _NOT_FOLDED and node.input and stored.issuperset(node.input))
        for node in graph.node
    )


def _optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its constants folded, or the model as it is if that fails.

    Calls of the op are left.

    onnxscript goes first, which resolves types and shapes; graphsurgeon then folds what onnxscript
    does not. onnxscript's rewrite rules are left out: one of them writes ``auto_pad`` out without
    looking at dilations.
    """
    import onnxscript.optimizer

    with contextlib.suppress(Exception), quiet():
        result = onnx.ModelProto()
        result.CopyFrom(model)
        for _ in range(_ROUNDS):
            onnxscript.optimizer.fold_constants(result, onnx_shape_inference=True)
            onnxscript.optimizer.remove_unused_nodes(result)
        _keep(result, list(model.functions))
        plain_constants(result)
        return to_model(fold_constants(import_graph(result)), result)
    return model


def _keep(model: onnx.ModelProto, functions: list[onnx.FunctionProto]) -> None:
    """Put back the op's function, which an optimizer may drop or rewrite, and its domain."""
    del model.functions[:]
    model.functions.extend(functions)
    present = {o.domain for o in model.opset_import}
    model.opset_import.extend(helper.make_opsetid(f.domain, 1) for f in functions if f.domain not in present)
