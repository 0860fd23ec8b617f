"""One Mul of a graph: a layer of the op, a near miss with its reason, or neither."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lccl.graph.nodes import depends_on, is_computed, is_op, producer
from lccl.graph.op_sets import QUANTIZERS, REPORTED_CONVOLUTIONS
from lccl.graph.recognise.blockers import is_activation
from lccl.graph.recognise.branch import Branch, check_branch, check_readers, find_branches
from lccl.graph.recognise.context import Context
from lccl.graph.recognise.elementwise import step_of
from lccl.graph.recognise.gates import GateCandidate, GatedBranch, ProductGates, combine, external_gate, split_gates
from lccl.graph.recognise.geometry import Geometry, conv_geometry
from lccl.graph.recognise.rearrange import rearranged
from lccl.graph.recognise.refusal import MatchStage, Refusal, RefusalError


@dataclass(frozen=True)
class Product:
    """A product that is a layer of the op."""

    mul: gs.Node
    branch: Branch
    geometry: Geometry
    gates: ProductGates

    def gate_places(self, context: Context) -> tuple[tuple[str, int], ...]:
        """Return where each gate comes in.

        A place is the tensor that the gate's product gives, and the number of the operand.

        Of a Where, the condition is the gate, at place 0. A product within one has a place too.
        """
        muls = [self.mul, *(node for node in self.branch.nodes if is_op(node, "Mul"))]
        found = [
            (mul.outputs[0].name, place if context.is_original(mul) else 0)
            for mul in muls
            for place, tensor in enumerate(mul.inputs)
            if is_computed(tensor) and all(tensor is not link for link, _ in self.branch.links)
        ]
        return (*found, *(context.guarded[id(mul)] for mul in muls if id(mul) in context.guarded))


def read_product(mul: gs.Node, context: Context) -> Product | Refusal | None:
    """Return what the Mul is: a layer; a near miss; or None if it does not look like one."""
    if len(mul.inputs) != 2 or not all(map(is_computed, mul.inputs)) or is_activation(mul):
        return None
    refusals: list[Refusal] = []
    for place in (0, 1):
        operand, other = mul.inputs[place], mul.inputs[1 - place]
        try:
            for branch in find_branches(operand, mul, context):
                try:
                    return _layer(mul, branch, other, context)
                except RefusalError as error:
                    refusals.append(error.refusal(branch.conv))
        except RefusalError as error:
            if _is_gate_map_in_any_order(other, context):
                refusals.append(error.refusal(_conv_behind(operand)))
    refusals += _without_convolution(mul, context)
    return max(refusals, key=lambda r: r.stage) if refusals else None


def _layer(mul: gs.Node, branch: Branch, other: gs.Tensor, context: Context) -> Product:
    shapes = check_branch(branch, context)
    geometry = conv_geometry(branch.conv, context)
    gated = GatedBranch(mul, branch, geometry, shapes)
    outer, *inner = (split_gates(candidate, context) for candidate in _candidates(mul, branch, other))
    gates = combine([*outer, *itertools.chain(*inner)], gated, context)
    if inner and all(_closes_nothing(candidate, gated, context) for candidate in outer):
        without = combine(list(itertools.chain(*inner)), gated, context)
        if without.grid > gates.grid or (without.fused is not None and gates.fused is None):
            reason = (
                f"the factor of {context.label(mul)} closes no pixel, and the op cannot apply it together with the inner gate"
            )
            raise RefusalError(reason, MatchStage.GEOMETRY)
    if context.sizes.of(mul.outputs[0]) not in (shapes, None):
        reason = f"{context.label(mul)} repeats what {context.label(branch.conv)} computes"
        raise RefusalError(reason, MatchStage.CONVOLUTION)
    check_readers(branch, context)
    inside = {id(node) for node in branch.nodes} | {id(mul)}
    asking = {id(node) for node in branch.shape_readers}  # they get the shape from the convolution's input
    if any(depends_on(given.tensor, inside, asking) for given in gates.external):
        reason = f"the gate is computed from what {context.label(branch.conv)} computes"
        raise RefusalError(reason, MatchStage.READERS)
    return Product(mul, branch, geometry, gates)


def _closes_nothing(candidate: GateCandidate, gated: GatedBranch, context: Context) -> bool:
    try:
        return bool(external_gate(candidate.tensor, gated, context).closes_nothing)
    except RefusalError:
        return False


def _candidates(mul: gs.Node, branch: Branch, other: gs.Tensor) -> list[GateCandidate]:
    """List every factor besides the branch with its product, the outermost product's first."""
    inner = [node for node in branch.nodes if is_op(node, "Mul")]
    found = [GateCandidate(other, mul)]
    for gate in branch.gates:
        found.append(GateCandidate(gate, next(n for n in inner if any(t is gate for t in n.inputs))))
    return found


def _is_gate_map(tensor: gs.Tensor, context: Context, channel: int = 1) -> bool:
    """Return whether the tensor is one map, from an elementwise function, as gates are.

    Args:
        channel: the axis of the channels.
    """
    shapes = context.sizes.of(tensor)
    if shapes is None or step_of(tensor) is None:
        return False
    return all(len(s) == 4 and s[channel] == 1 and (s[2], s[4 - channel]) != (1, 1) for s in shapes)


def _is_gate_map_in_any_order(tensor: gs.Tensor, context: Context) -> bool:
    """Return whether the tensor is a gate map with channels first or last.

    It may be rearranged or quantised.
    """
    while not (_is_gate_map(tensor, context) or _is_gate_map(tensor, context, 3)):
        node = producer(tensor)
        further = node.inputs[0] if node is not None and is_op(node, *QUANTIZERS) else rearranged(tensor)
        if further is None:
            return False
        tensor = further
    return True


def _without_convolution(mul: gs.Node, context: Context) -> list[Refusal]:
    """Refuse a gate on something that is no convolution's output, at most once."""
    for place in (0, 1):
        gated, gate = mul.inputs[place], mul.inputs[1 - place]
        shapes = context.sizes.of(gated)
        if _is_gate_map(gate, context) and shapes is not None and len(shapes[0]) == 4 and shapes[0][1] > 1:
            reason = f"its gate is on {context.label_of(gated)}, which is not the output of one convolution"
            return [Refusal(reason, MatchStage.GATE_ALONE, _conv_behind(gated))]
    return []


def _conv_behind(tensor: gs.Tensor) -> gs.Node | None:
    """Return the convolution behind nodes of one computed input each, or None."""
    node = producer(tensor)
    while node is not None and not is_op(node, *REPORTED_CONVOLUTIONS):
        computed = [t for t in node.inputs if is_computed(t)]
        node = producer(computed[0]) if len(computed) == 1 else None
    return node
