"""Descriptions of calls for the kernels, without tensors: sizes, attributes, neutral inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lccl.backends.torch.cuda.interface import ABI, CHANNEL_PAD, ConvParams, Device, Dtype, Layout
from lccl.errors import ContractError, UserError
from lccl.op.contract import INPUT_NAMES, Attributes, Shape, gate_pads, grid_hw, output_shape

POINTERS = {
    "X": "x",
    "W": "weight",
    "B": "bias",
    "gate_W": "gate_weight",
    "gate_B": "gate_bias",
    "gate": "gate",
    "post_scale": "post_scale",
    "post_bias": "post_bias",
    "residual": "residual",
}
"""The field of ``ConvParams`` that points to each input of the contract."""
DTYPES = {"float32": Dtype.FLOAT32, "float16": Dtype.FLOAT16, "bfloat16": Dtype.BFLOAT16}
_LARGEST = 2**31 - 1

_SHARED = {
    (7, 0): (98304, 98304),
    (7, 5): (65536, 65536),
    (8, 0): (166912, 167936),
    (8, 6): (101376, 102400),
    (8, 7): (166912, 167936),
    (8, 9): (101376, 102400),
    (9, 0): (232448, 233472),
    (10, 0): (232448, 233472),
    (10, 3): (232448, 233472),
    (11, 0): (232448, 233472),
    (12, 0): (101376, 102400),
    (12, 1): (101376, 102400),
}
"""By compute capability, the bytes of shared memory of a block (opt-in) and of a multiprocessor,
from CUDA's tables."""


def padded(channels: int) -> int:
    """Return the number of channels of an NHWC tensor in memory, padding included."""
    return -(-channels // CHANNEL_PAD) * CHANNEL_PAD


def default_layout(dtype: Dtype) -> Layout:
    """Return the default layout of a type: NHWC for float16 and bfloat16, NCHW for float32."""
    return Layout.NCHW if dtype == Dtype.FLOAT32 else Layout.NHWC


def real_inputs(shapes: Mapping[str, Sequence[int]], attributes: Attributes) -> frozenset[str]:
    """Return the names of the inputs that the kernels are given; the others are neutral.

    A gate or residual is given if it has its full shape, which is also the neutral shape for a map
    of one pixel. gate_W is neutral if the gate is external. post_scale and post_bias are always
    given: one element serves all channels.
    """
    n, k, ho, wo = output_shape(shapes, attributes)
    real = set(INPUT_NAMES)
    if attributes.gate_source == "external":
        real.discard("gate_W")
    if tuple(shapes["gate"]) != (n, 1, *grid_hw((ho, wo), attributes.grid)):
        real.discard("gate")
    if tuple(shapes["residual"]) != (n, k, ho, wo):
        real.discard("residual")
    return frozenset(real)


def conv_params(
    shapes: Mapping[str, Sequence[int]], attributes: Attributes, dtype: Dtype, layout: Layout | None = None
) -> ConvParams:
    """Describe a call without its tensors, all pointers null.

    Args:
        shapes: the shapes of all nine inputs by name, as the contract has them.
        attributes: the node's attributes.
        dtype: the type of the tensors.
        layout: the layout of x, residual and y; None: :func:`default_layout`.

    Raises:
        ContractError: shapes that version 1 does not allow, or a number that does not fit into 32
            bits.
    """
    a = attributes
    real = real_inputs(shapes, a)
    n, c, h, w = shapes["X"]
    k, r, s, _ = shapes["W"]
    _, gate_r, gate_s, _ = shapes["gate_W"]
    whole = {
        "n": n, "c": c, "h": h, "w": w, "k": k, "r": r, "s": s, "gate_r": gate_r, "gate_s": gate_s, "grid": a.grid,
        "post_scale_size": shapes["post_scale"][0], "post_bias_size": shapes["post_bias"][0],
        "has_gate_weight": int("gate_W" in real), "has_gate": int("gate" in real), "has_residual": int("residual" in real),
    }  # fmt: skip
    rows = {
        "strides": a.strides,
        "pads": a.pads,
        "dilations": a.dilations,
        "gate_strides": a.gate_strides,
        "gate_pads": a.gate_pads,
        "gate_dilations": a.gate_dilations,
    }
    for name, numbers in {**{name: (number,) for name, number in whole.items()}, **rows}.items():
        if max(numbers) > _LARGEST:
            raise ContractError(f"{name} = {max(numbers)} is more than the CUDA kernels' 32-bit sizes hold: split the call")
    params = ConvParams(abi=ABI, dtype=dtype, layout=default_layout(dtype) if layout is None else layout, **whole)
    for name, numbers in rows.items():
        getattr(params, name)[:] = numbers
    for name in ("activation_alpha", "gate_slope", "gate_max", "gate_threshold", "post_alpha", "density"):
        setattr(params, name, getattr(a, name))
    return params


def layer_shapes(
    x: Shape, out_channels: int, kernel: Shape, attributes: Attributes, gate_kernel: Shape = (1, 1), *, external: bool = False
) -> dict[str, Shape]:
    """Return the nine shapes of a layer without residual, post_scale and post_bias.

    Args:
        x: [N, C, H, W].
        out_channels: K.
        kernel: (R, S).
        attributes: the node's attributes.
        gate_kernel: (Rg, Sg).
        external: whether the gate map is an input.
    """
    shapes = {
        "X": x,
        "W": (out_channels, *kernel, x[1]),
        "B": (out_channels,),
        "gate_W": (1, *gate_kernel, x[1]),
        "gate_B": (1,),
        "gate": (1, 1, 1, 1),
        "post_scale": (1,),
        "post_bias": (1,),
        "residual": (1, 1, 1, 1),
    }
    if external:
        n, _, ho, wo = output_shape(shapes, attributes)
        shapes["gate"] = (n, 1, *grid_hw((ho, wo), attributes.grid))
    return shapes


def layer_attributes(
    kernel: tuple[int, int],
    *,
    stride: int = 1,
    pads: tuple[int, int, int, int] | None = None,
    dilation: int = 1,
    grid: int = 1,
    gate_kernel: tuple[int, int] = (1, 1),
    activation_alpha: float = 0.0,
    density: float = -1.0,
    external: bool = False,
) -> Attributes:
    """Return the attributes of a layer in the paper's order, with gate pads that fit.

    Args:
        kernel: (R, S).
        stride: along both axes.
        pads: top, left, bottom, right; None: half the kernel's extent, which keeps the size at
            stride 1.
        dilation: along both axes.
        grid: G, the side of a block of output pixels.
        gate_kernel: (Rg, Sg).
        activation_alpha, density: as the contract has them.
        external: whether the gate map is an input.

    Raises:
        ContractError: a gate kernel that cannot cover the convolution.
    """
    if pads is None:
        extent = [dilation * (side - 1) for side in kernel]
        pads = (extent[0] // 2, extent[1] // 2, extent[0] - extent[0] // 2, extent[1] - extent[1] // 2)
    strides, dilations = (stride, stride), (dilation, dilation)
    return Attributes(
        strides=strides,
        pads=pads,
        dilations=dilations,
        gate_strides=(stride * grid, stride * grid),
        gate_pads=gate_pads(kernel, pads, dilations, strides, gate_kernel, grid),
        activation_alpha=activation_alpha,
        gate_upsample=(1, 1, grid, grid),
        gate_source="external" if external else "fused",
        density=density,
    )


def parse_device(text: str) -> Device:
    """Read a device from text.

    Args:
        text: "9.0x132" (compute capability x multiprocessors), or "9.0x132x232448x233472" with the
            bytes of shared memory of a block and of a multiprocessor.

    Raises:
        UserError: the text has another form, or the shared memory of the compute capability is
            unknown.
    """
    version, *numbers = text.lower().split("x")
    major, dot, minor = version.partition(".")
    right = dot and all(part.isdigit() for part in (major, minor, *numbers)) and len(numbers) in (1, 3)
    if not right or int(numbers[0]) < 1 or len(minor) != 1:
        raise UserError(
            "a device is written like 9.0x132 (compute capability x multiprocessors) or 9.0x132x232448x233472 (and bytes of "
            f"shared memory a block and a multiprocessor), not {text!r}"
        )
    capability = (int(major), int(minor))
    if len(numbers) == 1 and capability not in _SHARED:
        raise UserError(f"the shared memory of compute capability {version} is not known here: write {text}xBLOCKxSM, in bytes")
    block, multiprocessor = map(int, numbers[1:]) if len(numbers) == 3 else _SHARED[capability]
    return Device(capability[0] * 10 + capability[1], int(numbers[0]), block, multiprocessor)
