"""``LCCLConv2d``: a convolution with a gate beside it, their norms, and what follows the product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.backends.torch.cuda import kernel_op
from lccl.errors import ContractError, UserError
from lccl.nn.gate import Gate, GateActivation
from lccl.op.contract import Attributes, gate_pads
from lccl.op.torch_op import lccl_conv, leaky, neutral, threshold_gate, upsample_gate

GateKind = Literal["1x1", "kxk", "grid", "external"]
Order = Literal["paper", "released"]
Activation = Literal["relu", "default"] | float | None
Gates = Literal["as built", "open", "soft"]
"""Of a check: as they are; all 1; ReLU without bound or threshold, so that none jumps at its edge."""
_MOST_GRID_WEIGHTS = 2**24
"""Of a grid gate's kernel: 128 x 128 for 1,024 channels. A size in a damaged file must not ask for terabytes."""

kernel_op.register()  # layers in eval mode on a GPU take the CUDA kernels where their library is there


def _pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(_is_whole(v) and v > 0 for v in values):
        raise UserError(f"{name} takes one whole number above 0 or two, not {value!r}")
    return values[0], values[1]


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _alpha(activation: Activation) -> float:
    """An activation as the contract's slope of the negative side: None 1, "relu" 0, a number itself."""
    if activation is None:
        return 1.0
    if activation == "relu":
        return 0.0
    if isinstance(activation, (int, float)):
        return float(activation)
    raise UserError(f'an activation is "relu", None or the negative slope of a LeakyReLU, not {activation!r}')


class LCCLConv2d(nn.Module):
    """y = post(conv(x) * g): convolution and gate with their norms, X [N, C, H, W] -> Y [N, K, Ho, Wo].

    In training mode it computes every pixel in PyTorch's own ops; in eval mode it calls ``torch.ops.lccl.conv`` with
    the norms folded, which is what gets exported.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation: of the convolution, as in ``nn.Conv2d``.
        padding: one number, (height, width), (top, left, bottom, right), or "same" (stride 1).
        gate: "1x1" or "kxk" (a convolution of that kernel to one map), "grid" (one value per ``gate_size`` x
            ``gate_size`` block of output pixels), "external" (the caller's map, given to ``forward``).
        gate_size: G of a grid gate, or of an external one.
        gate_kernel_size: of a grid gate; by default the part of X under its block, ``stride * gate_size``.
        gate_activation: "relu", "hardtanh" or "binary".
        gate_norm: a BatchNorm on the gate's logits; None: as the form has it (not with "hardtanh").
        gate_threshold: gate values up to this one count as 0 in eval mode; a knob for deployment.
        order: "paper": activation(norm(conv)) * g; "released": norm after the product, as in the authors' code.
        norm: whether the layer has its own BatchNorm, at the place that ``order`` says.
        activation: before the product; by default ReLU in the paper's order and none in the released one.
        post_activation: after norm and residual; by default none in the paper's order and ReLU in the released one.
        bias: of the convolution; None: only where no norm follows.
        groups, padding_mode: as in ``nn.Conv2d``, of which the op has only 1 and "zeros".

    Raises:
        UserError: options that do not go together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Literal["same"] = 0,
        dilation: int | Sequence[int] = 1,
        *,
        gate: GateKind = "kxk",
        gate_size: int = 1,
        gate_kernel_size: int | Sequence[int] | None = None,
        gate_activation: GateActivation = "relu",
        gate_norm: bool | None = None,
        gate_threshold: float = 0.0,
        order: Order = "paper",
        norm: bool = True,
        activation: Activation = "default",
        post_activation: Activation = "default",
        bias: bool | None = None,
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        if groups != 1:
            raise UserError(f"groups = {groups}, but the op computes all channels together: leave grouped layers as nn.Conv2d")
        if padding_mode != "zeros":
            raise UserError(
                f"padding_mode = {padding_mode!r}, but the op pads with zeros: pad before the layer, with padding=0"
            )
        if order not in ("paper", "released"):
            raise UserError(f'order is "paper" or "released", not {order!r}')
        self.order = order
        kernel, self.stride, self.dilation = (
            _pair(value, name) for value, name in ((kernel_size, "kernel_size"), (stride, "stride"), (dilation, "dilation"))
        )
        self.pads = self._resolve_padding(padding, kernel)
        self.gate_threshold = gate_threshold
        self.gate_size = gate_size
        self.activation_alpha = _alpha(("relu" if order == "paper" else None) if activation == "default" else activation)
        self.post_alpha = _alpha((None if order == "paper" else "relu") if post_activation == "default" else post_activation)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, self.stride, 0, self.dilation, bias=(not norm) if bias is None else bias
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.gate_kind = gate
        self.plain_gates: Gates | None = None
        self.recipe: Any = None  # what lccl.nn.convert made the layer of; None of a layer that was built
        self.gate = self._make_gate(gate, gate_kernel_size, gate_activation, gate_norm)
        self._attributes()  # so that an option that the contract does not allow fails here

    def _resolve_padding(self, padding: int | Sequence[int] | str, kernel: tuple[int, int]) -> tuple[int, int, int, int]:
        if padding == "same":
            if self.stride != (1, 1):
                raise UserError('padding="same" needs stride 1; give the padding in numbers')
            extent = [self.dilation[i] * (kernel[i] - 1) for i in (0, 1)]
            return extent[0] // 2, extent[1] // 2, extent[0] - extent[0] // 2, extent[1] - extent[1] // 2
        if isinstance(padding, str):
            raise UserError(f'padding is "same" or numbers, not {padding!r}')
        values = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(values) == 2:
            values = values * 2
        if len(values) != 4 or min(values) < 0:
            raise UserError(f"padding takes 1, 2 or 4 numbers that are not negative, not {padding!r}")
        return values[0], values[1], values[2], values[3]

    def _make_gate(
        self,
        kind: GateKind,
        kernel_size: int | Sequence[int] | None,
        activation: GateActivation,
        norm: bool | None,
    ) -> Gate | None:
        kernel = (self.conv.kernel_size[0], self.conv.kernel_size[1])
        if kind not in ("1x1", "kxk", "grid", "external"):
            raise UserError(f'gate is "1x1", "kxk", "grid" or "external", not {kind!r}')
        if not _is_whole(self.gate_size):
            raise UserError(f"gate_size is a whole number, not {self.gate_size!r}")
        if norm is not None and not isinstance(norm, bool):
            raise UserError(f"gate_norm is True, False or None, not {norm!r}")
        if self.gate_size < 1 or (kind in ("1x1", "kxk") and self.gate_size != 1):
            raise UserError(f'gate_size = {self.gate_size} goes with gate="grid" or "external" and is at least 1')
        if kind == "grid" and self.gate_size == 1 and kernel_size is None:
            raise UserError(
                'gate="grid" needs gate_size, the side of the blocks of output pixels that share a value: 2 or more'
            )
        if kernel_size is not None and kind != "grid":
            raise UserError('gate_kernel_size goes with gate="grid"; "1x1" and "kxk" say their kernel themselves')
        if kind == "external":
            return None
        dilation = self.dilation if kind == "kxk" else (1, 1)
        if kind == "grid":
            size = _pair(kernel_size, "gate_kernel_size") if kernel_size is not None else self._gate_strides
            if size[0] * size[1] * self.conv.in_channels > _MOST_GRID_WEIGHTS:
                raise UserError(
                    f"a gate kernel of {size[0]}x{size[1]} for {self.conv.in_channels} channels is more than "
                    f"{_MOST_GRID_WEIGHTS:,} weights: take a smaller gate_size or gate_kernel_size"
                )
        else:
            size = kernel if kind == "kxk" else (1, 1)
        try:
            pads = gate_pads(kernel, self.pads, self.dilation, self.stride, size, self.gate_size, dilation)
        except ContractError as error:
            raise UserError(f'gate="{kind}": {error}') from None
        return Gate(self.conv.in_channels, size, self._gate_strides, pads, dilation, activation, norm)

    @property
    def in_channels(self) -> int:
        """C; this and what follows as in ``nn.Conv2d``, for code that reads it off a layer."""
        return self.conv.in_channels

    @property
    def out_channels(self) -> int:
        """K."""
        return self.conv.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(R, S)."""
        return self.conv.kernel_size[0], self.conv.kernel_size[1]

    @property
    def padding(self) -> tuple[int, ...]:
        """(height, width), or (top, left, bottom, right) where the sides differ."""
        return self.pads[:2] if self.pads[:2] == self.pads[2:] else self.pads

    @property
    def weight(self) -> Tensor:
        """[K, C, R, S], of the convolution; the state dict has it as ``conv.weight``."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        """[K], of the convolution, or None; the state dict has it as ``conv.bias``."""
        return self.conv.bias

    @property
    def _gate_strides(self) -> tuple[int, int]:
        return self.stride[0] * self.gate_size, self.stride[1] * self.gate_size

    def forward(self, x: Tensor, gate: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Y [N, K, Ho, Wo].

        Args:
            x: [N, C, H, W].
            gate: an external map [N, 1, Hg, Wg], >= 0, multiplied onto the layer's own gate where it has one.
            residual: [N, K, Ho, Wo], added before the last activation.
        """
        if self.gate is None and gate is None:
            raise UserError('a layer with gate="external" needs its map: layer(x, gate=map)')
        if self.training or self.plain_gates is not None:
            return self._forward_plain(x, gate, residual)
        fixed, attributes = self.fold()
        return call_op(x, fixed, attributes, gate, residual)

    def _forward_plain(self, x: Tensor, gate: Tensor | None, residual: Tensor | None) -> Tensor:
        """The layer in PyTorch's own ops, every pixel computed, nothing folded; no threshold while training."""
        top, left, bottom, right = self.pads
        u = self.conv(F.pad(x, (left, right, top, bottom)))
        if self.order == "paper":
            u = self.norm(u)
        v = leaky(u, self.activation_alpha)
        if self.plain_gates != "open":
            g = upsample_gate(self._plain_gate_map(x, gate), self.gate_size, v.shape[2:])
            v = torch.where(g > 0, v, torch.zeros_like(v)) * g.to(v.dtype)
        if self.order == "released":
            v = self.norm(v)
        return leaky(v if residual is None else v + residual, self.post_alpha)

    def _plain_gate_map(self, x: Tensor, gate: Tensor | None) -> Tensor:
        soft = self.plain_gates == "soft"
        gmap = gate
        if self.gate is not None:
            logits = self.gate(x)
            own = logits.relu() if soft else self.gate.activate(logits)
            gmap = own if gate is None else own * gate
        assert gmap is not None
        return threshold_gate(gmap, 0.0 if self.training or soft else self.gate_threshold)

    def fold(self) -> tuple[dict[str, Tensor], Attributes]:
        """The op's constant inputs, norms folded in float64, and its attributes.

        Returns:
            W [K, R, S, C], B [K], gate_W [1, Rg, Sg, C], gate_B [1], post_scale, post_bias; and the node's attributes.
        """
        weight, bias = self.conv.weight, self.conv.bias
        k, c = weight.shape[:2]
        scale, shift = fold_norm(self.norm, k, weight)
        post_scale, post_bias = neutral("post_scale", weight, k=k, c=c), neutral("post_bias", weight, k=k, c=c)
        wide_bias = torch.zeros_like(shift) if bias is None else bias.double()
        wide_weight = weight.double()
        if self.order == "paper":
            wide_weight, wide_bias = wide_weight * scale[:, None, None, None], wide_bias * scale + shift
        elif not isinstance(self.norm, nn.Identity):
            post_scale, post_bias = scale.to(post_scale.dtype), shift.to(post_bias.dtype)
        fixed = {
            "W": wide_weight.to(weight.dtype).permute(0, 2, 3, 1).contiguous(),
            "B": wide_bias.to(post_bias.dtype),
            "post_scale": post_scale,
            "post_bias": post_bias,
        }
        return fixed | self._fold_gate(), self._attributes()

    def _attributes(self) -> Attributes:
        """The node's attributes."""
        if self.gate:
            dilation = self.gate.conv.dilation
            geometry: dict[str, Any] = {"gate_pads": self.gate.pads, "gate_dilations": (dilation[0], dilation[1])}
        else:
            _, geometry = self._neutral_geometry()
        return Attributes(
            strides=self.stride,
            pads=self.pads,
            dilations=self.dilation,
            gate_strides=self._gate_strides,
            activation_alpha=self.activation_alpha,
            gate_slope=self.gate.curve.slope if self.gate else 1.0,
            gate_max=self.gate.curve.bound if self.gate else Attributes().gate_max,
            gate_threshold=self.gate_threshold,
            gate_upsample=(1.0, 1.0, float(self.gate_size), float(self.gate_size)),
            post_alpha=self.post_alpha,
            gate_source="fused" if self.gate else "external",
            **geometry,
        )

    def _fold_gate(self) -> dict[str, Tensor]:
        weight = self.conv.weight
        if self.gate is None:
            return self._neutral_gate()
        conv = self.gate.conv
        scale, shift = fold_norm(self.gate.norm, 1, conv.weight)
        bias = torch.zeros_like(shift) if conv.bias is None else conv.bias.double()
        return {
            "gate_W": (conv.weight.double() * scale).to(weight.dtype).permute(0, 2, 3, 1).contiguous(),
            "gate_B": (bias * scale + shift).to(torch.promote_types(weight.dtype, torch.float32)),
        }

    def _neutral_gate(self) -> dict[str, Tensor]:
        weight = self.conv.weight
        k, c = weight.shape[:2]
        kernel, _ = self._neutral_geometry()
        gate_w = neutral("gate_W", weight, k=k, c=c).expand(1, *kernel, c).contiguous()
        return {"gate_W": gate_w, "gate_B": neutral("gate_B", weight, k=k, c=c)}

    def _neutral_geometry(self) -> tuple[tuple[int, int], dict[str, Any]]:
        """Kernel and geometry of zeros that give a map of the right size: the convolution's own where 1 x 1 cannot."""
        r, s = self.conv.kernel_size[0], self.conv.kernel_size[1]
        try:
            pads = gate_pads((r, s), self.pads, self.dilation, self.stride, (1, 1), self.gate_size)
        except ContractError:
            return (r, s), {"gate_pads": self.pads, "gate_dilations": self.dilation}
        return (1, 1), {"gate_pads": pads}

    def extra_repr(self) -> str:
        parts = [f"gate={self.gate_kind!r}", f"order={self.order!r}", f"pads={self.pads}"]
        if self.gate_size > 1:
            parts.append(f"gate_size={self.gate_size}")
        if self.gate_threshold > 0:
            parts.append(f"gate_threshold={self.gate_threshold}")
        return ", ".join(parts)


def fold_norm(norm: nn.Module, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift [channels] in float64 of a BatchNorm in eval mode; 1 and 0 of an identity.

    Raises:
        UserError: another norm, or a BatchNorm without running statistics.
    """
    if isinstance(norm, nn.Identity):
        one = torch.ones(channels, dtype=torch.float64, device=like.device)
        return one, torch.zeros_like(one)
    if not isinstance(norm, _BatchNorm):
        raise UserError(
            f"a {type(norm).__name__} cannot be folded into a convolution: use BatchNorm2d or SyncBatchNorm, or norm=False "
            "and the norm after the layer"
        )
    if norm.running_mean is None or norm.running_var is None:
        raise UserError("a BatchNorm without running statistics cannot be folded; train it with track_running_stats=True")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


@contextmanager
def plain_maths(model: nn.Module, gates: Gates) -> Iterator[None]:
    """Every LCCLConv2d of the model computes in PyTorch's own layers, unfolded: what a folded form is held against."""
    layers = [m for m in model.modules() if isinstance(m, LCCLConv2d)]
    before = [layer.plain_gates for layer in layers]
    for layer in layers:
        layer.plain_gates = gates
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.plain_gates = value


def call_op(
    x: Tensor, fixed: dict[str, Tensor], attributes: Attributes, gate: Tensor | None, residual: Tensor | None
) -> Tensor:
    """The op on x with its constant inputs, and neutral values where gate or residual are absent."""
    k, c = fixed["W"].shape[0], x.shape[1]
    given = {
        "X": x,
        "gate": neutral("gate", x, k=k, c=c) if gate is None else gate,
        "residual": neutral("residual", x, k=k, c=c) if residual is None else residual,
    }
    return lccl_conv(given | fixed, attributes)
