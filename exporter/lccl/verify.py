"""What has to hold of a model before it is written or built from: onnx's own checks, and the numbers of its views."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx

from lccl.errors import UserError, first_line
from lccl.numerics import Agreement, Array, agreement, not_finite
from lccl.op.contract import DOMAIN, FLT_MAX, INPUT_NAMES, OP_TYPE
from lccl.op.onnx_op import attach_function, is_lccl_node, node_attributes
from lccl.run.base import infer_all
from lccl.run.onnxruntime import OnnxRuntimeRunner
from lccl.weights import skeleton_of

Feed = dict[str, Array]


def check_model(model: onnx.ModelProto) -> None:
    """onnx's full check and strict shape inference, of all but the large weights.

    Raises:
        UserError: the model does not pass.
    """
    skeleton = skeleton_of(model)[0]
    try:
        onnx.checker.check_model(skeleton, full_check=True)
        onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"the model does not pass onnx's check: {first_line(error)}") from error


def check_view(
    model: onnx.ModelProto, view: onnx.ModelProto, feeds: list[dict[str, Array]], tolerance: float | None = None
) -> None:
    """A derived view of the model, of its precision or of a lower one, against the model itself, in ONNX Runtime.

    Raises:
        UserError: they differ.
    """
    allowed = max(default_tolerance(model), default_tolerance(view)) if tolerance is None else tolerance
    with OnnxRuntimeRunner(model) as first, OnnxRuntimeRunner(view) as second:
        for feed in feeds:
            hold(
                infer_all(first, feed),
                infer_all(second, feed),
                allowed,
                has_hard_gates(model),
                "the model in standard ops differs from it",
            )


def check_types(model: onnx.ModelProto, view: onnx.ModelProto) -> None:
    """What can be told of a derived view that no runtime here runs: it passes onnx's check, its outputs keep their types.

    Raises:
        UserError: they do not.
    """
    untyped = onnx.ModelProto()
    untyped.CopyFrom(view)
    for value in untyped.graph.output:
        value.type.Clear()
    try:
        onnx.checker.check_model(view)
        inferred = onnx.shape_inference.infer_shapes(untyped)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"the converted model does not pass onnx's check: {first_line(error)}") from error
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        wanted, element = value.type.tensor_type.elem_type, found.type.tensor_type.elem_type
        if element not in (wanted, onnx.TensorProto.UNDEFINED):
            names = [onnx.TensorProto.DataType.Name(t) for t in (element, wanted)]
            raise UserError(
                f"the converted model's output {value.name} is {names[0]} instead of {names[1]}; nothing was written"
            )


def hold(reference: dict[str, Array], outputs: dict[str, Array], tolerance: float, hard_gates: bool, what: str) -> Agreement:
    """The agreement of two implementations.

    Raises:
        UserError: there is none; ``what`` says whose. Or the reference is not finite: what is as broken would agree.
    """
    broken = not_finite(reference)
    if broken is not None:
        raise UserError(
            f"the source's output {broken} holds NaN or infinity, so that nothing can be held against it: check its weights "
            "and the range of its inputs; nothing was written"
        )
    try:
        result = agreement(reference, outputs, tolerance, hard_gates=hard_gates)
    except ValueError as error:
        raise UserError(f"{what}: {error}; nothing was written") from None
    if not result:
        raise UserError(f"{what} ({result}); nothing was written")
    return result


def has_hard_gates(model: onnx.ModelProto) -> bool:
    """Whether a gate jumps at its edge: a binary one, or one with a threshold."""
    return any(map(is_hard, filter(is_lccl_node, model.graph.node)))


def is_hard(node: onnx.NodeProto) -> bool:
    """Whether the gate of an LCCLConv node jumps at its edge."""
    attributes = node_attributes(node)
    return attributes.gate_slope > 1e3 or attributes.gate_threshold > 0


def with_soft_gates(model: onnx.ModelProto, *, hard_only: bool = False) -> onnx.ModelProto:
    """The model with every gate, or every hard one, a ReLU without bound or threshold, so that none jumps at its edge."""
    soft = onnx.ModelProto()
    soft.CopyFrom(model)
    values = {"gate_slope": 1.0, "gate_max": FLT_MAX, "gate_threshold": 0.0}
    for node in filter(is_lccl_node, soft.graph.node):
        if hard_only and not is_hard(node):
            continue
        kept = [a for a in node.attribute if a.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in values.items())])
    return soft


def with_open_gates(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every gate 1, by the op's own inputs: a zero gate_W, a gate_B of 1 and no external map."""
    opened = with_soft_gates(model)
    one = [onnx.numpy_helper.from_array(np.ones(s, np.float32), f"open.{n}") for n, s in (("map", (1, 1, 1, 1)), ("gate_B", 1))]
    opened.graph.initializer.extend(one)
    nodes = list(opened.graph.node)
    del opened.graph.node[:]
    for i, node in enumerate(nodes):
        if is_lccl_node(node):
            places = {name: INPUT_NAMES.index(name) for name in ("gate_W", "gate_B", "gate")}
            weight = node.input[places["gate_W"]]
            opened.graph.node.append(onnx.helper.make_node("Sub", [weight, weight], [f"open.gate_W.{i}"]))
            opened.graph.node.append(onnx.helper.make_node("CastLike", ["open.map", weight], [f"open.gate.{i}"]))
            node.input[places["gate_W"]], node.input[places["gate"]] = f"open.gate_W.{i}", f"open.gate.{i}"
            node.input[places["gate_B"]] = "open.gate_B"
        opened.graph.node.append(node)
    return opened


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the op's function: itself, not a copy, where it has that or needs none."""
    needs = any(is_lccl_node(n) for n in model.graph.node)
    if not needs or any(f.name == OP_TYPE and f.domain == DOMAIN for f in model.functions):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    attach_function(out)
    return out


def default_tolerance(model: onnx.ModelProto, weights: Container[str] | None = None) -> float:
    """1e-4 for float32; 2e-2 where weights, all or those of these names, are of lower precision."""
    low = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return 2e-2 if {t.data_type for t in model.graph.initializer if weights is None or t.name in weights} & low else 1e-4


def input_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """The model's inputs by name, without the initializers that older exporters list among them."""
    stored = {t.name for t in model.graph.initializer}
    return {v.name: v.type.tensor_type for v in model.graph.input if v.name not in stored}


def random_feed(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 0) -> dict[str, Array]:
    """Standard normal inputs of the given shapes, bool and unsigned ones half set, as masks are; without a shape, a dynamic first dimension is 2 and any other 32."""
    generator = np.random.default_rng(seed)
    feed = {}
    for name, kind in input_types(model).items():
        default = [d.dim_value if d.HasField("dim_value") else 32 if axis else 2 for axis, d in enumerate(kind.shape.dim)]
        dims = (shapes or {}).get(name, default)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        is_float = kind.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        if kind.elem_type == onnx.TensorProto.BOOL:
            feed[name] = np.asarray(generator.random(dims) < 0.5)
        elif dtype.kind == "u":
            feed[name] = np.asarray(generator.integers(0, 2, dims)).astype(dtype)
        else:
            feed[name] = generator.standard_normal(dims).astype(dtype) if is_float else np.zeros(dims, dtype)
    return feed
