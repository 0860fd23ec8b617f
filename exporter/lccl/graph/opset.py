"""Models of other ONNX opsets in this project's, by onnx's own converter."""

from __future__ import annotations

import contextlib

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import helper

from lccl.errors import UserError, first_line
from lccl.files.protos import skeleton_of
from lccl.graph.intake import STANDARD
from lccl.op.contract import DOMAIN, OP_TYPE
from lccl.op.onnx_op import IR_VERSION, OPSET, register_schema


def in_own_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in opset 18, with all functions inlined except the op's.

    It is the model itself if that is of opset 18. Large weights are not copied by the converter.

    Raises:
        UserError: onnx cannot convert the opset.
    """
    if _version(model) == OPSET:
        return model
    skeleton, weights = skeleton_of(model)
    out = to_opset(without_other_functions(skeleton))
    inputs = [value for value in out.graph.input if value.name not in weights]
    del out.graph.input[:]
    out.graph.input.extend(inputs)
    out.graph.initializer.extend(weights.values())
    return out


def without_other_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with all functions inlined except the op's."""
    if all((f.domain, f.name) == (DOMAIN, OP_TYPE) for f in model.functions):
        return model
    return onnx.inliner.inline_selected_functions(model, [(DOMAIN, OP_TYPE)], exclude=True)


def _version(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in STANDARD), OPSET)


def to_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in opset 18.

    It comes from onnx's converter, or is renumbered if none of its ops has changed since. The given
    model may be changed.

    The export compares the result with the given model in ONNX Runtime before anything is written.
    """
    version = _version(model)
    if version == OPSET:
        return model
    model.ir_version = max(model.ir_version, 4)
    functions = list(model.functions)
    del model.functions[:]  # which the inliner refuses beside another opset, and the converter drops
    register_schema()
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
    converted.functions.extend(functions)
    converted.ir_version = IR_VERSION
    return converted


def _without_later_ops(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return a copy in which onnx's own definitions replace the ops that opset 18 does not have.

    The model itself if it has no such op, or if onnx cannot replace them, for example for want of a
    type.
    """
    later = {n.op_type for n in model.graph.node if n.domain in STANDARD and _is_later(n.op_type, version)}
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
        typed = onnx.shape_inference.infer_shapes(typed)
        functions = [("", op) for op in sorted(later)]
        plain = onnx.inliner.inline_selected_functions(typed, functions, inline_schema_functions=True)
        own = {v.name for v in model.graph.value_info}
        given = [v for v in plain.graph.value_info if v.name in own]
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
        if opset.domain in STANDARD:
            opset.version = OPSET
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"the model is of ONNX opset {version} and uses what opset {OPSET} does not have ({first_line(error)}): "
            f"export it with opset {OPSET}"
        ) from None
    return model
