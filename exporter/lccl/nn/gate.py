"""The gate of a layer: a small convolution to one map, its norm, and the activation that makes zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lccl.errors import UserError
from lccl.op.contract import BINARY_SLOPE, FLT_MAX
from lccl.op.torch_op import bound_gate

GateActivation = Literal["relu", "hardtanh", "binary"]


@dataclass(frozen=True)
class GateCurve:
    """How a gate activation reads in the contract: min(max(slope * logit, 0), bound)."""

    slope: float
    bound: float
    normed: bool
    """Whether the form has a BatchNorm before the activation unless told otherwise."""


GATE_CURVES: dict[str, GateCurve] = {
    "relu": GateCurve(1.0, FLT_MAX, normed=True),
    "hardtanh": GateCurve(1.0, 1.0, normed=False),
    "binary": GateCurve(BINARY_SLOPE, 1.0, normed=True),
}


class Gate(nn.Module):
    """x [N, C, H, W] -> logits [N, 1, Hg, Wg]; :meth:`activate` turns logits into the gate map.

    Args:
        in_channels: C.
        kernel_size, stride, pads, dilation: the gate's own geometry; ``pads`` in ONNX order.
        activation: "relu" (the paper), "hardtanh" (bounded by 1), "binary" (1 where the logit is positive; trained
            with the gradient of a sigmoid in its place).
        norm: a BatchNorm on the logits; None: as the activation's form has it.
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
            raise UserError(f"gate_activation is one of {', '.join(GATE_CURVES)}, not {activation!r}")
        self.activation = activation
        self.pads = pads
        normed = GATE_CURVES[activation].normed if norm is None else norm
        self.conv = nn.Conv2d(in_channels, 1, kernel_size, stride, 0, dilation, bias=not normed)
        self.norm = nn.BatchNorm2d(1) if normed else nn.Identity()

    @property
    def curve(self) -> GateCurve:
        """The activation in the contract's numbers."""
        return GATE_CURVES[self.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 1, Hg, Wg]."""
        top, left, bottom, right = self.pads
        logits: Tensor = self.norm(self.conv(F.pad(x, (left, right, top, bottom))))
        return logits

    def activate(self, logits: Tensor) -> Tensor:
        """Logits -> gate map, with a gradient that trains for every activation."""
        if self.activation == "binary" and self.training:
            soft = torch.sigmoid(4 * logits)
            return (logits > 0).to(soft.dtype) + soft - soft.detach()
        return bound_gate(logits, self.curve.slope, self.curve.bound)


@torch.no_grad()
def open_gate(gate: Gate) -> None:
    """Initialises a gate so that its logits, and with each activation its map, are exactly 1 for every input.

    With a norm, its weight is 0 and its bias 1, as the last norm of a residual branch is often started: the norm's weight
    has a gradient from the first step on, and the convolution, which keeps its random weights, from the second. Without a
    norm, the convolution's weights are 0 and its bias 1, and both have a gradient at once. In training mode the logits are
    1 too, whatever the batch.
    """
    if isinstance(gate.norm, nn.BatchNorm2d):
        nn.init.zeros_(gate.norm.weight)
        nn.init.ones_(gate.norm.bias)
        return
    assert gate.conv.bias is not None
    nn.init.zeros_(gate.conv.weight)
    nn.init.ones_(gate.conv.bias)
