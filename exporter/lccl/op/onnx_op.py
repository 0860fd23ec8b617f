"""``lccl::LCCLConv`` in ONNX: its node, and its schema with shape inference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto, TypeProto, helper
from onnx.defs import OpSchema

from lccl.errors import ContractError
from lccl.op.contract import (
    ATTRIBUTES,
    DOMAIN,
    INPUT_NAMES,
    INPUTS,
    OP_TYPE,
    OUTPUT_NAME,
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

KINDS = {
    "int": AttributeProto.INT,
    "ints": AttributeProto.INTS,
    "float": AttributeProto.FLOAT,
    "floats": AttributeProto.FLOATS,
    "string": AttributeProto.STRING,
}
"""The kinds of attributes in the contract, in ONNX."""


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
    return helper.make_attribute(spec.name, list(value) if isinstance(value, tuple) else value, attr_type=KINDS[spec.kind])


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
