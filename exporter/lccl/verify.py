"""What has to hold of two implementations of a network: the same outputs."""

from __future__ import annotations

import onnx

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.graph.checks import default_tolerance
from lccl.graph.variants.relaxed import has_hard_gates
from lccl.numerics import Agreement, Array, agreement, not_finite


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
