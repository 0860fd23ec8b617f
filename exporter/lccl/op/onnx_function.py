"""The function body of ``lccl::LCCLConv``: the op in standard ops, and its search in a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from lccl.op.contract import (
    ATTRIBUTES,
    DOMAIN,
    INPUT_NAMES,
    INPUTS,
    OP_TYPE,
    OUTPUT_NAME,
    QUALIFIED_NAME,
    VERSION,
    Attributes,
)
from lccl.op.onnx_op import KINDS, OPSET, attribute_protos


def make_function() -> FunctionProto:
    """Make the function body: the op in standard ops, once in every exported file."""
    body = [*_gate_nodes(), *_conv_nodes("X"), *_product_nodes(), *_post_nodes("X", "v", "residual", OUTPUT_NAME)]
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        list(INPUT_NAMES),
        [OUTPUT_NAME],
        body,
        [helper.make_opsetid("", OPSET)],
        attribute_protos=attribute_protos(Attributes()),
        doc_string=f"{QUALIFIED_NAME} version {VERSION} in standard ops",
    )


def attach_function(model: onnx.ModelProto) -> None:
    """Add the function body and the domain's import to a model, in place of earlier ones."""
    kept = [f for f in model.functions if not (f.name == OP_TYPE and f.domain == DOMAIN)]
    del model.functions[:]
    model.functions.extend([*kept, make_function()])
    if DOMAIN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))


def is_op_function(function: FunctionProto) -> bool:
    """Return whether a model-local function is the op, whatever its name and domain are now.

    Tools rename functions: ``onnx.compose.add_prefix`` does. A function is the op if its body is
    the op's, or if it is of the contract's domain and its name still ends as the op's.
    """
    if function.domain == DOMAIN and function.name.endswith(OP_TYPE):
        return len(function.input) == len(INPUTS)
    return _spelling(function) == _spelling(make_function())


def _spelling(function: FunctionProto) -> list[object]:
    """Return what a function computes, without the names of its values, nodes and tensors."""
    numbers: dict[str, int] = {"": -1}
    for name in function.input:
        numbers.setdefault(name, len(numbers))
    nodes: list[object] = []
    for node in function.node:
        values = [numbers.setdefault(name, len(numbers)) for name in (*node.input, *node.output)]
        domain = "" if node.domain == "ai.onnx" else node.domain
        attributes = sorted(map(_attribute_spelling, node.attribute))
        nodes.append((domain, node.op_type, len(node.input), values, attributes))
    return [len(function.input), nodes, [numbers.get(name) for name in function.output]]


def _attribute_spelling(attribute: AttributeProto) -> bytes:
    plain = AttributeProto()
    plain.CopyFrom(attribute)
    plain.doc_string = ""
    if plain.HasField("t"):
        plain.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t)))
    return bytes(plain.SerializeToString(deterministic=True))


def _node(op: str, inputs: list[str], outputs: list[str], refs: Mapping[str, str] | None = None, **attrs: Any) -> NodeProto:
    """Make a standard node.

    ``refs`` maps its attributes to the function's attributes that give their values.
    """
    node = helper.make_node(op, inputs, outputs, **attrs)
    kinds = {spec.name: KINDS[spec.kind] for spec in ATTRIBUTES}
    for name, source in (refs or {}).items():
        node.attribute.append(AttributeProto(name=name, ref_attr_name=source, type=kinds[source]))
    return node


def _constant(name: str, value: Any) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def _conv(inputs: list[str], output: str, prefix: str = "") -> NodeProto:
    return _node("Conv", inputs, [output], {n: prefix + n for n in ("strides", "pads", "dilations")})


def _gate_nodes() -> list[NodeProto]:
    """Compute the gate map in float32, whatever T is, from X, gate_W, gate_B and gate."""
    return [
        _node("Transpose", ["gate_W"], ["gate_w_kcrs"], perm=[0, 3, 1, 2]),
        _node("Cast", ["gate_w_kcrs"], ["gate_w_f32"], to=TensorProto.FLOAT),
        _node("Cast", ["X"], ["x_f32"], to=TensorProto.FLOAT),
        _conv(["x_f32", "gate_w_f32", "gate_B"], "logit", "gate_"),
        _node("Constant", [], ["slope"], {"value_float": "gate_slope"}),
        _node("Mul", ["logit", "slope"], ["logit_scaled"]),
        _node("Relu", ["logit_scaled"], ["logit_positive"]),
        _node("Constant", [], ["bound"], {"value_float": "gate_max"}),
        _node("Min", ["logit_positive", "bound"], ["gate_fused"]),
        _node("Cast", ["gate"], ["gate_f32"], to=TensorProto.FLOAT),
        _node("Mul", ["gate_fused", "gate_f32"], ["gate_product"]),
        _node("ThresholdedRelu", ["gate_product"], ["gate_map"], {"alpha": "gate_threshold"}),
        _node("Constant", [], ["scales"], {"value_floats": "gate_upsample"}),
        _node(
            "Resize",
            ["gate_map", "", "scales"],
            ["gate_blocks"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]


def dense_nodes(x: str, residual: str, y: str) -> list[NodeProto]:
    """Compute the op where every gate is 1, from its inputs but for those of the gate.

    Args:
        x, residual: names of the tensors, [N, C, H, W] and [N, K, Ho, Wo].
        y: the name of the result.
    """
    return [*_conv_nodes(x), *_post_nodes(x, "u", residual, y)]


def _conv_nodes(x: str) -> list[NodeProto]:
    return [
        _node("Transpose", ["W"], ["w_kcrs"], perm=[0, 3, 1, 2]),
        _node("CastLike", ["B", x], ["bias"]),
        _conv([x, "w_kcrs", "bias"], "conv"),
        _node("LeakyRelu", ["conv"], ["u"], {"alpha": "activation_alpha"}),
    ]


def _product_nodes() -> list[NodeProto]:
    """Compute v = u * g where g > 0, else 0.

    The last blocks of a grid gate are clipped to the output.
    """
    return [
        _node("Shape", ["u"], ["out_hw"], start=2),
        _constant("origin", np.zeros(2, np.int64)),
        _constant("hw_axes", np.array([2, 3])),
        _node("Slice", ["gate_blocks", "origin", "out_hw", "hw_axes"], ["g"]),
        _constant("zero", np.zeros((), np.float32)),
        _node("Greater", ["g", "zero"], ["active"]),
        _node("CastLike", ["g", "X"], ["g_t"]),
        _node("CastLike", ["zero", "X"], ["zero_t"]),
        _node("Mul", ["u", "g_t"], ["u_gated"]),
        _node("Where", ["active", "u_gated", "zero_t"], ["v"]),
    ]


def _post_nodes(x: str, v: str, residual: str, y: str) -> list[NodeProto]:
    return [
        _constant("per_channel", np.array([1, -1, 1, 1])),
        _node("Reshape", ["post_scale", "per_channel"], ["post_scale_4d"]),
        _node("CastLike", ["post_scale_4d", x], ["post_scale_t"]),
        _node("Reshape", ["post_bias", "per_channel"], ["post_bias_4d"]),
        _node("CastLike", ["post_bias_4d", x], ["post_bias_t"]),
        _node("Mul", [v, "post_scale_t"], ["v_scaled"]),
        _node("Add", ["v_scaled", "post_bias_t"], ["v_shifted"]),
        _node("Add", ["v_shifted", residual], ["v_added"]),
        _node("LeakyRelu", ["v_added"], [y], {"alpha": "post_alpha"}),
    ]
