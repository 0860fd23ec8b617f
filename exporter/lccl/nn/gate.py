"""The gate of a layer: a convolution to one map, its norm, and an activation with zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.errors import UserError, shown
from lccl.op.contract import BINARY_SLOPE, FLT_MAX
from lccl.op.torch_op import bound_gate
from lccl.torch_calls import mean_over_processes

GateActivation = Literal["relu", "hardtanh", "binary"]
GateMode = Literal["as built", "open", "relaxed"]
"""How a check evaluates gates: as they are; all 1; or as their logits, cut to 0 and 2, without a
threshold, so that no gate jumps at its edge."""


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


class _CentredGradient(torch.autograd.Function):
    """Logits as they are, with the gradient that a BatchNorm over the batch would pass on.

    Such a norm takes out what moves or stretches all logits alike. One that normalizes with its
    running statistics does not: a gate whose density is held would then be pushed open, step by
    step, by all the pixels that it misses. The means are over all processes.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        """Return the logits."""
        ctx.save_for_backward(logits)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient without its mean and without its part along the logits."""
        (logits,), (gradient,) = ctx.saved_tensors, gradients
        z, g = logits.float(), gradient.float()
        mean, square, shift, along = mean_over_processes(torch.stack([z.mean(), z.square().mean(), g.mean(), (g * z).mean()]))
        deviation = (square - mean.square()).clamp(min=1e-12).sqrt()
        centred = (z - mean) / deviation
        found: Tensor = (g - shift - centred * (along - shift * mean) / deviation).to(gradient.dtype)
        return found


TRAINED_CLOSED = 2.0**-20
"""What a closed pixel of a binary gate lets through in training, in place of 0. A ReLU behind the
layer passes no gradient where its output is 0, so that a gate would never learn what it misses
there. It is far below what training resolves, and float16 can hold it."""


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

    observed: Tensor | None = None
    """Sums over the calls in training mode since the last reset: calls, density, density with all
    logits higher by a margin; of a gate without a norm, the mean, mean square and variance of the
    logits without their bias; and, last, that margin. None: nothing is observed."""
    first: Tensor | None = None
    """Of a gate without a norm whose weights are 0 yet: the weights it will start with, whose
    logits are observed in place of its own."""
    held: tuple[int, tuple[bool, ...]] | None = None
    """The number of the schedule that sets the parameters, and which could be trained before."""
    frozen: bool = False
    """Whether training takes the norm's running statistics, and leaves them as they are."""
    trained_density: float | None = None
    """The density that training ended with, where something observed it."""

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
        padded = F.pad(x, (left, right, top, bottom))
        if self.observed is None or not self.training:
            return self._normalize(self.conv(padded))
        if isinstance(self.norm, _BatchNorm) or self.conv.bias is None:
            logits = self._normalize(self.conv(padded))
            self._observe(logits, None, self.observed)
            return logits
        with torch.autocast(x.device.type, enabled=False):  # as a sum in bfloat16, small logits round to the bias
            wide = padded.to(torch.promote_types(padded.dtype, self.conv.weight.dtype))
            raw = self._apply_weights(wide, self.conv.weight)
            logits = self._normalize(raw + self.conv.bias.view(1, -1, 1, 1))
            with torch.no_grad():
                seen = raw if self.first is None else self._apply_weights(wide, self.first.to(wide))
        self._observe(logits, seen, self.observed)
        return logits

    def _apply_weights(self, padded: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(padded, weight.to(padded.dtype), None, self.conv.stride, 0, self.conv.dilation)

    @torch.no_grad()
    def _observe(self, logits: Tensor, raw: Tensor | None, sums: Tensor) -> None:
        """Add a call to the sums, which stay in place, so that a compiled gate adds to them too.

        Each call counts the same. A pass that activation checkpointing repeats does no harm.
        """
        if sums.device != logits.device:  # the network has moved
            self.observed = sums = sums.to(logits.device)
        values = logits.detach().to(sums.dtype)
        density, higher = ((values > edge).to(sums.dtype).mean() for edge in (0.0, -sums[-1]))
        mean = square = variance = torch.zeros_like(density)
        if raw is not None:
            away = raw.detach().to(sums.dtype)
            mean, variance = away.mean(), away.var(unbiased=False)
            square = mean.square()
        sums[:-1] += torch.stack([torch.ones_like(density), density, higher, mean, square, variance])

    def _normalize(self, logits: Tensor) -> Tensor:
        norm = self.norm
        if not isinstance(norm, _BatchNorm):
            return logits
        alone = logits.numel() == 1 and norm.training and not _is_synchronized(norm)
        frozen = self.frozen and norm.running_mean is not None
        if self.training and self.held is not None and norm.running_mean is not None and (frozen or not norm.training):
            plain = F.batch_norm(logits, norm.running_mean, norm.running_var, training=False, eps=norm.eps)
            centred: Tensor = _CentredGradient.apply(plain)  # type: ignore[no-untyped-call]
            return centred if norm.weight is None else torch.addcmul(norm.bias, centred, norm.weight)
        if not (alone or frozen):
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
            step = (logits > 0).to(surrogate.dtype).clamp(min=TRAINED_CLOSED)
            return step + (surrogate - surrogate.detach())
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
