"""Gated convolutions in standard ops, found before the canonical form and held against the graph that they were found in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from lccl.errors import UserError
from lccl.graph.canonical import canonical
from lccl.graph.recognise import Found, NearMiss, Recognition, recognise
from lccl.graph.twins import dense_twin
from lccl.numerics import Agreement, Array, agreement, merge
from lccl.op.onnx_op import is_lccl_node
from lccl.progress import Progress
from lccl.run.base import infer_all
from lccl.run.onnxruntime import OnnxRuntimeRunner
from lccl.text import count, table
from lccl.verify import default_tolerance, has_hard_gates, runnable, with_open_gates

TOLERANCE = 1e-5
"""Of float32: between the graph with the nodes and the graph that they were found in, relative to max(0.01, largest output)."""
Feeds = Sequence[Mapping[str, Array]]


class NothingToGainError(UserError):
    """The network has no gated convolution; ``near_misses`` are what looked like one."""

    def __init__(self, message: str, near_misses: tuple[NearMiss, ...]) -> None:
        super().__init__(message)
        self.near_misses = near_misses


@dataclass(frozen=True)
class Recognised:
    """A traced network with the nodes that its own graph allows."""

    model: onnx.ModelProto
    layers: tuple[Found, ...] = ()
    near_misses: tuple[NearMiss, ...] = ()
    checked: Agreement | None = None
    """Against the traced network, as built; None where nothing was found."""
    checked_open: Agreement | None = None
    """As ``checked`` with every gate 1; None too where the gates cannot be opened in the traced network."""

    @property
    def masks(self) -> frozenset[str]:
        """Inputs of the network that have to be at least 0."""
        return frozenset(name for layer in self.layers for name in layer.masks)


def find_layers(
    traced: onnx.ModelProto, feeds: Feeds, given: Mapping[str, Array] | None, fuse: bool, progress: Progress
) -> Recognised:
    """Every gated convolution of the network as a node, but for those with which it would compute something else.

    Args:
        feeds: random inputs of the traced network.
        given: the caller's own inputs; a mask among them that has values below 0 is no gate.

    Raises:
        NothingToGainError: no node was there or found.
    """
    progress("looking for gated convolutions")
    back: dict[str, NearMiss] = {}
    while True:
        found = recognise(traced, fuse=fuse, skip=back)
        wrong = _negative_mask(found, given)
        if wrong is None and found.found:
            progress("comparing with the graph as it was", len(back), len(found.found) + len(back))
            wrong, checks = _first_wrong(traced, found, feeds)
        if wrong is None:
            break
        layer, reason = wrong
        back[layer.product] = NearMiss(layer.name, reason)
    misses = (*found.near_misses, *back.values())
    if not any(is_lccl_node(n) for n in found.model.graph.node):
        raise NothingToGainError(_nothing(misses), misses)
    if not found.found:
        return Recognised(traced, near_misses=misses)
    return Recognised(found.model, found.found, misses, *checks)


def masked(feeds: Sequence[Mapping[str, Array]], masks: frozenset[str], seed: int = 0) -> list[dict[str, Array]]:
    """The random feeds with masks from outside as such: at least 0, and about half of each 0."""
    rng = np.random.default_rng(seed)

    def mask(values: Array) -> Array:
        if values.dtype.kind in "iu":
            return rng.integers(0, 2, values.shape).astype(values.dtype)
        positive: Array = np.maximum(values, values.dtype.type(0))
        return positive

    return [{name: mask(values) if name in masks else values for name, values in feed.items()} for feed in feeds]


def explained(near_misses: Sequence[NearMiss]) -> str:
    """Near misses as a table, or a sentence where there are none."""
    if not near_misses:
        return "No product looks like a gated convolution without being one."
    return table(("product", "why it is no gated convolution"), [(miss.node, miss.reason) for miss in near_misses])


def _nothing(misses: Sequence[NearMiss]) -> str:
    near = ""
    if misses:
        near = (
            f" ({count(len(misses), 'product')} that {'look' if len(misses) > 1 else 'looks'} like one: --explain says why not)"
        )
    return (
        f"the model has no LCCL layer or LCCLConv node, and no gated convolution was found in its graph{near}, so there is "
        "nothing to gain: gate a convolution with lccl.nn.LCCLConv2d"
    )


def _negative_mask(found: Recognition, given: Mapping[str, Array] | None) -> tuple[Found, str] | None:
    for layer in found.found:
        for name in layer.masks:
            if given is not None and name in given and (np.asarray(given[name]) < 0).any():
                return layer, f"its gate, input {name}, has values below 0 in the given inputs"
    return None


# ---- the check ------------------------------------------------------------------------------------------------------


def _first_wrong(
    traced: onnx.ModelProto, found: Recognition, feeds: Feeds
) -> tuple[tuple[Found, str] | None, tuple[Agreement, Agreement | None]]:
    """The layer with which the network computes something else, as built or with open gates; or the two agreements."""
    masks = frozenset(name for layer in found.found for name in layer.masks)
    fed = masked([dict(f) for f in feeds], masks)
    whole = canonical(found.model)
    built = _agree(runnable(traced), whole, fed)
    if not built:
        return _blame(runnable(traced), whole, found.found, fed, built), (built, None)
    opened = _with_open_products(traced, found.found)
    if opened is None:
        return None, (built, None)
    twin = dense_twin(whole)
    both = _agree(opened, twin, fed[:1])
    return (None if both else _blame(opened, twin, found.found, fed[:1], both)), (built, both)


def _tolerance(model: onnx.ModelProto) -> float:
    usual = default_tolerance(model)
    return TOLERANCE if usual < 1e-3 else usual


def _agree(reference: onnx.ModelProto, other: onnx.ModelProto, feeds: Feeds) -> Agreement:
    """Two models in ONNX Runtime on the same inputs."""
    parts = []
    with OnnxRuntimeRunner(reference, optimize=False) as first, OnnxRuntimeRunner(other) as second:
        for feed in feeds:
            known = {name: feed[name] for name in first.input_names}
            expected, got = infer_all(first, known), infer_all(second, known)
            parts.append(agreement(expected, got, _tolerance(other), hard_gates=has_hard_gates(other)))
    return merge(parts)


def _blame(
    reference: onnx.ModelProto, other: onnx.ModelProto, layers: Sequence[Found], feeds: Feeds, result: Agreement
) -> tuple[Found, str]:
    """The first layer whose own output differs; where none does, the one that differs most."""
    names = [layer.output for layer in layers]
    pair = [_with_outputs(model, names) for model in (reference, other)]
    errors = []
    with OnnxRuntimeRunner(pair[0], optimize=False) as first, OnnxRuntimeRunner(pair[1]) as second:
        known = {name: feeds[0][name] for name in first.input_names}
        expected, got = infer_all(first, known), infer_all(second, known)
    for name in names:
        errors.append(agreement({name: expected[name]}, {name: got[name]}, _tolerance(other)).relative_error)
    place = next((i for i, e in enumerate(errors) if not e <= _tolerance(other)), int(np.argmax(errors)))
    return layers[place], f"put back: as a node it changes the network's output (max error {result.max_error:.1e})"


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    present = {o.name for o in out.graph.output}
    made = {name for node in out.graph.node for name in node.output}
    out.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in present and n in made)
    return out


def _with_open_products(traced: onnx.ModelProto, layers: Sequence[Found]) -> onnx.ModelProto | None:
    """The traced network with every gate taken as 1 where its product reads it; None where it has other products."""
    out = with_open_gates(runnable(traced))
    products = {node.output[0]: node for node in out.graph.node if node.op_type == "Mul" and len(node.output) == 1}
    ones: dict[str, list[onnx.NodeProto]] = {}
    for name, place in (gate for layer in layers for gate in layer.gates):
        node = products.get(name)
        if node is None:
            return None
        one = f"open.product.{name}.{place}"
        ones.setdefault(name, []).append(helper.make_node("CastLike", ["open.map", node.input[1 - place]], [one]))
        node.input[place] = one
    nodes = [n for node in out.graph.node for n in (*ones.get(node.output[0] if node.output else "", ()), node)]
    rebuilt = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del out.graph.node[:]
    out.graph.node.extend(rebuilt)
    return out
