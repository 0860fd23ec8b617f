"""Writes a call of the op down for the kernels without touching a tensor: sizes, attributes, which inputs are real."""

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
"""Input of the contract -> pointer of the call."""
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
"""Compute capability -> bytes of shared memory that a block may opt in to, and of a multiprocessor (CUDA's own tables)."""


def padded(channels: int) -> int:
    """Channels of an NHWC tensor in memory."""
    return -(-channels // CHANNEL_PAD) * CHANNEL_PAD


def default_layout(dtype: Dtype) -> Layout:
    """float16 and bfloat16 lie in NHWC, float32 in NCHW."""
    return Layout.NCHW if dtype == Dtype.FLOAT32 else Layout.NHWC


def real_inputs(shapes: Mapping[str, Sequence[int]], attributes: Attributes) -> frozenset[str]:
    """Names of the inputs that the kernels are given; the others are neutral.

    A gate or residual is real where it has its full shape, which for a map of one pixel is the neutral shape too. gate_W is
    neutral where the gate is external. Affines are always given: of one element, they serve all channels.
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
    """A call without its tensors: all pointers are null.

    Args:
        shapes: input name -> shape, all nine, as the contract has them.
        layout: of x, residual and y; None: NHWC for float16 and bfloat16, NCHW for float32.

    Raises:
        ContractError: shapes that version 1 does not allow, or a number that 32 bits do not hold.
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
    """The nine shapes of a layer: its own gate or, if ``external``, a map; no residual, affines of one element."""
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
    """Attributes of a layer in the paper's order with the gate's geometry made to fit.

    Args:
        pads: top, left, bottom, right; None: half the kernel's extent, which keeps the size at stride 1.

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
    """ "9.0x132": compute capability and multiprocessors; "9.0x132x232448x233472" says the shared memory too.

    Raises:
        UserError: another form, or a compute capability whose shared memory is not known here.
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
