"""Names, inputs, attributes, neutral values and shapes of ``lccl::LCCLConv``, version 1.

Every implementation of the op (ONNX schema and function body, NumPy reference, PyTorch op) takes
its names and defaults from here.

Meaning, for an output pixel p = (n, ho, wo) and an output channel k::

    logit   = gate_B + sum(gate_W * X)                          one map of its own strides, pads,
    dilations gmap    = min(max(gate_slope * logit, 0), gate_max) * gate  gate: an external map, or
    1 gmap    = 0 where not gmap > gate_threshold g[p]    = gmap[n, ho // G, wo // G]
    G = gate_upsample[2] u[p,k]  = leaky(B[k] + sum(W[k] * X around p), activation_alpha) v[p,k]  =
    u[p,k] * g[p] if g[p] > 0 else 0                  not computed where g[p] is not > 0 Y[p,k]  =
    leaky(v[p,k] * post_scale[k] + post_bias[k] + residual[p,k], post_alpha)

with leaky(x, a) = x if x > 0 else a * x. A pixel with g = 0 is *inactive*: a NaN of X that only
inactive pixels read does not reach Y. With a neutral gate_W, a NaN of X at a pixel that the
external gate keeps open either reaches Y or closes the pixel: the formula closes it, an
implementation that skips the neutral gate does not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from lccl.errors import ContractError

DOMAIN = "lccl"
OP_TYPE = "LCCLConv"
VERSION = 1
QUALIFIED_NAME = f"{DOMAIN}::{OP_TYPE}"
FLT_MAX = 3.4028234663852886e38
"""The largest finite float32: ``gate_max`` of a gate without an upper bound."""
BINARY_SLOPE = 1e30
"""``gate_slope`` of a hard mask, and its largest value: runtimes fold the slope into float32
weights."""

Shape = tuple[int, ...]
AttributeValue = int | float | str | tuple[int, ...] | tuple[float, ...]
"""The value of one attribute, in the type that :meth:`AttributeSpec.coerce` gives it."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the op; :data:`INPUTS` lists them in order."""

    name: str
    dims: str
    """The shape as text, for documents and messages."""
    is_tensor_type: bool
    """Whether the type is T (float, float16 or bfloat16); otherwise it is always float32."""
    neutral: float | None
    """The value that means "no such input"; None where the input is always needed."""


INPUTS = (
    InputSpec("X", "[N, C, H, W]", True, None),
    InputSpec("W", "[K, R, S, C]", True, None),
    InputSpec("B", "[K]", False, 0.0),
    InputSpec("gate_W", "[1, Rg, Sg, C]", True, 0.0),
    InputSpec("gate_B", "[1]", False, None),
    InputSpec("gate", "[N, 1, Hg, Wg] or [1, 1, 1, 1]", True, 1.0),
    InputSpec("post_scale", "[K] or [1]", False, 1.0),
    InputSpec("post_bias", "[K] or [1]", False, 0.0),
    InputSpec("residual", "[N, K, Ho, Wo] or [1, 1, 1, 1]", True, 0.0),
)
INPUT_NAMES = tuple(spec.name for spec in INPUTS)
OPTIONAL_INPUTS = ("gate", "post_scale", "post_bias", "residual")
"""Inputs whose neutral value has one element, by which kernels recognise it."""
OUTPUT_NAME = "Y"
TENSOR_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")

AttributeKind = Literal["int", "ints", "float", "floats", "string"]


def _attribute(kind: AttributeKind, default: Any, *, in_maths: bool = True) -> Any:
    return field(default=default, metadata={"kind": kind, "in_maths": in_maths})


@dataclass(frozen=True)
class Attributes:
    """All attributes of one node, under their ONNX names, with the contract's defaults.

    Raises:
        ContractError: a value that version 1 does not allow.
    """

    strides: tuple[int, int] = _attribute("ints", (1, 1))
    pads: tuple[int, int, int, int] = _attribute("ints", (0, 0, 0, 0))
    """ONNX order: top, left, bottom, right."""
    dilations: tuple[int, int] = _attribute("ints", (1, 1))
    gate_strides: tuple[int, int] = _attribute("ints", (1, 1))
    """strides * G."""
    gate_pads: tuple[int, int, int, int] = _attribute("ints", (0, 0, 0, 0))
    gate_dilations: tuple[int, int] = _attribute("ints", (1, 1))
    activation_alpha: float = _attribute("float", 1.0)
    """The slope of the negative side: 1 for no activation, 0 for ReLU, else LeakyReLU."""
    gate_slope: float = _attribute("float", 1.0)
    gate_max: float = _attribute("float", FLT_MAX)
    gate_threshold: float = _attribute("float", 0.0)
    gate_upsample: tuple[float, float, float, float] = _attribute("floats", (1.0, 1.0, 1.0, 1.0))
    """1, 1, G, G, where one gate value serves a G x G block of output pixels."""
    post_alpha: float = _attribute("float", 1.0)
    gate_source: str = _attribute("string", "fused", in_maths=False)
    """"external" where gate_W is neutral, so that kernels skip the fused gate."""
    density: float = _attribute("float", -1.0, in_maths=False)
    """Calibrated density (fraction of pixels computed), for timing and reports; -1: unknown."""
    plugin_version: str = _attribute("string", "1", in_maths=False)
    plugin_namespace: str = _attribute("string", "", in_maths=False)

    def __post_init__(self) -> None:
        for spec in ATTRIBUTES:
            object.__setattr__(self, spec.name, spec.coerce(getattr(self, spec.name)))
        _check_attributes(self)

    @property
    def grid(self) -> int:
        """G, the side of the block of output pixels that shares one gate value."""
        return int(self.gate_upsample[2])

    def as_dict(self) -> dict[str, AttributeValue]:
        """Return every attribute's value by name, in the contract's order."""
        return {spec.name: getattr(self, spec.name) for spec in ATTRIBUTES}

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Attributes:
        """Make attributes from values by name; missing ones take the contract's default.

        Raises:
            ContractError: an unknown name, or a value that version 1 does not allow.
        """
        unknown = sorted(set(values) - {spec.name for spec in ATTRIBUTES})
        if unknown:
            raise ContractError(
                f"{OP_TYPE} has no attribute {', '.join(unknown)}; version {VERSION} knows "
                f"{', '.join(spec.name for spec in ATTRIBUTES)}"
            )
        given: dict[str, Any] = dict(values)
        return cls(**given)


@dataclass(frozen=True)
class AttributeSpec:
    """One attribute as ONNX, the plugin and the documents need it."""

    name: str
    kind: AttributeKind
    default: AttributeValue
    in_maths: bool
    """Whether Y depends on it; the function body reads no other attribute."""

    def coerce(self, value: object) -> AttributeValue:
        """Convert a value to the attribute's type: int, float, str, tuple of int or of float.

        Raises:
            ContractError: a value of another type or length.
        """
        given: Any = value
        try:
            if self.kind == "string":
                return given.decode() if isinstance(given, bytes) else str(given)
            if self.kind == "float":
                return float(given)
            if self.kind == "int":
                return operator.index(given)
            values = tuple(float(v) if self.kind == "floats" else operator.index(v) for v in given)
        except (TypeError, ValueError, UnicodeDecodeError):
            raise ContractError(f"{OP_TYPE}: {self.name} must be of kind {self.kind}, not {value!r}") from None
        length = len(self.default) if isinstance(self.default, tuple) else 1
        if len(values) != length:
            raise ContractError(f"{OP_TYPE}: {self.name} takes {length} numbers, not {len(values)}")
        return values


ATTRIBUTES = tuple(
    AttributeSpec(f.name, f.metadata["kind"], cast(AttributeValue, f.default), f.metadata["in_maths"])
    for f in fields(Attributes)
)


def _check_attributes(a: Attributes) -> None:
    for name in ("strides", "dilations", "gate_strides", "gate_dilations"):
        if min(getattr(a, name)) < 1:
            raise ContractError(f"{OP_TYPE}: {name} must be positive, not {getattr(a, name)}")
    for name in ("pads", "gate_pads"):
        if min(getattr(a, name)) < 0:
            raise ContractError(f"{OP_TYPE}: {name} must not be negative, not {getattr(a, name)}")
    one_n, one_c, gh, gw = a.gate_upsample
    if one_n != 1 or one_c != 1 or gh != gw or not 1 <= gh < math.inf or gh != int(gh):
        raise ContractError(f"{OP_TYPE}: gate_upsample must be 1, 1, G, G with a whole G >= 1, not {a.gate_upsample}")
    if not a.gate_slope > 0 or not a.gate_max > 0 or not a.gate_threshold >= 0:
        raise ContractError(f"{OP_TYPE}: gate_slope and gate_max must be positive and gate_threshold not negative")
    if a.gate_slope > BINARY_SLOPE * (1 + 1e-6):  # 1e30 is a little more in float32
        raise ContractError(f"{OP_TYPE}: gate_slope must not be above {BINARY_SLOPE:g}, the slope of a hard mask")
    for name in ("activation_alpha", "post_alpha", "gate_max", "gate_threshold"):
        if not abs(getattr(a, name)) <= FLT_MAX:
            raise ContractError(f"{OP_TYPE}: {name} must be a finite float32, not {getattr(a, name)}")
    if a.gate_source not in ("fused", "external"):
        raise ContractError(f"{OP_TYPE}: gate_source must be fused or external, not {a.gate_source!r}")
    if not (a.density == -1 or 0 <= a.density <= 1):
        raise ContractError(f"{OP_TYPE}: density must be -1 or between 0 and 1, not {a.density}")


def conv_size(size: int, kernel: int, stride: int, pad_begin: int, pad_end: int, dilation: int) -> int:
    """Return the output length of one axis of a convolution, rounded down."""
    return (size + pad_begin + pad_end - dilation * (kernel - 1) - 1) // stride + 1


def conv_hw(
    hw: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> tuple[int, int]:
    """Return the output height and width of a convolution.

    Args:
        hw, kernel, strides, dilations: height and width of each.
        pads: in ONNX order (top, left, bottom, right).
    """
    h, w = (conv_size(hw[i], kernel[i], strides[i], pads[i], pads[i + 2], dilations[i]) for i in (0, 1))
    return h, w


def grid_hw(hw: Sequence[int], grid: int) -> tuple[int, int]:
    """Return the height and width of the gate map over an output of size ``hw``: ceil(hw / G)."""
    return -(-hw[0] // grid), -(-hw[1] // grid)


def output_shape(shapes: Mapping[str, Sequence[int]], attributes: Attributes) -> Shape:
    """Check the nine input shapes against version 1 and return the shape of Y, [N, K, Ho, Wo].

    Args:
        shapes: the shapes of all nine inputs by name.
        attributes: the node's attributes.

    Raises:
        ContractError: a shape does not fit; the message says what it should be.
    """
    a = attributes
    missing = [name for name in INPUT_NAMES if name not in shapes]
    if missing:
        raise ContractError(f"{OP_TYPE}: inputs {', '.join(missing)} are missing; all nine are always present")
    for name, rank in (("X", 4), ("W", 4), ("gate_W", 4), ("gate", 4), ("residual", 4)):
        if len(shapes[name]) != rank:
            raise ContractError(f"{OP_TYPE}: {name} must have rank {rank}, not shape {tuple(shapes[name])}")
    n, c, h, w = shapes["X"]
    k, r, s, wc = shapes["W"]
    one, rg, sg, gc = shapes["gate_W"]
    if wc != c:
        raise ContractError(
            f"{OP_TYPE}: W is [K, R, S, C] with C = {wc}, but X has {c} channels; groups are not part of version 1"
        )
    if one != 1 or gc != c:
        raise ContractError(f"{OP_TYPE}: gate_W must be [1, Rg, Sg, {c}], not {tuple(shapes['gate_W'])}")
    ho, wo = conv_hw((h, w), (r, s), a.strides, a.pads, a.dilations)
    if ho < 1 or wo < 1:
        raise ContractError(f"{OP_TYPE}: X of {h}x{w} is smaller than the kernel {r}x{s} with pads {a.pads}")
    hg_wg = grid_hw((ho, wo), a.grid)
    gate_hw = conv_hw((h, w), (rg, sg), a.gate_strides, a.gate_pads, a.gate_dilations)
    if gate_hw != hg_wg:
        raise ContractError(
            f"{OP_TYPE}: the gate's convolution gives {gate_hw[0]}x{gate_hw[1]}, but an output of {ho}x{wo} "
            f"with G = {a.grid} needs {hg_wg[0]}x{hg_wg[1]}"
        )
    expected = {
        "B": ((k,),),
        "gate_B": ((1,),),
        "gate": ((n, 1, *hg_wg), (1, 1, 1, 1)),
        "post_scale": ((k,), (1,)),
        "post_bias": ((k,), (1,)),
        "residual": ((n, k, ho, wo), (1, 1, 1, 1)),
    }
    for name, allowed in expected.items():
        if tuple(shapes[name]) not in allowed:
            choices = " or ".join(str(list(shape)) for shape in allowed)
            raise ContractError(f"{OP_TYPE}: {name} must be {choices}, not {list(shapes[name])}")
    return (n, k, ho, wo)


def check_geometry(w_shape: Sequence[int], gate_w_shape: Sequence[int], attributes: Attributes) -> None:
    """Check that the gate map fits the output for every size of X.

    Args:
        w_shape: [K, R, S, C].
        gate_w_shape: [1, Rg, Sg, C].
        attributes: the node's attributes.

    Raises:
        ContractError: gate_strides are not strides * G, or pads - extent differs between the two
            convolutions.
    """
    a = attributes
    if a.gate_strides != (a.strides[0] * a.grid, a.strides[1] * a.grid):
        raise ContractError(f"{OP_TYPE}: gate_strides must be strides * G = {a.strides} * {a.grid}, not {a.gate_strides}")
    for i, axis in enumerate(("height", "width")):
        slack = a.pads[i] + a.pads[i + 2] - a.dilations[i] * (w_shape[i + 1] - 1)
        gate_slack = a.gate_pads[i] + a.gate_pads[i + 2] - a.gate_dilations[i] * (gate_w_shape[i + 1] - 1)
        if slack != gate_slack:
            raise ContractError(
                f"{OP_TYPE}: the gate's convolution does not give the size of the output along the {axis}: pads - dilation "
                f"* (kernel - 1) is {gate_slack} for the gate and {slack} for the convolution"
            )


def gate_pads(
    conv_kernel: Sequence[int],
    conv_pads: Sequence[int],
    conv_dilations: Sequence[int],
    strides: Sequence[int],
    gate_kernel: Sequence[int],
    grid: int,
    *,
    gate_dilations: Sequence[int] = (1, 1),
) -> tuple[int, int, int, int]:
    """Return the pads that make the gate map ceil(Ho / G) x ceil(Wo / G) for every input size.

    The sizes agree exactly when pads - extent is the same for both convolutions along each axis,
    with extent = dilation * (kernel - 1). The gate's window is centred on its block of output
    pixels as far as pads >= 0 allow.

    Args:
        conv_kernel, conv_dilations, strides: height and width of the convolution's.
        conv_pads: of the convolution, in ONNX order (top, left, bottom, right).
        gate_kernel, gate_dilations: height and width of the gate's.
        grid: G, the side of a block of output pixels.

    Returns:
        The gate's pads in ONNX order.

    Raises:
        ContractError: no pads >= 0 exist, because the gate's kernel is too small for an unpadded
            convolution.
    """
    begin, end = [], []
    for i in (0, 1):
        extent = conv_dilations[i] * (conv_kernel[i] - 1)
        gate_extent = gate_dilations[i] * (gate_kernel[i] - 1)
        total = conv_pads[i] + conv_pads[i + 2] - extent + gate_extent
        centred = conv_pads[i] - extent // 2 + gate_extent // 2 - strides[i] * (grid - 1) // 2
        first = min(max(centred, 0), max(total, 0))
        if total < 0:
            raise ContractError(
                f"a gate kernel of {gate_kernel[0]}x{gate_kernel[1]} cannot cover a {conv_kernel[0]}x{conv_kernel[1]} "
                f"convolution with pads {tuple(conv_pads)}: pad the convolution, or take the k x k gate"
            )
        begin.append(first)
        end.append(total - first)
    return begin[0], begin[1], end[0], end[1]


def dense_macs(w_shape: Sequence[int], out_hw: Sequence[int]) -> int:
    """Return the MACs per image with every pixel computed: K * C * R * S * Ho * Wo."""
    k, r, s, c = w_shape
    return k * r * s * c * out_hw[0] * out_hw[1]


def gate_macs(gate_w_shape: Sequence[int], gate_hw: Sequence[int]) -> int:
    """Return the fused gate's multiply-accumulates per image: C * Rg * Sg * Hg * Wg."""
    _, rg, sg, c = gate_w_shape
    return rg * sg * c * gate_hw[0] * gate_hw[1]
