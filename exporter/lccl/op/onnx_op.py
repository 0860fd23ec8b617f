"""``lccl::LCCLConv`` in ONNX: its node, its schema with shape inference, and its function body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.defs import OpSchema

from lccl.errors import ContractError
from lccl.op.contract import (
    ATTRIBUTES,
    DOMAIN,
    INPUT_NAMES,
    INPUTS,
    OP_TYPE,
    OUTPUT_NAME,
    QUALIFIED_NAME,
    TENSOR_TYPES,
    VERSION,
    Attributes,
    AttributeSpec,
    conv_size,
    output_shape,
)

OPSET = 18
"""The standard ops' opset in the function and in exported files: the lowest that torch's exporter
emits."""
IR_VERSION = 10

_KINDS = {
    "int": AttributeProto.INT,
    "ints": AttributeProto.INTS,
    "float": AttributeProto.FLOAT,
    "floats": AttributeProto.FLOATS,
    "string": AttributeProto.STRING,
}


def is_lccl_node(node: NodeProto) -> bool:
    """Return whether the node is an LCCLConv of the contract's domain."""
    return bool(node.op_type == OP_TYPE and node.domain == DOMAIN)


def node_attributes(node: NodeProto) -> Attributes:
    """Read the attributes of an LCCLConv node.

    Raises:
        ContractError: an attribute that version 1 does not know or allow.
    """
    return Attributes.from_mapping({a.name: helper.get_attribute_value(a) for a in node.attribute})


def attribute_protos(attributes: Attributes) -> list[AttributeProto]:
    """Write out every attribute, because onnx's inliner loses one that is left to its default."""
    return [_attribute_proto(spec, getattr(attributes, spec.name)) for spec in ATTRIBUTES]


def make_node(inputs: Iterable[str], outputs: Iterable[str], attributes: Attributes, name: str = "") -> NodeProto:
    """Make an LCCLConv node with all nine inputs and every attribute.

    Raises:
        ValueError: the number of inputs is not nine.
    """
    node = helper.make_node(OP_TYPE, list(inputs), list(outputs), name=name, domain=DOMAIN)
    if len(node.input) != len(INPUTS):
        raise ValueError(f"{OP_TYPE} takes all {len(INPUTS)} inputs, not {len(node.input)}")
    node.attribute.extend(attribute_protos(attributes))
    return node


def _attribute_proto(spec: AttributeSpec, value: Any) -> AttributeProto:
    return helper.make_attribute(spec.name, list(value) if isinstance(value, tuple) else value, attr_type=_KINDS[spec.kind])


# ---- schema --------------------------------------------------------------------------------------


def register_schema() -> OpSchema:
    """Register the op with onnx, once per process, and return its schema.

    ``onnx.checker`` and ``onnx.shape_inference`` then know the op with or without its function
    body.
    """
    if onnx.defs.has(OP_TYPE, domain=DOMAIN):
        return onnx.defs.get_schema(OP_TYPE, VERSION, DOMAIN)
    schema = OpSchema(
        OP_TYPE,
        DOMAIN,
        VERSION,
        doc=__doc__ or "",
        inputs=[
            OpSchema.FormalParameter(i.name, "T" if i.is_tensor_type else "tensor(float)", description=i.dims) for i in INPUTS
        ],
        outputs=[OpSchema.FormalParameter(OUTPUT_NAME, "T", description="[N, K, Ho, Wo]")],
        type_constraints=[("T", list(TENSOR_TYPES), "type of the feature maps; sums and gates are float32")],
        attributes=[OpSchema.Attribute(spec.name, _attribute_proto(spec, spec.default)) for spec in ATTRIBUTES],
    )
    schema.set_type_and_shape_inference_function(_infer)
    onnx.defs.register_schema(schema)
    return schema


def _infer(context: Any) -> None:
    """Infer the type and shape of one node's output.

    Dimensions that symbolic ones decide stay unknown.
    """
    types = [context.get_input_type(i) for i in range(context.get_num_inputs())]
    if types[0] is None:
        return
    out = TypeProto()
    out.tensor_type.elem_type = types[0].tensor_type.elem_type
    shapes = [_dims(t) for t in types]
    attributes = Attributes.from_mapping(
        {spec.name: _value(context.get_attribute(spec.name)) for spec in ATTRIBUTES if context.get_attribute(spec.name)}
    )
    if all(shape is not None and all(isinstance(d, int) for d in shape) for shape in shapes):
        known = dict(zip(INPUT_NAMES, shapes, strict=True))
        try:
            dims: list[int | str | None] = list(output_shape(known, attributes))  # type: ignore[arg-type]
        except ContractError as error:
            raise onnx.shape_inference.InferenceError(error.message) from None
    else:
        dims = _symbolic_output(shapes[0], shapes[1], attributes)
    for dim in dims:
        proto = out.tensor_type.shape.dim.add()
        if isinstance(dim, int):
            proto.dim_value = dim
        elif isinstance(dim, str):
            proto.dim_param = dim
    context.set_output_type(0, out)


def _symbolic_output(x: list[Any] | None, w: list[Any] | None, a: Attributes) -> list[int | str | None]:
    dims: list[int | str | None] = [None] * 4
    if x is not None:
        dims[0] = x[0]
    if w is not None:
        dims[1] = w[0]
    for axis in (0, 1):
        size = x[2 + axis] if x is not None else None
        kernel = w[1 + axis] if w is not None else None
        if isinstance(size, int) and isinstance(kernel, int):
            pads = (a.pads[axis], a.pads[axis + 2])
            dims[2 + axis] = conv_size(size, kernel, a.strides[axis], *pads, a.dilations[axis])
    return dims


def _dims(proto: TypeProto | None) -> list[Any] | None:
    """Return each dimension as int, name or None; None in all where the rank is unknown."""
    if proto is None or not proto.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in proto.tensor_type.shape.dim]


def _value(attribute: AttributeProto) -> Any:
    return helper.get_attribute_value(attribute)


# ---- function body -------------------------------------------------------------------------------


def make_function() -> FunctionProto:
    """Make the function body: the op in standard ops, once in every exported file."""
    body = [*_gate_nodes(), *_conv_nodes(), *_product_nodes(), *_post_nodes()]
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
    kinds = {spec.name: _KINDS[spec.kind] for spec in ATTRIBUTES}
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


def _conv_nodes() -> list[NodeProto]:
    return [
        _node("Transpose", ["W"], ["w_kcrs"], perm=[0, 3, 1, 2]),
        _node("CastLike", ["B", "X"], ["bias"]),
        _conv(["X", "w_kcrs", "bias"], "conv"),
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


def _post_nodes() -> list[NodeProto]:
    return [
        _constant("per_channel", np.array([1, -1, 1, 1])),
        _node("Reshape", ["post_scale", "per_channel"], ["post_scale_4d"]),
        _node("CastLike", ["post_scale_4d", "X"], ["post_scale_t"]),
        _node("Reshape", ["post_bias", "per_channel"], ["post_bias_4d"]),
        _node("CastLike", ["post_bias_4d", "X"], ["post_bias_t"]),
        _node("Mul", ["v", "post_scale_t"], ["v_scaled"]),
        _node("Add", ["v_scaled", "post_bias_t"], ["v_shifted"]),
        _node("Add", ["v_shifted", "residual"], ["v_added"]),
        _node("LeakyRelu", ["v_added"], [OUTPUT_NAME], {"alpha": "post_alpha"}),
    ]
