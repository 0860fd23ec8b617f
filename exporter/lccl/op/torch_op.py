"""``torch.ops.lccl.conv``: the op for PyTorch, with shape propagation and exact gradients.

Its arguments are the contract's inputs and attributes in their order, so that a call is exported by
copying it. It can be differentiated any number of times. The transforms of ``torch.func`` (grad,
vmap, jvp) read :func:`compute` in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from lccl.errors import ContractError
from lccl.op.contract import FLT_MAX, INPUT_NAMES, Attributes, output_shape

TORCH_ATTRIBUTES = (
    "strides",
    "pads",
    "dilations",
    "gate_strides",
    "gate_pads",
    "gate_dilations",
    "activation_alpha",
    "gate_slope",
    "gate_max",
    "gate_threshold",
    "gate_upsample",
    "post_alpha",
    "gate_source",
    "density",
)
"""Arguments of the torch op after the nine inputs; the exporter adds the plugin's two
attributes."""


def leaky(x: Tensor, alpha: float) -> Tensor:
    """Return x where x > 0, else alpha * x."""
    if alpha == 1:
        return x
    return F.relu(x) if alpha == 0 else F.leaky_relu(x, alpha)


def conv_krsc(x: Tensor, w: Tensor, b: Tensor, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Convolve x [N, C, H, W] with w [K, R, S, C] and b [K] to [N, K, Ho, Wo].

    Pads in ONNX order.
    """
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, w.permute(0, 3, 1, 2), b, tuple(strides), (top, left), tuple(dilations))


def gate_map(inputs: dict[str, Tensor], a: Attributes) -> Tensor:
    """Compute the gate map gmap [N, 1, Hg, Wg] in float32 (in float64 for float64 inputs)."""
    wide = torch.float64 if inputs["X"].dtype == torch.float64 else torch.float32
    x, w, b, gate = (inputs[name].to(wide) for name in ("X", "gate_W", "gate_B", "gate"))
    with _exact_float32(x.device):
        logit = conv_krsc(x, w, b, a.gate_strides, a.gate_pads, a.gate_dilations)
    return threshold_gate(bound_gate(logit, a.gate_slope, a.gate_max) * gate, a.gate_threshold)


def _exact_float32(device: torch.device) -> AbstractContextManager[object]:
    """Disable TF32, whose 10 bits of mantissa would flip gates by rounding."""
    if device.type != "cuda":
        return nullcontext()
    now = torch.backends.cudnn
    return now.flags(now.enabled, now.benchmark, now.benchmark_limit, now.deterministic, allow_tf32=False)  # type: ignore[no-any-return]


def bound_gate(logit: Tensor, slope: float, bound: float) -> Tensor:
    """Return min(max(slope * logit, 0), bound)."""
    gmap = (logit * slope).relu()
    return gmap.clamp(max=bound) if bound < FLT_MAX else gmap


def threshold_gate(gmap: Tensor, threshold: float) -> Tensor:
    """Return gmap where it is above the threshold, else 0; a NaN is not above it."""
    return torch.where(gmap > threshold, gmap, torch.zeros_like(gmap))


def upsample_gate(gmap: Tensor, grid: int, hw: Sequence[int]) -> Tensor:
    """Repeat gmap [N, 1, Hg, Wg] over G x G blocks, clipped to g [N, 1, Ho, Wo]."""
    if grid > 1:
        gmap = gmap.repeat_interleave(grid, dim=2).repeat_interleave(grid, dim=3)
    return gmap[:, :, : hw[0], : hw[1]]


def compute(inputs: dict[str, Tensor], a: Attributes) -> Tensor:
    """Compute the op in PyTorch's own differentiable ops.

    On the CPU, lower precision is computed in float32 and rounded once. Autocast is disabled,
    because the gate is decided in float32.

    Args:
        inputs: the nine inputs under their contract names.
        a: the node's attributes.

    Returns:
        Y [N, K, Ho, Wo] of X's type.
    """
    with torch.autocast(inputs["X"].device.type, enabled=False):
        return _compute(inputs, a)


def _compute(inputs: dict[str, Tensor], a: Attributes) -> Tensor:
    x = inputs["X"]
    out_type = x.dtype
    wide = torch.float32 if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    cast = {name: inputs[name].to(wide) for name in ("X", "W", "B", "post_scale", "post_bias", "residual")}
    u = leaky(conv_krsc(cast["X"], cast["W"], cast["B"], a.strides, a.pads, a.dilations), a.activation_alpha)
    g = upsample_gate(gate_map(inputs, a), a.grid, u.shape[2:])
    v = torch.where(g > 0, u, torch.zeros((), dtype=wide, device=x.device)) * g.to(wide)
    y = v * cast["post_scale"][None, :, None, None] + cast["post_bias"][None, :, None, None] + cast["residual"]
    return leaky(y, a.post_alpha).to(out_type)


@torch.library.custom_op("lccl::conv", mutates_args=())
def _lccl_conv(
    X: Tensor,
    W: Tensor,
    B: Tensor,
    gate_W: Tensor,
    gate_B: Tensor,
    gate: Tensor,
    post_scale: Tensor,
    post_bias: Tensor,
    residual: Tensor,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    gate_strides: Sequence[int],
    gate_pads: Sequence[int],
    gate_dilations: Sequence[int],
    activation_alpha: float,
    gate_slope: float,
    gate_max: float,
    gate_threshold: float,
    gate_upsample: Sequence[float],
    post_alpha: float,
    gate_source: str,
    density: float,
) -> Tensor:
    inputs, attributes = unpack(locals())
    output_shape({name: tuple(t.shape) for name, t in inputs.items()}, attributes)
    return match_memory_format(compute(inputs, attributes), X)


OP_DEFINITION = _lccl_conv
"""The op's definition in ``torch.library``, where implementations for other devices are
registered."""


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return Y's memory format: channels_last if X is that and not contiguous as well."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def match_memory_format(y: Tensor, x: Tensor) -> Tensor:
    """Return y, dense in the memory format that :func:`memory_format_of` gives for x."""
    return y.contiguous(memory_format=memory_format_of(x))


def unpack(arguments: Mapping[str, object]) -> tuple[dict[str, Tensor], Attributes]:
    """Split the op's arguments by name into its nine inputs and its attributes."""
    inputs = {name: cast(Tensor, arguments[name]) for name in INPUT_NAMES}
    values = (arguments[name] for name in TORCH_ATTRIBUTES)
    return inputs, _attributes(*(tuple(v) if isinstance(v, (list, tuple)) else v for v in values))


@lru_cache(maxsize=1024)
def _attributes(*values: Any) -> Attributes:
    """Make and check attributes once per layer instead of once per call."""
    return Attributes(**dict(zip(TORCH_ATTRIBUTES, values, strict=True)))


def _split(*arguments: Any) -> tuple[dict[str, Tensor], Attributes]:
    """Split the op's arguments in their order into its nine inputs and its attributes."""
    return unpack(dict(zip((*INPUT_NAMES, *TORCH_ATTRIBUTES), arguments, strict=True)))


@_lccl_conv.register_fake
def _fake(X: Tensor, W: Tensor, *rest: Any) -> Tensor:
    arguments = dict(zip((*INPUT_NAMES, *TORCH_ATTRIBUTES), (X, W, *rest), strict=True))
    strides, pads, dilations = (arguments[name] for name in ("strides", "pads", "dilations"))
    k, r, s, _ = W.shape
    ho, wo = (
        (X.shape[2 + i] + pads[i] + pads[i + 2] - dilations[i] * (kernel - 1) - 1) // strides[i] + 1
        for i, kernel in enumerate((r, s))
    )
    return torch.empty((X.shape[0], k, ho, wo), dtype=X.dtype, device=X.device, memory_format=memory_format_of(X))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch calls it by these names
    ctx.save_for_backward(*inputs[: len(INPUT_NAMES)])
    ctx.attributes = inputs[len(INPUT_NAMES) :]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Differentiate :func:`compute`; an inactive pixel passes no gradient to W, B and X.

    The result is differentiable itself, as penalties on gradients and second derivatives need it.
    """
    needed = [i for i in range(len(INPUT_NAMES)) if ctx.needs_input_grad[i]]
    saved = ctx.saved_tensors

    def of_needed(*tensors: Tensor) -> Tensor:
        given = dict(zip(needed, tensors, strict=True))
        return compute(*_split(*(given.get(i, tensor) for i, tensor in enumerate(saved)), *ctx.attributes))

    vjp = torch.func.vjp(of_needed, *(saved[i] for i in needed))[1]
    by_index = dict(zip(needed, vjp(grad), strict=True))
    return tuple(by_index.get(i) for i in range(len(INPUT_NAMES) + len(TORCH_ATTRIBUTES)))


_lccl_conv.register_autograd(_backward, setup_context=_setup_context)


def _transformed(*arguments: Any) -> Tensor:
    """Compute the op in PyTorch's own ops, which the transforms of ``torch.func`` read."""
    inputs, attributes = _split(*arguments)
    output_shape({name: tuple(t.shape) for name, t in inputs.items()}, attributes)
    return compute(inputs, attributes)


_TRANSFORMS: Any = torch.library.Library("lccl", "FRAGMENT")  # type: ignore[no-untyped-call]
"""The registration for the transforms of ``torch.func``. It ends with this object."""
# An op with register_autograd raises under grad, and gives jvp a tangent of 0 in silence.
_TRANSFORMS.impl("conv", _transformed, "FuncTorchDynamicLayerFrontMode")

OP = torch.ops.lccl.conv.default


def lccl_conv(inputs: dict[str, Tensor], attributes: Attributes) -> Tensor:
    """Run the op, in PyTorch's own ops where it is differentiated in forward mode.

    Args:
        inputs: the nine inputs under their contract names; X is [N, C, H, W], W is [K, R, S, C].
        attributes: the node's attributes.

    Returns:
        Y [N, K, Ho, Wo] of X's type.

    Raises:
        ContractError: shapes that version 1 does not allow.
    """
    values = [getattr(attributes, name) for name in TORCH_ATTRIBUTES]
    if forward_ad._current_level >= 0:  # PyTorch's library of ops has no forward mode
        return _transformed(*(inputs[name] for name in INPUT_NAMES), *values)
    y: Tensor = OP(*(inputs[name] for name in INPUT_NAMES), *values)
    return y


def neutral(name: str, like: Tensor, *, k: int, c: int) -> Tensor:
    """Make the neutral value of an absent input, in the contract's type for it.

    Args:
        name: the input's name.
        like: a tensor of type T, on the device of the result.
        k, c: the numbers of output and input channels.
    """
    shape, value = {
        "B": ((k,), 0.0),
        "gate_W": ((1, 1, 1, c), 0.0),
        "gate_B": ((1,), 1.0),
        "gate": ((1, 1, 1, 1), 1.0),
        "post_scale": ((1,), 1.0),
        "post_bias": ((1,), 0.0),
        "residual": ((1, 1, 1, 1), 0.0),
    }[name]
    wide = name in ("B", "gate_B", "post_scale", "post_bias")
    dtype = torch.promote_types(like.dtype, torch.float32) if wide else like.dtype
    return torch.full(shape, value, dtype=dtype, device=like.device)


def call_op(
    x: Tensor, constants: dict[str, Tensor], attributes: Attributes, gate: Tensor | None, residual: Tensor | None
) -> Tensor:
    """Call the op on x, with neutral values where the gate map or the residual is absent.

    Args:
        x: [N, C, H, W].
        constants: the constant inputs, as a layer is folded to.
        attributes: the node's attributes.
        gate: an external gate map [N, 1, Hg, Wg], or None.
        residual: [N, K, Ho, Wo], or None.

    Returns:
        Y [N, K, Ho, Wo].
    """
    if x.dim() != 4:
        raise ContractError(f"X is [N, C, H, W], not {list(x.shape)}")
    k, c = constants["W"].shape[0], x.shape[1]
    given = {
        "X": x,
        "gate": neutral("gate", x, k=k, c=c) if gate is None else gate,
        "residual": neutral("residual", x, k=k, c=c) if residual is None else residual,
    }
    return lccl_conv(given | constants, attributes)
