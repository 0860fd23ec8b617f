"""What has to hold of a model before it is written or built from: onnx's own checks, and the numbers of its views."""

from __future__ import annotations

import numpy as np
import onnx

from lccl.errors import UserError, first_line
from lccl.numerics import Agreement, Array, agreement
from lccl.op.contract import FLT_MAX
from lccl.op.onnx_op import is_lccl_node, node_attributes
from lccl.run.onnxruntime import OnnxRuntimeRunner


def check_model(model: onnx.ModelProto) -> None:
    """onnx's full check and strict shape inference.

    Raises:
        UserError: the model does not pass.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"the model does not pass onnx's check: {first_line(error)}") from error


def check_view(
    model: onnx.ModelProto, view: onnx.ModelProto, feeds: list[dict[str, Array]], tolerance: float | None = None
) -> None:
    """A derived view of the model against the model itself, in ONNX Runtime.

    Raises:
        UserError: they differ.
    """
    allowed = default_tolerance(model) if tolerance is None else tolerance
    with OnnxRuntimeRunner(model) as first, OnnxRuntimeRunner(view) as second:
        for feed in feeds:
            hold(
                first.infer(feed),
                second.infer(feed),
                allowed,
                has_hard_gates(model),
                "the model in standard ops differs from it",
            )


def hold(reference: dict[str, Array], outputs: dict[str, Array], tolerance: float, hard_gates: bool, what: str) -> Agreement:
    """The agreement of two implementations.

    Raises:
        UserError: there is none; ``what`` says whose.
    """
    try:
        result = agreement(reference, outputs, tolerance, hard_gates=hard_gates)
    except ValueError as error:
        raise UserError(f"{what}: {error}; nothing was written") from None
    if not result:
        raise UserError(f"{what} ({result}); nothing was written")
    return result


def has_hard_gates(model: onnx.ModelProto) -> bool:
    """Whether a gate jumps at its edge: a binary one, or one with a threshold."""
    nodes = [node_attributes(n) for n in model.graph.node if is_lccl_node(n)]
    return any(a.gate_slope > 1e3 or a.gate_threshold > 0 for a in nodes)


def with_soft_gates(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every gate a ReLU without bound or threshold, so that none jumps at its edge."""
    soft = onnx.ModelProto()
    soft.CopyFrom(model)
    values = {"gate_slope": 1.0, "gate_max": FLT_MAX, "gate_threshold": 0.0}
    for node in filter(is_lccl_node, soft.graph.node):
        kept = [a for a in node.attribute if a.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in values.items())])
    return soft


def default_tolerance(model: onnx.ModelProto) -> float:
    """1e-4 for float32; 2e-2 where weights are of lower precision."""
    low = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return 2e-2 if {t.data_type for t in model.graph.initializer} & low else 1e-4


def input_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """The model's inputs by name, without the initializers that older exporters list among them."""
    stored = {t.name for t in model.graph.initializer}
    return {v.name: v.type.tensor_type for v in model.graph.input if v.name not in stored}


def random_feed(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 0) -> dict[str, Array]:
    """Standard normal inputs of the given shapes; without one, a dynamic first dimension is 2 and any other 32."""
    generator = np.random.default_rng(seed)
    feed = {}
    for name, kind in input_types(model).items():
        default = [d.dim_value if d.HasField("dim_value") else 32 if axis else 2 for axis, d in enumerate(kind.shape.dim)]
        dims = (shapes or {}).get(name, default)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        is_float = kind.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        feed[name] = generator.standard_normal(dims).astype(dtype) if is_float else np.zeros(dims, dtype)
    return feed
