"""The gated convolution as a PyTorch layer: options, parameters, and training's forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.backends.torch.cuda import kernel_op
from lccl.errors import ContractError, UserError, shown
from lccl.errors.arguments import COUNT, FLAG, NAME, NONE, NUMBER, SIZES, WHOLE, takes
from lccl.nn.folding import attributes_of, constants_of
from lccl.nn.gate import Gate, GateActivation, GateMode
from lccl.nn.parts import own_code, refresh
from lccl.op.contract import Attributes, gate_pads
from lccl.op.torch_op import call_op, leaky, threshold_gate, upsample_gate

GateKind = Literal["1x1", "kxk", "grid", "external"]
Order = Literal["paper", "released"]
Activation = Literal["relu", "default"] | float | None
_MOST_GRID_WEIGHTS = 2**24
"""Limit on a grid gate's weights (128 x 128 for 1,024 channels), so that a size in a damaged file
cannot allocate terabytes."""

# On a GPU, layers in eval mode use the CUDA kernels if their library is present.
kernel_op.register()


def _pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(_is_whole(v) and v > 0 for v in values):
        raise UserError(f"{name} takes one whole number above 0 or two, not {shown(value)}")
    return values[0], values[1]


def _is_whole(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _alpha(activation: Activation) -> float:
    """Return the slope of an activation's negative side: 1 for None, 0 for "relu"."""
    if activation is None:
        return 1.0
    if activation == "relu":
        return 0.0
    if isinstance(activation, (int, float)):
        return float(activation)
    raise UserError(f'an activation is "relu", None or the negative slope of a LeakyReLU, not {shown(activation)}')


class LCCLConv2d(nn.Module):
    """A convolution multiplied by a gate map: y = post(conv(x) * g).

    x is [N, C, H, W] and y is [N, K, Ho, Wo]. In training mode the layer computes every pixel in
    PyTorch's own ops. In eval mode it calls ``torch.ops.lccl.conv`` with the norms folded, which is
    what gets exported; weights that weight_norm, spectral_norm or pruning compute are computed anew
    for it. Only where a convolution, norm or gate has other hooks or code of its own, or a norm is
    in training mode, eval mode calls them too, and computes every pixel. The layer is that of Dong
    et al., "More is Less: A More Complicated Network with Less Inference Complexity" (CVPR 2017).

    Args:
        in_channels, out_channels, kernel_size, stride, dilation: as in ``nn.Conv2d``.
        padding: one number, (height, width), (top, left, bottom, right), or "same" (stride 1 only).
        gate: "1x1" or "kxk" (a convolution of that kernel to one map), "grid" (one value per
            ``gate_size`` x ``gate_size`` block of output pixels) or "external" (the caller passes
            the map to ``forward``).
        gate_size: G, the side of a block in output pixels, of a grid gate or an external one.
        gate_kernel_size: the kernel of a grid gate; by default ``stride * gate_size``, the part of
            x under its block.
        gate_activation: "relu", "hardtanh" or "binary".
        gate_norm: whether a BatchNorm normalizes the gate's logits; None: yes, except for
            "hardtanh". A training step with one logit in all uses its running statistics.
        gate_threshold: gate values up to this one count as 0 in eval mode; a knob for deployment.
        order: "paper" for activation(norm(conv)) * g; "released" for a norm after the product, as
            in the authors' released code.
        norm: whether the layer has its own BatchNorm, at the place that ``order`` says.
        activation: "relu", None or a LeakyReLU's negative slope, before the product; by default
            "relu" in the paper's order and None in the released one.
        post_activation: the same after norm and residual; by default None in the paper's order and
            "relu" in the released one.
        bias: whether the convolution has a bias; None: only where no norm follows it.
        groups, padding_mode: as in ``nn.Conv2d``; the op supports only 1 and "zeros".

    Raises:
        UserError: options that do not go together.
    """

    @takes(
        in_channels=COUNT,
        out_channels=COUNT,
        kernel_size=WHOLE | SIZES,
        stride=WHOLE | SIZES,
        padding=WHOLE | SIZES | NAME,
        dilation=WHOLE | SIZES,
        gate=NAME,
        gate_size=WHOLE,
        gate_kernel_size=WHOLE | SIZES | NONE,
        gate_activation=NAME,
        gate_norm=FLAG | NONE,
        gate_threshold=NUMBER,
        order=NAME,
        norm=FLAG,
        activation=NUMBER | NAME | NONE,
        post_activation=NUMBER | NAME | NONE,
        bias=FLAG | NONE,
        groups=WHOLE,
        padding_mode=NAME,
    )
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
                f"padding_mode = {shown(padding_mode)}, but the op pads with zeros: pad before the layer, with padding=0"
            )
        if order not in ("paper", "released"):
            raise UserError(f'order is "paper" or "released", not {shown(order)}')
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
        self.plain_gates: GateMode | None = None
        self.recipe: object = None  # set by lccl.nn.convert; None where the caller built the layer
        self.gate = self._make_gate(gate, gate_kernel_size, gate_activation, gate_norm)
        attributes_of(self)  # an option that the contract does not allow fails here

    def _resolve_padding(self, padding: int | Sequence[int] | str, kernel: tuple[int, int]) -> tuple[int, int, int, int]:
        if padding == "same":
            if self.stride != (1, 1):
                raise UserError('padding="same" needs stride 1; give the padding in numbers')
            extent = [self.dilation[i] * (kernel[i] - 1) for i in (0, 1)]
            return extent[0] // 2, extent[1] // 2, extent[0] - extent[0] // 2, extent[1] - extent[1] // 2
        if isinstance(padding, str):
            raise UserError(f'padding is "same" or numbers, not {shown(padding)}')
        values = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(values) == 2:
            values = values * 2
        if len(values) != 4 or min(values) < 0:
            raise UserError(f"padding takes 1, 2 or 4 numbers that are not negative, not {shown(padding)}")
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
            raise UserError(f'gate is "1x1", "kxk", "grid" or "external", not {shown(kind)}')
        if not _is_whole(self.gate_size):
            raise UserError(f"gate_size is a whole number, not {shown(self.gate_size)}")
        if norm is not None and not isinstance(norm, bool):
            raise UserError(f"gate_norm is True, False or None, not {shown(norm)}")
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
            size = _pair(kernel_size, "gate_kernel_size") if kernel_size is not None else self.gate_strides
            if size[0] * size[1] * self.conv.in_channels > _MOST_GRID_WEIGHTS:
                raise UserError(
                    f"a gate kernel of {size[0]}x{size[1]} for {self.conv.in_channels} channels is more than "
                    f"{_MOST_GRID_WEIGHTS:,} weights: take a smaller gate_size or gate_kernel_size"
                )
        else:
            size = kernel if kind == "kxk" else (1, 1)
        try:
            pads = gate_pads(kernel, self.pads, self.dilation, self.stride, size, self.gate_size, gate_dilations=dilation)
        except ContractError as error:
            raise UserError(f'gate="{kind}": {error.message}', error.fixes) from None
        return Gate(self.conv.in_channels, size, self.gate_strides, pads, dilation, activation=activation, norm=norm)

    @property
    def in_channels(self) -> int:
        """C, the number of input channels, as ``nn.Conv2d`` has it."""
        return self.conv.in_channels

    @property
    def out_channels(self) -> int:
        """K, the number of output channels, as ``nn.Conv2d`` has it."""
        return self.conv.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(R, S), the height and width of the convolution's kernel."""
        return self.conv.kernel_size[0], self.conv.kernel_size[1]

    @property
    def padding(self) -> tuple[int, ...]:
        """The padding as (height, width), or (top, left, bottom, right) where sides differ."""
        return self.pads[:2] if self.pads[:2] == self.pads[2:] else self.pads

    @property
    def weight(self) -> Tensor:
        """The convolution's weight [K, C, R, S]; its name in the state dict is ``conv.weight``.

        Where a hook of PyTorch's computes it, such as weight_norm, it is computed anew.
        """
        refresh(self.conv)
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        """The convolution's bias [K] or None; its name in the state dict is ``conv.bias``."""
        refresh(self.conv)
        return self.conv.bias

    @property
    def gate_strides(self) -> tuple[int, int]:
        """The strides of the gate's convolution: strides * G."""
        return self.stride[0] * self.gate_size, self.stride[1] * self.gate_size

    def forward(self, x: Tensor, gate: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Compute y [N, K, Ho, Wo].

        Args:
            x: [N, C, H, W].
            gate: an external gate map [N, 1, Hg, Wg], >= 0, multiplied with the layer's own gate if
                it has one.
            residual: [N, K, Ho, Wo], added before the last activation.

        Raises:
            UserError: a layer with an external gate is called without its map.
        """
        if self.gate is None and gate is None:
            raise UserError('a layer with gate="external" needs its map: layer(x, gate=map)')
        if self.training or self.plain_gates is not None or self.calls_parts():
            return self._forward_plain(x, gate, residual)
        return call_op(x, constants_of(self), attributes_of(self), gate, residual)

    def calls_parts(self) -> bool:
        """Return whether eval mode calls the parts, since a call runs more than folding knows."""
        parts = self.parts()
        norms = (parts["norm"], parts.get("gate.norm"))
        return any(isinstance(norm, _BatchNorm) and norm.training for norm in norms) or bool(own_code(parts))

    def parts(self) -> dict[str, nn.Module]:
        """Return by name the layer's convolutions, its norms and its gate, those that it has."""
        parts: dict[str, nn.Module] = {"conv": self.conv, "norm": self.norm}
        if self.gate is not None:
            parts |= {"gate": self.gate, "gate.conv": self.gate.conv, "gate.norm": self.gate.norm}
        return parts

    def _forward_plain(self, x: Tensor, gate: Tensor | None, residual: Tensor | None) -> Tensor:
        """Compute every pixel in PyTorch's own ops with nothing folded.

        Training ignores the threshold.
        """
        top, left, bottom, right = self.pads
        u = self.conv(F.pad(x, (left, right, top, bottom)))
        if self.order == "paper":
            u = self.norm(u)
        v = leaky(u, self.activation_alpha)
        if self.plain_gates != "open":
            g = self.gate_values(x, gate, v.shape[2:])
            v = torch.where(g > 0, v, torch.zeros_like(v)) * g.to(v.dtype)
        if self.order == "released":
            v = self.norm(v)
        return leaky(v if residual is None else v + residual, self.post_alpha)

    def gate_values(self, x: Tensor, gate: Tensor | None, hw: Sequence[int]) -> Tensor:
        """Return the gate of each output pixel, [N, 1, Ho, Wo], from a call of the gate.

        Args:
            x, gate: the layer's inputs, as in :meth:`forward`.
            hw: (Ho, Wo).
        """
        return upsample_gate(self._plain_gate_map(x, gate), self.gate_size, hw)

    def _plain_gate_map(self, x: Tensor, gate: Tensor | None) -> Tensor:
        relaxed = self.plain_gates == "relaxed"
        gmap = gate
        if self.gate is not None:
            logits = self.gate(x)
            own = logits.clamp(0, 2) if relaxed else self.gate.activate(logits)
            gmap = own if gate is None else own * gate
        assert gmap is not None
        return threshold_gate(gmap, 0.0 if self.training or relaxed else self.gate_threshold)

    def fold(self) -> tuple[dict[str, Tensor], Attributes]:
        """Return the op's constant inputs, norms folded in float64, and its attributes.

        Returns:
            W [K, R, S, C], B [K], gate_W [1, Rg, Sg, C], gate_B [1], post_scale and post_bias ([K]
            or [1]) by name; and the node's attributes.

        Raises:
            UserError: a norm cannot be folded, or a part runs code of its own when it is called.
        """
        code = own_code(self.parts())
        if code:
            raise UserError(
                f"the layer cannot be folded, because its {code}, which a folded layer would not run: call the layer in eval "
                "mode, or write into the parts what that code computes and remove it"
            )
        return constants_of(self), attributes_of(self)

    def extra_repr(self) -> str:
        """Return the options that ``print(model)`` shows."""
        parts = [f"gate={self.gate_kind!r}", f"order={self.order!r}", f"pads={self.pads}"]
        if self.gate_size > 1:
            parts.append(f"gate_size={self.gate_size}")
        if self.gate_threshold > 0:
            parts.append(f"gate_threshold={self.gate_threshold}")
        return ", ".join(parts)
