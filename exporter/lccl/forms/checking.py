"""Chosen forms against the model: real inputs, NaN, all gates open, all gates closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lccl.backends.agreement import require_agreement
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.forms.timing import Feed
from lccl.graph.tolerance import default_tolerance
from lccl.graph.variants.relaxed import has_hard_gates
from lccl.numerics import Array
from lccl.op.contract import BINARY_SLOPE, FLT_MAX, INPUT_NAMES
from lccl.op.onnx_op import is_lccl_node

MOST_DIFFERENT = 1e-3
OPEN_LOGIT = 1e6
"""A bias that opens every gate of its own, whatever its input."""


def check_forms(
    model: onnx.ModelProto,
    in_forms: Callable[[onnx.ModelProto], onnx.ModelProto],
    feeds: Sequence[Feed],
    library: Path,
) -> None:
    """Check that a choice of forms computes what the model does in standard ops.

    Args:
        model: the canonical model.
        in_forms: gives a model with the same layers in the chosen forms.
        feeds: real inputs.
        library: of custom ops.

    Raises:
        UserError: the outputs differ.
    """
    for state, changed in (("", model), ("all gates open", opened(model)), ("all gates closed", closed(model))):
        with OnnxRuntimeRunner(changed) as source, OnnxRuntimeRunner(in_forms(changed), library=library) as form:
            for feed in feeds:
                what = "the chosen forms differ from the model" + (f" with {state}" if state else "")
                tolerance, hard = default_tolerance(model), not state and has_hard_gates(model)
                require_agreement(source.infer(feed), form.infer(feed), tolerance, hard, what)
            if not state:
                for feed in map(with_nan, feeds):
                    _require_same_nan(source.infer(feed), form.infer(feed))


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every gate of its own 1; maps from outside stay."""
    return _changed(model, {"gate_slope": BINARY_SLOPE, "gate_max": 1.0, "gate_threshold": 0.0}, OPEN_LOGIT)


def closed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every gate 0."""
    return _changed(model, {"gate_threshold": FLT_MAX}, None)


def _changed(model: onnx.ModelProto, attributes: dict[str, float], bias: float | None) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in filter(is_lccl_node, out.graph.node):
        for attribute in node.attribute:
            if attribute.name in attributes:
                attribute.f = attributes[attribute.name]
        if bias is not None:
            name = f"{node.name}.opened"
            out.graph.initializer.append(numpy_helper.from_array(np.array([bias], np.float32), name))
            node.input[INPUT_NAMES.index("gate_B")] = name
    return out


def with_nan(feed: Feed) -> Feed:
    """Return inputs with a corner of NaN in each map of floats, in its first sample."""
    changed = dict(feed)
    for name, values in feed.items():
        if values.dtype.kind == "f" and values.ndim == 4:
            changed[name] = values.copy()
            changed[name][:1, :, : max(1, values.shape[2] // 8), : max(1, values.shape[3] // 8)] = np.nan
    return changed


def _require_same_nan(reference: dict[str, Array], outputs: dict[str, Array]) -> None:
    """Check that values are finite in the same places; these are compared on inputs without NaN.

    Raises:
        UserError: more than one place in a thousand differs, which a gate at its edge may do.
    """
    for name, wanted in reference.items():
        differ = np.isfinite(wanted) != np.isfinite(outputs[name])
        if differ.mean() > MOST_DIFFERENT:
            raise UserError(f"the chosen forms differ from the model in {name} where an input is NaN; nothing was written")
