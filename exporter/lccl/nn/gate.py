"""The gate of a layer: a convolution to one map, its norm, and an activation with zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.errors import UserError, shown
from lccl.op.contract import BINARY_SLOPE, FLT_MAX
from lccl.op.torch_op import bound_gate

GateActivation = Literal["relu", "hardtanh", "binary"]


@dataclass(frozen=True)
class GateCurve:
    """A gate activation in the contract's terms: min(max(slope * logit, 0), bound)."""

    slope: float
    bound: float
    normed: bool
    """Whether a gate with this activation has a BatchNorm by default."""


GATE_CURVES: dict[str, GateCurve] = {
    "relu": GateCurve(1.0, FLT_MAX, normed=True),
    "hardtanh": GateCurve(1.0, 1.0, normed=False),
    "binary": GateCurve(BINARY_SLOPE, 1.0, normed=True),
}


class Gate(nn.Module):
    """Map x [N, C, H, W] to logits [N, 1, Hg, Wg]; :meth:`activate` turns these into the gate map.

    In training mode the norm takes the batch's statistics. Where the batch has one logit in all (a
    batch of 1 and a map of one cell), that has no variance: the step takes the running statistics,
    as eval mode does, and does not change them.

    Args:
        in_channels: C.
        kernel_size, stride, pads, dilation: of the gate's convolution; ``pads`` in ONNX order (top,
            left, bottom, right).
        activation: "relu" (the paper's), "hardtanh" (bounded by 1, as in the released code) or
            "binary" (1 where the logit is positive, trained with the gradient of a sigmoid).
        norm: whether a BatchNorm normalizes the logits; None: the activation's default, which is
            yes except for "hardtanh".

    Raises:
        UserError: another activation.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        pads: tuple[int, int, int, int],
        dilation: tuple[int, int] = (1, 1),
        activation: GateActivation = "relu",
        norm: bool | None = None,
    ) -> None:
        super().__init__()
        if activation not in list(GATE_CURVES):
            raise UserError(f"gate_activation is one of {', '.join(GATE_CURVES)}, not {shown(activation)}")
        self.activation = activation
        self.pads = pads
        normed = GATE_CURVES[activation].normed if norm is None else norm
        self.conv = nn.Conv2d(in_channels, 1, kernel_size, stride, 0, dilation, bias=not normed)
        self.norm = nn.BatchNorm2d(1) if normed else nn.Identity()

    @property
    def curve(self) -> GateCurve:
        """The activation in the contract's terms."""
        return GATE_CURVES[self.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [N, 1, Hg, Wg] of x [N, C, H, W]."""
        top, left, bottom, right = self.pads
        return self._normalize(self.conv(F.pad(x, (left, right, top, bottom))))

    def _normalize(self, logits: Tensor) -> Tensor:
        norm = self.norm
        if not isinstance(norm, _BatchNorm) or not norm.training or logits.numel() != 1 or _is_synchronized(norm):
            normalized: Tensor = norm(logits)
            return normalized
        if norm.running_mean is None or norm.running_var is None:
            raise UserError(
                "a gate of one value has no statistics of its batch, and its norm has no running ones: train with larger "
                "batches, or take gate_norm=False"
            )
        return F.batch_norm(logits, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps)

    def activate(self, logits: Tensor) -> Tensor:
        """Turn logits into the gate map, with a gradient that trains under every activation."""
        if self.activation == "binary" and self.training:
            surrogate = torch.sigmoid(4 * logits)  # the step's gradient: a straight-through estimator
            return (logits > 0).to(surrogate.dtype) + surrogate - surrogate.detach()
        return bound_gate(logits, self.curve.slope, self.curve.bound)


def _is_synchronized(norm: _BatchNorm) -> bool:
    """Return whether a norm takes its statistics over several processes, each with its logits."""
    if not isinstance(norm, nn.SyncBatchNorm) or not (distributed.is_available() and distributed.is_initialized()):
        return False
    return distributed.get_world_size(norm.process_group) > 1


@torch.no_grad()
def open_gate(gate: Gate) -> None:
    """Initialize a gate so that its logits are exactly 1 for every input, and its map with them.

    With a norm, the norm's weight becomes 0 and its bias 1, as the last norm of a residual branch
    is often initialized. The norm's weight then has a gradient from the first step on; the
    convolution, which keeps its random weights, from the second. Without a norm, the convolution's
    weights become 0 and its bias 1, and both have a gradient at once. The logits are 1 in training
    mode too, whatever the batch.
    """
    if isinstance(gate.norm, _BatchNorm):
        nn.init.zeros_(gate.norm.weight)
        nn.init.ones_(gate.norm.bias)
        return
    assert gate.conv.bias is not None
    nn.init.zeros_(gate.conv.weight)
    nn.init.ones_(gate.conv.bias)
