"""The gates of a product: a convolution that the op computes itself, or maps that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from lccl.graph.constants import stored_shape, stored_type
from lccl.graph.nodes import is_computed, is_op, optional_input, past_copies, producer, weights_of
from lccl.graph.recognise.blockers import is_activation, unknown_activation
from lccl.graph.recognise.branch import Branch
from lccl.graph.recognise.context import Context
from lccl.graph.recognise.elementwise import GateFunction, step_of
from lccl.graph.recognise.geometry import Geometry, conv_geometry, conv_input, fitting_pads
from lccl.graph.recognise.intervals import hardly_zero, lower_bound
from lccl.graph.recognise.masks import mask_input
from lccl.graph.recognise.rearrange import rearranged, upsampling
from lccl.graph.recognise.refusal import MatchStage, RefusalError
from lccl.graph.shapes import FLOAT_TYPES, Shape
from lccl.op.contract import BINARY_SLOPE, FLT_MAX


@dataclass(frozen=True)
class GateCandidate:
    """A factor of a product that may be a gate."""

    tensor: gs.Tensor
    reader: gs.Node
    """The product that multiplies it."""


@dataclass(frozen=True)
class FusedGate:
    """A gate that the op computes: gate_W, gate_B and the function of their map."""

    conv: gs.Node
    scale: float
    shift: float
    """``scale * logit + shift`` is folded into the weights."""
    slope: float
    maximum: float
    threshold: float
    grid: int
    geometry: Geometry


@dataclass(frozen=True)
class GivenMap:
    """A map of the graph, and the elementwise nodes that make it the gate."""

    tensor: gs.Tensor
    threshold: float = 0.0
    """What is not above it counts as 0, as the op has it of a gate that is alone."""
    then: tuple[tuple[gs.Node, gs.Tensor], ...] = ()
    """Nodes to apply to the map once more, each with the input that the map takes the place of."""


@dataclass(frozen=True)
class ExternalGate:
    """A gate that is computed outside of the op."""

    maps: dict[int, GivenMap]
    """G -> the map [N, 1, ceil(Ho / G), ceil(Wo / G)]."""
    masks: frozenset[str]
    """Inputs of the network that the rewrite assumes to be at least 0."""
    closes_nothing: str = ""
    """Why the gate closes no pixel, so that another one has to; empty if it may close some."""


@dataclass(frozen=True)
class GatedBranch:
    """The branch that a gate is multiplied onto, and the shape that the gate has to fit."""

    product: gs.Node
    branch: Branch
    geometry: Geometry
    """The geometry of the branch's convolution."""
    shapes: tuple[Shape, ...]
    """[N, K, Ho, Wo] at each probe."""


def split_gates(candidate: GateCandidate, context: Context) -> list[GateCandidate]:
    """Return the factors of a product of gates with no other reader; others as they are."""
    node = producer(candidate.tensor)
    if (
        is_op(node, "Mul")
        and node is not None
        and all(map(is_computed, node.inputs))
        and context.other_reader(candidate.tensor, candidate.reader) is None
        and all(_at_least_zero(t, context) for t in node.inputs)
    ):
        return [part for t in node.inputs for part in split_gates(GateCandidate(t, node), context)]
    return [candidate]


def _at_least_zero(tensor: gs.Tensor, context: Context) -> bool:
    return lower_bound(tensor, context.sizes) >= 0 or mask_input(tensor, context) is not None


# ---- a gate that the op computes -----------------------------------------------------------------


def fused_gate(candidate: GateCandidate, gated: GatedBranch, context: Context) -> FusedGate | None:
    """Return the candidate as a clamped convolution of the branch's own input to one map.

    The result is None if it is another map.

    Raises:
        RefusalError: it is a convolution of the same input that visits other pixels.
    """
    function = GateFunction()
    rearrangements: list[gs.Node] = []
    shared = False
    tensor, reader = candidate.tensor, candidate.reader
    while not is_op(producer(tensor), "Conv"):
        shared = shared or context.other_reader(tensor, reader) is not None
        step = step_of(tensor)
        if step is not None:
            for inner in step.functions:
                composed = function.compose(inner)
                if composed is None:
                    return None
                function = composed
            reader, tensor = tensor.inputs[0], step.inner
        else:
            further = rearranged(tensor)
            if further is None:
                return None
            reader, tensor = tensor.inputs[0], further
            rearrangements.append(reader)
    if shared or context.other_reader(tensor, reader) is not None:
        return None
    conv = tensor.inputs[0]
    if not _reads_the_same(conv, gated.branch.conv, context):
        return None
    return _fused(conv, function, rearrangements[::-1], gated, context)


def _reads_the_same(conv: gs.Node, main: gs.Node, context: Context) -> bool:
    """Return whether the convolution makes one map of the main convolution's input.

    Its weights have to be stored.
    """
    weight = stored_shape(conv.inputs[1])
    bias = optional_input(conv, 2)
    stored = bias is None or stored_shape(bias) is not None
    if not stored or weight is None or len(weight) != 4 or weight[0] != 1 or conv.attrs.get("group", 1) != 1:
        return False
    x = conv_input(conv)
    if x is not conv_input(main) and context.sizes.types.get(x.name) == TensorProto.FLOAT:
        x = _in_its_own_type(x, context)
    return past_copies(x) is past_copies(conv_input(main))


def _in_its_own_type(x: gs.Tensor, context: Context) -> gs.Tensor:
    """Return what is cast to float32, in which the op computes a gate anyway."""
    node = producer(past_copies(x))
    of_float = node is not None and is_op(node, "Cast") and context.sizes.types.get(node.inputs[0].name) in FLOAT_TYPES
    return node.inputs[0] if node is not None and of_float else x


def _fused(
    conv: gs.Node, function: GateFunction, rearrangements: Sequence[gs.Node], gated: GatedBranch, context: Context
) -> FusedGate | None:
    main, whole = gated.branch.conv, gated.geometry
    geometry = conv_geometry(conv, context)
    if not rearrangements and geometry.strides != whole.strides:
        reason = (
            f"{context.label(conv)}, its gate, has strides {geometry.strides}, but {context.label(main)} has "
            f"{whole.strides}: different strides"
        )
        raise RefusalError(reason, MatchStage.GEOMETRY)
    ratio = max(geometry.strides[0] // whole.strides[0], 1)
    grid = upsampling(rearrangements, conv.outputs[0], main.outputs[0], gated.shapes, context.sizes, ratio)
    if grid is None or geometry.strides != (whole.strides[0] * grid, whole.strides[1] * grid):
        return None
    weight = stored_shape(conv.inputs[1])
    assert weight is not None, "its weights are stored"
    fitted = fitting_pads(geometry, weight[2:], whole, (stored_shape(main.inputs[1]) or weight)[2:])
    if fitted is None:
        return None
    if function.height is not None:
        if not _fits(conv, main, function.scale):
            return None
        return FusedGate(conv, function.scale, function.shift, BINARY_SLOPE, function.height, 0.0, grid, fitted)
    threshold = max(function.cut, 0.0)
    if not (function.low == 0 or function.cut >= max(function.low, 0.0)) or not function.high > threshold:
        return None
    scale, slope = (1.0, function.scale) if function.shift == 0 and function.scale > 0 else (function.scale, 1.0)
    if not _fits(conv, main, scale):
        return None
    return FusedGate(conv, scale, function.shift, slope, min(function.high, FLT_MAX), threshold, grid, fitted)


def _fits(conv: gs.Node, main: gs.Node, scale: float) -> bool:
    """Return whether the gate's weights are the same in the type of the main convolution's."""
    kind = stored_type(main.inputs[1])
    if stored_type(conv.inputs[1]) == kind:
        return True
    weight = weights_of(conv.inputs[1]).astype(np.float64) * scale
    return bool((weight.astype(helper.tensor_dtype_to_np_dtype(kind)).astype(np.float64) == weight).all())


# ---- a gate that the op is given -----------------------------------------------------------------


def external_gate(tensor: gs.Tensor, gated: GatedBranch, context: Context, *, alone: bool = False) -> ExternalGate:
    """Return the tensor as one map for all channels that is at least 0.

    The map comes at each resolution at which the graph has it.

    Args:
        tensor: the factor.
        gated: what it is multiplied onto.
        context: the graph.
        alone: the product has no other gate, so that the op compares this one with a threshold.

    Raises:
        RefusalError: it is no such map.
    """
    maps, plain = _maps_of(tensor, gated, context, alone)
    if not maps:
        raise RefusalError(_why_no_map(tensor, gated, context), MatchStage.GATE_FORM)
    low = lower_bound(tensor, context.sizes)
    who = context.label_of(plain)
    mask = mask_input(tensor, context) if low < 0 else None
    if low < 0 and mask is None:
        reason = f"its gate, {who}, may be negative: nothing before it clamps it at 0"
        raise RefusalError(reason, MatchStage.UNSUPPORTED)
    return ExternalGate(maps, frozenset() if mask is None else frozenset({mask}), _closes_nothing(tensor, who, low, context))


def _closes_nothing(tensor: gs.Tensor, who: str, low: float, context: Context) -> str:
    """Return why the gate closes no pixel, or an empty string if it may close some."""
    if low > 0:
        return f"its gate, {who}, is never 0, so no pixel can be skipped"
    of = hardly_zero(tensor)
    if of is None:
        return ""
    return f"its gate, {who}, is 0 only where {context.label(of)} is exactly 0, so almost no pixel can be skipped"


def _maps_of(operand: gs.Tensor, gated: GatedBranch, context: Context, alone: bool) -> tuple[dict[int, GivenMap], gs.Tensor]:
    """Return the operand at each resolution that the graph has, and what it rearranges.

    An elementwise node behind an upsampling gives the same before it, where there are fewer pixels.
    """
    found: dict[int, GivenMap] = {}
    rearrangements: list[gs.Node] = []
    steps: list[tuple[gs.Node, gs.Tensor]] = []
    tensor = plain = operand
    threshold = 0.0
    while True:
        cut = producer(tensor)
        if alone and not steps and cut is not None and is_op(cut, "ThresholdedRelu") and cut.attrs.get("alpha", 1.0) >= 0:
            threshold, tensor = max(threshold, cut.attrs.get("alpha", 1.0)), cut.inputs[0]
            continue
        grid = upsampling(rearrangements[::-1], tensor, gated.branch.conv.outputs[0], gated.shapes, context.sizes)
        if grid is not None and (grid > 1 or not steps):
            found[grid] = GivenMap(tensor, threshold, tuple(steps[::-1]))
        further, step = rearranged(tensor), step_of(tensor)
        if step is not None and context.is_original(tensor.inputs[0]):
            steps.append((tensor.inputs[0], step.inner))
            tensor = step.inner
        elif further is not None:
            rearrangements.append(tensor.inputs[0])
            tensor = further
            plain = plain if steps else tensor
        else:
            return found, plain


def _why_no_map(operand: gs.Tensor, gated: GatedBranch, context: Context) -> str:
    who = context.label_of(operand)
    shapes = context.sizes.of(operand)
    if shapes is None:
        return f"the shape of its other factor, {who}, is not known: export with known sizes"
    shape = shapes[0]
    _, channels, height, width = gated.shapes[0]
    if len(shape) == 4 and shape[1] == channels != 1:
        if shape[2:] == (1, 1):
            return f"its other factor, {who}, is a mask per channel (squeeze-and-excitation), not per pixel"
        return f"its other factor, {who}, has a mask for each of {channels} channels (the paper's option 1), not one for all channels"
    return f"its other factor, {who}, of shape {list(shape)}, is not one map [N, 1, {height}, {width}]"


# ---- all gates of a product ----------------------------------------------------------------------


@dataclass(frozen=True)
class ProductGates:
    """The gates of one node: at most one that the op computes, and maps that it is given."""

    fused: FusedGate | None
    external: tuple[GivenMap, ...]
    grid: int
    masks: frozenset[str]


def combine(candidates: Sequence[GateCandidate], gated: GatedBranch, context: Context) -> ProductGates:
    """Return the gates of a product, on the coarsest grid that all of them have.

    A map that is never 0 goes with a gate that closes pixels. A gate with a threshold is computed
    by the op only if it is alone, since the op would compare the product of all gates with the
    threshold.

    Raises:
        RefusalError: one of them is no gate, or none closes pixels.
    """
    fused: FusedGate | None = None
    rest: list[ExternalGate] = []
    for candidate in candidates:
        if is_activation(candidate.reader) and any(candidate.reader is node for node in gated.branch.nodes):
            raise RefusalError(unknown_activation(candidate.reader, context), MatchStage.GATE_FORM)
        own = fused_gate(candidate, gated, context) if fused is None else None
        if own is not None and ((own.grid == 1 and own.threshold == 0) or len(candidates) == 1):
            fused = own
        else:
            rest.append(external_gate(candidate.tensor, gated, context, alone=len(candidates) == 1))
    if fused is None and all(gate.closes_nothing for gate in rest):
        raise RefusalError(rest[0].closes_nothing, MatchStage.UNSUPPORTED)
    common = set.intersection(*({*gate.maps} for gate in rest)) if rest else set()
    grid = fused.grid if fused is not None else max(common, default=0)
    if rest and grid not in common:
        raise RefusalError(f"the gates of {context.label(gated.product)} are on different grids", MatchStage.GEOMETRY)
    masks = frozenset().union(*(gate.masks for gate in rest))
    return ProductGates(fused, tuple(gate.maps[grid] for gate in rest), grid, masks)
