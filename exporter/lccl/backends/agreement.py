"""Checks that two implementations of a network give the same outputs."""

from __future__ import annotations

import onnx

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.graph.tolerance import default_tolerance, is_quantised
from lccl.graph.variants.relaxed import has_hard_gates
from lccl.numerics import Agreement, Array, agreement, not_finite


def check_view(
    model: onnx.ModelProto, view: onnx.ModelProto, feeds: list[dict[str, Array]], tolerance: float | None = None
) -> None:
    """Check in ONNX Runtime that a derived form of a model computes what the model does.

    Args:
        model: the model.
        view: the derived form, in the model's precision or a lower one.
        feeds: inputs to run both on.
        tolerance: the allowed error, relative to max(0.01, largest output); None: what the
            precisions allow.

    Raises:
        UserError: their outputs differ.
    """
    allowed = max(default_tolerance(model), default_tolerance(view)) if tolerance is None else tolerance
    optimize = not (is_quantised(model) or is_quantised(view))
    with OnnxRuntimeRunner(model, optimize=optimize) as first, OnnxRuntimeRunner(view, optimize=optimize) as second:
        for feed in feeds:
            require_agreement(
                infer_all(first, feed),
                infer_all(second, feed),
                allowed,
                has_hard_gates(model),
                "the model in standard ops differs from it",
            )


def require_agreement(
    reference: dict[str, Array], outputs: dict[str, Array], tolerance: float, hard_gates: bool, what: str
) -> Agreement:
    """Return the agreement of two implementations' outputs, and refuse a disagreement.

    Args:
        reference: the reference's outputs by name.
        outputs: the other implementation's outputs by name.
        tolerance: the allowed error, relative to max(0.01, largest output).
        hard_gates: whether gates jump; see :class:`lccl.numerics.Agreement`.
        what: the beginning of the error's message, such as "the model differs from its source".

    Raises:
        UserError: the outputs differ, or the reference's are not finite, in which case nothing can
            agree with them.
    """
    broken = not_finite(reference)
    if broken is not None:
        raise UserError(
            f"the source's output {broken} holds NaN or infinity, so that nothing can be compared with it: check its weights "
            "and the range of its inputs; nothing was written"
        )
    try:
        result = agreement(reference, outputs, tolerance, hard_gates=hard_gates)
    except ValueError as error:
        raise UserError(f"{what}: {error}; nothing was written") from None
    if not result:
        raise UserError(f"{what} ({result}); nothing was written")
    return result
