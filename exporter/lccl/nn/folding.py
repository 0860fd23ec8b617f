"""What a layer passes to the op: constant inputs with norms folded in, and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.errors import ContractError, UserError
from lccl.nn.gate import Gate
from lccl.nn.parts import refresh
from lccl.op.contract import Attributes, gate_pads
from lccl.op.torch_op import neutral

_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
"""The code of the norms that can be folded; another, as a subclass with an activation in it, cannot
be."""


class FoldableLayer(Protocol):
    """What folding reads of a layer, which is :class:`lccl.nn.LCCLConv2d`."""

    conv: nn.Conv2d
    gate: Gate | None
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    gate_size: int
    gate_threshold: float
    activation_alpha: float
    post_alpha: float

    @property
    def norm(self) -> nn.Module: ...

    @property
    def order(self) -> str: ...

    @property
    def kernel_size(self) -> tuple[int, int]: ...

    @property
    def gate_strides(self) -> tuple[int, int]: ...


def constants_of(layer: FoldableLayer) -> dict[str, Tensor]:
    """Fold a layer's norms in float64 and return the op's constant inputs by name.

    Weights that hooks of PyTorch's compute are computed anew.

    Returns:
        W [K, R, S, C], B [K], gate_W [1, Rg, Sg, C], gate_B [1], post_scale and post_bias ([K], or
        [1] where neutral).

    Raises:
        UserError: a norm cannot be folded.
    """
    refresh(layer.conv)
    weight, bias = layer.conv.weight, layer.conv.bias
    k, c = weight.shape[:2]
    scale, shift = fold_norm(layer.norm, k, weight)
    post_scale, post_bias = neutral("post_scale", weight, k=k, c=c), neutral("post_bias", weight, k=k, c=c)
    wide_bias = torch.zeros_like(shift) if bias is None else bias.double()
    wide_weight = weight.double()
    if layer.order == "paper":
        wide_weight, wide_bias = wide_weight * scale[:, None, None, None], wide_bias * scale + shift
    elif not isinstance(layer.norm, nn.Identity):
        post_scale, post_bias = scale.to(post_scale.dtype), shift.to(post_bias.dtype)
    constants = {
        "W": wide_weight.to(weight.dtype).permute(0, 2, 3, 1).contiguous(),
        "B": wide_bias.to(post_bias.dtype),
        "post_scale": post_scale,
        "post_bias": post_bias,
    }
    return constants | _gate_constants(layer, weight)


def attributes_of(layer: FoldableLayer) -> Attributes:
    """Return the attributes of a layer's node.

    Raises:
        ContractError: an option that version 1 of the op does not allow.
    """
    gate = layer.gate
    if gate is None:
        geometry = _neutral_gate_geometry(layer)
    else:
        geometry = _GateGeometry(gate.conv.kernel_size, gate.pads, gate.conv.dilation)  # type: ignore[arg-type]
    return Attributes(
        strides=layer.stride,
        pads=layer.pads,
        dilations=layer.dilation,
        gate_strides=layer.gate_strides,
        gate_pads=geometry.pads,
        gate_dilations=geometry.dilations,
        activation_alpha=layer.activation_alpha,
        gate_slope=gate.curve.slope if gate else 1.0,
        gate_max=gate.curve.bound if gate else Attributes().gate_max,
        gate_threshold=layer.gate_threshold,
        gate_upsample=(1.0, 1.0, float(layer.gate_size), float(layer.gate_size)),
        post_alpha=layer.post_alpha,
        gate_source="fused" if gate else "external",
    )


def _gate_constants(layer: FoldableLayer, weight: Tensor) -> dict[str, Tensor]:
    if layer.gate is None:
        k, c = weight.shape[:2]
        kernel = _neutral_gate_geometry(layer).kernel
        gate_w = neutral("gate_W", weight, k=k, c=c).expand(1, *kernel, c).contiguous()
        return {"gate_W": gate_w, "gate_B": neutral("gate_B", weight, k=k, c=c)}
    conv = layer.gate.conv
    refresh(conv)
    gate_weight = conv.weight
    scale, shift = fold_norm(layer.gate.norm, 1, gate_weight)
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias.double()
    return {
        "gate_W": (gate_weight.double() * scale).to(weight.dtype).permute(0, 2, 3, 1).contiguous(),
        "gate_B": (bias * scale + shift).to(torch.promote_types(weight.dtype, torch.float32)),
    }


@dataclass(frozen=True)
class _GateGeometry:
    """Kernel, pads in ONNX order and dilations of a gate's convolution."""

    kernel: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int] = (1, 1)


def _neutral_gate_geometry(layer: FoldableLayer) -> _GateGeometry:
    """Return the geometry of a gate_W of zeros whose map has the right size.

    A 1 x 1 kernel does where the convolution is padded enough; otherwise it is the convolution's
    own kernel.
    """
    r, s = layer.kernel_size
    try:
        pads = gate_pads((r, s), layer.pads, layer.dilation, layer.stride, (1, 1), layer.gate_size)
    except ContractError:
        return _GateGeometry((r, s), layer.pads, layer.dilation)
    return _GateGeometry((1, 1), pads)


def fold_norm(norm: nn.Module, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift, [channels] in float64, that a norm applies in eval mode.

    Args:
        norm: a BatchNorm, or an identity, whose scale is 1 and shift 0.
        channels: the number of channels, used for an identity.
        like: a tensor on the device of the result, used for an identity.

    Raises:
        UserError: another kind of norm, or a BatchNorm without running statistics.
    """
    if isinstance(norm, nn.Identity):
        one = torch.ones(channels, dtype=torch.float64, device=like.device)
        return one, torch.zeros_like(one)
    if not isinstance(norm, _BatchNorm) or type(norm).forward not in _FORWARDS:
        raise UserError(
            f"a {type(norm).__name__} cannot be folded into a convolution: use BatchNorm2d or SyncBatchNorm, or norm=False "
            "and the norm after the layer"
        )
    refresh(norm)
    if norm.running_mean is None or norm.running_var is None:
        raise UserError("a BatchNorm without running statistics cannot be folded; train it with track_running_stats=True")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()
