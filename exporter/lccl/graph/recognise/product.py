"""One Mul of a graph: a layer of the op, a near miss with its reason, or neither."""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lccl.graph.nodes import as_written, depends_on, is_computed, is_op, title
from lccl.graph.recognise.between import is_activation
from lccl.graph.recognise.branch import Branch, check_branch, check_readers, find_branches
from lccl.graph.recognise.clamp import step_of
from lccl.graph.recognise.gates import Gates, Place, combine, external_gate, split_gates
from lccl.graph.recognise.geometry import Geometry, conv_geometry
from lccl.graph.recognise.movement import moved
from lccl.graph.recognise.refusal import RefusalError
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import producer, stored_shape


@dataclass(frozen=True)
class Product:
    """A product that is a layer of the op."""

    mul: gs.Node
    branch: Branch
    geometry: Geometry
    gates: Gates

    @property
    def operands(self) -> tuple[tuple[str, int], ...]:
        """Each gate's place: the product that reads it, by the tensor that this gives, and the operand; a Where's condition is 0."""
        muls = [self.mul, *(node for node in self.branch.nodes if is_op(node, "Mul"))]
        return tuple(
            (mul.outputs[0].name, place if as_written(mul) else 0)
            for mul in muls
            for place, tensor in enumerate(mul.inputs)
            if is_computed(tensor) and all(tensor is not passed for passed, _ in self.branch.path)
        )


def read_product(mul: gs.Node, sizes: Sizes, outputs: Container[int]) -> Product | RefusalError | None:
    """What the Mul is: a layer; a near miss; or None, nothing that looks like one.

    Args:
        outputs: ids of the tensors that the network returns.
    """
    if len(mul.inputs) != 2 or not all(map(is_computed, mul.inputs)) or is_activation(mul):
        return None
    refusals: list[RefusalError] = []
    for place in (0, 1):
        operand, other = mul.inputs[place], mul.inputs[1 - place]
        try:
            for branch in find_branches(operand, mul):
                try:
                    return _layer(mul, branch, other, sizes, outputs)
                except RefusalError as refusal:
                    refusal.conv = branch.conv
                    refusals.append(refusal)
        except RefusalError as refusal:
            if _is_gate_map_in_any_order(other, sizes):
                refusal.conv = refusal.conv or _conv_behind(operand)
                refusals.append(refusal)
    refusals += _without_convolution(mul, sizes)
    return max(refusals, key=lambda r: r.stage) if refusals else None


def _layer(mul: gs.Node, branch: Branch, other: gs.Tensor, sizes: Sizes, outputs: Container[int]) -> Product:
    shapes = check_branch(branch, sizes)
    geometry = conv_geometry(branch.conv, sizes)
    place = Place(mul, branch, geometry, shapes, outputs, sizes)
    outer, *inner = (split_gates(gate, reader, outputs, sizes) for gate, reader in _gates_of(mul, branch, other))
    gates = combine([*outer, *itertools.chain(*inner)], place)
    if inner and all(_closes_nothing(gate, place) for gate, _ in outer):
        _require_no_worse(gates, combine(list(itertools.chain(*inner)), place), mul)
    if sizes.of(mul.outputs[0]) not in (shapes, None):
        raise RefusalError(f"{title(mul)} repeats what {title(branch.conv)} computes", 3)
    check_readers(branch, outputs)
    inside = {id(node) for node in branch.nodes} | {id(mul)}
    kernel = (stored_shape(branch.conv.inputs[1]) or ())[2:]
    asking = {id(node) for node in branch.shape_readers} if geometry.keeps_size(kernel) else set()
    if any(depends_on(given.tensor, inside, asking) for given in gates.external):
        raise RefusalError(f"the gate is computed from what {title(branch.conv)} computes", 6)
    return Product(mul, branch, geometry, gates)


def _closes_nothing(gate: gs.Tensor, place: Place) -> bool:
    try:
        return bool(external_gate(gate, place).closes_nothing)
    except RefusalError:
        return False


def _require_no_worse(gates: Gates, inner: Gates, mul: gs.Node) -> None:
    """Raises:
    RefusalError: without the factor of this product, which closes nothing, the product further in would be a better layer.
    """
    if inner.grid > gates.grid or (inner.fused is not None and gates.fused is None):
        raise RefusalError(
            f"the factor of {title(mul)} closes nothing, and with it the gate further in could not be the op's own", 7
        )


def _gates_of(mul: gs.Node, branch: Branch, other: gs.Tensor) -> list[tuple[gs.Tensor, gs.Node]]:
    """Every gate with the product that reads it."""
    inner = [node for node in branch.nodes if is_op(node, "Mul")]
    pairs = [(other, mul)]
    for gate in branch.gates:
        pairs.append((gate, next(n for n in inner if any(t is gate for t in n.inputs))))
    return pairs


def _is_gate_map(tensor: gs.Tensor, sizes: Sizes, channel: int = 1) -> bool:
    """Whether a tensor looks like a gate wherever it is used: one map that is cut off at 0."""
    shapes = sizes.of(tensor)
    if shapes is None or step_of(tensor) is None:
        return False
    return all(len(s) == 4 and s[channel] == 1 and (s[2], s[4 - channel]) != (1, 1) for s in shapes)


def _is_gate_map_in_any_order(tensor: gs.Tensor, sizes: Sizes) -> bool:
    """Whether it is one, with its channel last, or once it is rearranged: repeated for each of several, quantised and back."""
    while not (_is_gate_map(tensor, sizes) or _is_gate_map(tensor, sizes, 3)):
        node = producer(tensor)
        further = node.inputs[0] if node is not None and is_op(node, "QuantizeLinear", "DequantizeLinear") else moved(tensor)
        if further is None:
            return False
        tensor = further
    return True


def _without_convolution(mul: gs.Node, sizes: Sizes) -> list[RefusalError]:
    """A gate on something that is no convolution's output."""
    for place in (0, 1):
        gated, gate = mul.inputs[place], mul.inputs[1 - place]
        shapes, node = sizes.of(gated), producer(gated)
        if _is_gate_map(gate, sizes) and shapes is not None and len(shapes[0]) == 4 and shapes[0][1] > 1:
            what = title(node) if node is not None else f"input {gated.name}"
            refusal = RefusalError(f"its gate is on {what}, which is not the output of one convolution", 1)
            refusal.conv = _conv_behind(gated)
            return [refusal]
    return []


def _conv_behind(tensor: gs.Tensor) -> gs.Node | None:
    """The convolution that the tensor is computed from, by nodes of one computed input each."""
    node = producer(tensor)
    while node is not None and not is_op(node, "Conv", "ConvTranspose"):
        computed = [t for t in node.inputs if is_computed(t)]
        node = producer(computed[0]) if len(computed) == 1 else None
    return node
