"""The gate of a product: a convolution that the op computes itself, or a map that it is given."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lccl.graph.nodes import as_written, is_computed, is_op, optional_input, other_reader, past_copies, title
from lccl.graph.recognise.between import is_activation, unknown_activation
from lccl.graph.recognise.bounds import hardly_zero, lower_bound
from lccl.graph.recognise.branch import Branch
from lccl.graph.recognise.clamp import Gating, step_of
from lccl.graph.recognise.geometry import Geometry, conv_geometry, conv_input, fitting_pads
from lccl.graph.recognise.masks import mask_input
from lccl.graph.recognise.movement import moved, upsampling
from lccl.graph.recognise.refusal import RefusalError
from lccl.graph.shapes import Shape, Sizes
from lccl.graph.surgery import producer, stored_shape
from lccl.op.contract import BINARY_SLOPE, FLT_MAX


@dataclass(frozen=True)
class FusedGate:
    """gate_W, gate_B and what the op does to their map."""

    conv: gs.Node
    scale: float
    shift: float
    """Of the logit, to be folded into the weights."""
    slope: float
    maximum: float
    threshold: float
    grid: int
    geometry: Geometry


@dataclass(frozen=True)
class GivenMap:
    """A map of the graph, and elementwise nodes that it has to go through once more to be the gate."""

    tensor: gs.Tensor
    then: tuple[tuple[gs.Node, gs.Tensor], ...] = ()
    """Each with the input that the map takes the place of."""


@dataclass(frozen=True)
class ExternalGate:
    """A map that is computed outside of the op."""

    maps: dict[int, GivenMap]
    """G -> the map [N, 1, ceil(Ho / G), ceil(Wo / G)]."""
    masks: frozenset[str]
    """Inputs of the network on whose being at least 0 the rewrite rests."""
    closes_nothing: str = ""
    """Why it closes no pixel, so that another gate has to; empty where it may."""


@dataclass(frozen=True)
class Place:
    """Where a gate has to fit: the product it is of."""

    product: gs.Node
    branch: Branch
    geometry: Geometry
    """Of the branch's convolution."""
    shapes: tuple[Shape, ...]
    """[N, K, Ho, Wo] at each probe."""
    outputs: Container[int]
    """Ids of the tensors that the network returns."""
    sizes: Sizes


def split_gates(operand: gs.Tensor, reader: gs.Node, outputs: Container[int], sizes: Sizes) -> list[tuple[gs.Tensor, gs.Node]]:
    """A product of gates that nobody else reads as its factors, each with its reader; any other gate as it is."""
    node = producer(operand)
    if (
        is_op(node, "Mul")
        and node is not None
        and all(map(is_computed, node.inputs))
        and other_reader(operand, reader, outputs) is None
        and all(_at_least_zero(t, outputs, sizes) for t in node.inputs)
    ):
        return [part for t in node.inputs for part in split_gates(t, node, outputs, sizes)]
    return [(operand, reader)]


def _at_least_zero(tensor: gs.Tensor, outputs: Container[int], sizes: Sizes) -> bool:
    return lower_bound(tensor, sizes) >= 0 or mask_input(tensor, outputs, sizes) is not None


# ---- a gate that the op computes ------------------------------------------------------------------------------------


def fused_gate(operand: gs.Tensor, reader: gs.Node, place: Place) -> FusedGate | None:
    """The operand as a convolution of the branch's own input to one map, clamped; None where it is another map.

    Raises:
        RefusalError: a convolution of the same input that takes other pixels.
    """
    gating, moves, shared = Gating(), [], False
    tensor = operand
    while not is_op(producer(tensor), "Conv"):
        shared = shared or other_reader(tensor, reader, place.outputs) is not None
        passed = step_of(tensor)
        if passed is not None:
            for step in passed.steps:
                after = gating.through(step)
                if after is None:
                    return None
                gating = after
            reader, tensor = tensor.inputs[0], passed.inner
        else:
            further = moved(tensor)
            if further is None:
                return None
            reader, tensor = tensor.inputs[0], further
            moves.append(reader)
    if shared or other_reader(tensor, reader, place.outputs) is not None:
        return None
    return _fused(tensor.inputs[0], gating, moves[::-1], place)


def _fused(conv: gs.Node, gating: Gating, moves: list[gs.Node], place: Place) -> FusedGate | None:
    main = place.branch.conv
    weight = stored_shape(conv.inputs[1])
    bias = optional_input(conv, 2)
    stored = bias is None or stored_shape(bias) is not None
    if not stored or weight is None or len(weight) != 4 or weight[0] != 1 or conv.attrs.get("group", 1) != 1:
        return None
    if past_copies(conv_input(conv)) is not past_copies(conv_input(main)):
        return None
    geometry, whole = conv_geometry(conv, place.sizes), place.geometry
    if not moves and geometry.strides != whole.strides:
        raise RefusalError(
            f"{title(conv)}, its gate, has strides {geometry.strides}, but {title(main)} has {whole.strides}: different strides",
            7,
        )
    grid = upsampling(moves, conv.outputs[0], main.outputs[0], place.shapes, place.sizes)
    if grid is None or geometry.strides != (whole.strides[0] * grid, whole.strides[1] * grid):
        return None
    fitted = fitting_pads(geometry, weight[2:], whole, (stored_shape(main.inputs[1]) or weight)[2:])
    if fitted is None:
        return None
    if gating.height is not None:
        return FusedGate(conv, gating.scale, gating.shift, BINARY_SLOPE, gating.height, 0.0, grid, fitted)
    threshold = max(gating.cut, 0.0)
    if not (gating.low == 0 or gating.cut >= max(gating.low, 0.0)) or not gating.high > threshold:
        return None
    return FusedGate(conv, gating.scale, gating.shift, 1.0, min(gating.high, FLT_MAX), threshold, grid, fitted)


# ---- a gate that the op is given ------------------------------------------------------------------------------------


def external_gate(operand: gs.Tensor, place: Place) -> ExternalGate:
    """The operand as one map for all channels that is at least 0, at each resolution at which the graph has it.

    Raises:
        RefusalError: it is none; the reason says why.
    """
    maps, plain = _maps_of(operand, place)
    if not maps:
        raise RefusalError(_why_no_map(operand, place), 4)
    low = lower_bound(operand, place.sizes)
    who = title(plain.inputs[0]) if plain.inputs else f"input {plain.name}"
    mask = mask_input(operand, place.outputs, place.sizes) if low < 0 else None
    if low < 0 and mask is None:
        raise RefusalError(f"its gate, {who}, may be negative: nothing before it clamps it at 0", 5)
    return ExternalGate(maps, frozenset() if mask is None else frozenset({mask}), _closes_nothing(operand, who, low))


def _closes_nothing(operand: gs.Tensor, who: str, low: float) -> str:
    if low > 0:
        return f"its gate, {who}, is never 0, so no pixel can be skipped"
    of = hardly_zero(operand)
    return "" if of is None else f"its gate, {who}, is 0 only where {title(of)} is exactly 0, so hardly a pixel can be skipped"


def _maps_of(operand: gs.Tensor, place: Place) -> tuple[dict[int, GivenMap], gs.Tensor]:
    """The operand at each resolution at which the graph has it, and what it is a rearrangement of.

    An elementwise step behind an upsampling is as well made before it, where there are fewer pixels.
    """
    found: dict[int, GivenMap] = {}
    moves: list[gs.Node] = []
    steps: list[tuple[gs.Node, gs.Tensor]] = []
    tensor = plain = operand
    while True:
        grid = upsampling(moves[::-1], tensor, place.branch.conv.outputs[0], place.shapes, place.sizes)
        if grid is not None and (grid > 1 or not steps):
            found[grid] = GivenMap(tensor, tuple(steps[::-1]))
        further, passed = moved(tensor), step_of(tensor)
        if passed is not None and as_written(tensor.inputs[0]):
            steps.append((tensor.inputs[0], passed.inner))
            tensor = passed.inner
        elif further is not None:
            moves.append(tensor.inputs[0])
            tensor = further
            plain = plain if steps else tensor
        else:
            return found, plain


def _why_no_map(operand: gs.Tensor, place: Place) -> str:
    who = title(operand.inputs[0]) if operand.inputs else f"input {operand.name}"
    shapes = place.sizes.of(operand)
    if shapes is None:
        return f"the shape of its other factor, {who}, cannot be told: export with known sizes"
    shape = shapes[0]
    channels = place.shapes[0][1]
    if len(shape) == 4 and shape[1] == channels != 1:
        if shape[2:] == (1, 1):
            return f"its other factor, {who}, is a mask per channel (squeeze-and-excitation), not per pixel"
        return f"its other factor, {who}, has a mask for each of {channels} channels (the paper's option 1): no pixel is closed in all"
    return f"its other factor, {who}, of shape {list(shape)}, is not one map [N, 1, {place.shapes[0][2]}, {place.shapes[0][3]}]"


# ---- all gates of a product -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gates:
    """What one node of the op takes: at most one gate of its own, and maps that are multiplied outside of it."""

    fused: FusedGate | None
    external: tuple[GivenMap, ...]
    grid: int
    masks: frozenset[str]


def combine(operands: Sequence[tuple[gs.Tensor, gs.Node]], place: Place) -> Gates:
    """The gates of a product in the coarsest grid that all of them have.

    A map that is never 0 goes with a gate that closes pixels; a threshold of the op's would be one of their product.

    Raises:
        RefusalError: one of them is no gate, or none closes pixels.
    """
    fused: FusedGate | None = None
    rest: list[ExternalGate] = []
    for operand, reader in operands:
        if is_activation(reader) and any(reader is node for node in place.branch.nodes):
            raise RefusalError(unknown_activation(reader), 4)
        own = fused_gate(operand, reader, place) if fused is None else None
        if own is not None and ((own.grid == 1 and own.threshold == 0) or len(operands) == 1):
            fused = own
        else:
            rest.append(external_gate(operand, place))
    if fused is None and all(gate.closes_nothing for gate in rest):
        raise RefusalError(rest[0].closes_nothing, 5)
    common = set.intersection(*({*gate.maps} for gate in rest)) if rest else set()
    grid = fused.grid if fused is not None else max(common, default=0)
    if rest and grid not in common:
        raise RefusalError(f"the gates of {title(place.product)} are on different grids", 7)
    masks = frozenset().union(*(gate.masks for gate in rest))
    return Gates(fused, tuple(gate.maps[grid] for gate in rest), grid, masks)
