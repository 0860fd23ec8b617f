"""Gated convolutions in standard ops, found before the canonical form and held against the graph that they were found in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import Fix, UserError, first_line
from lccl.graph.checks import default_tolerance
from lccl.graph.recognise import Found, NearMiss, Recognition, recognise
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.graph.variants.open_gates import with_open_gates
from lccl.graph.variants.relaxed import has_hard_gates, with_relaxed_gates
from lccl.graph.variants.relaxed_products import Tensors, with_relaxed_products
from lccl.graph.variants.runnable import runnable
from lccl.graph.variants.upcast import upcast
from lccl.numerics import Agreement, Array, agreement, merge, not_finite
from lccl.op.onnx_op import is_lccl_node
from lccl.progress import Progress
from lccl.text import count, table

TOLERANCE = 1e-5
"""Of float32: between the graph with the nodes and the graph that they were found in, relative to max(0.01, largest output)."""
Feeds = Sequence[Mapping[str, Array]]


class NothingToGainError(UserError):
    """The network has no gated convolution; ``near_misses`` are what looked like one."""

    def __init__(self, message: str, near_misses: tuple[NearMiss, ...]) -> None:
        super().__init__(message)
        self.near_misses = near_misses


class NotSoundError(UserError):
    """The network itself does not run, gives no numbers, or other ones each time."""


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

    def but_for(products: Iterable[str]) -> Recognition:
        return recognise(traced, fuse=fuse, skip={*back, *products})

    while True:
        found = but_for(())
        wrong = _negative_masks(found, given)
        if not wrong and found.found:
            progress("comparing with the graph as it was", len(back), len(found.found) + len(back))
            wrong, checks = _wrong(traced, found, feeds, but_for)
        if not wrong:
            break
        back |= {layer.product: NearMiss(layer.name, reason) for layer, reason in wrong}
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
        near = f" ({count(len(misses), 'product')} that {'look' if len(misses) > 1 else 'looks'} like one: the near misses say why not)"
    return (
        f"the model has no LCCL layer or LCCLConv node, and no gated convolution was found in its graph{near}, so there is "
        "nothing to gain: gate a convolution with lccl.nn.LCCLConv2d, or a dense network with lccl.nn.convert"
    )


Wrong = Sequence[tuple[Found, str]]
"""Layers that have to be put back, each with the reason."""


def _negative_masks(found: Recognition, given: Mapping[str, Array] | None) -> Wrong:
    return [
        (layer, f"its gate, input {name}, has values below 0 in the given inputs")
        for layer in found.found
        for name in layer.masks
        if given is not None and name in given and (np.asarray(given[name]) < 0).any()
    ]


# ---- the check ------------------------------------------------------------------------------------------------------


def _wrong(
    traced: onnx.ModelProto, found: Recognition, feeds: Feeds, but_for: Callable[[Iterable[str]], Recognition]
) -> tuple[Wrong, tuple[Agreement | None, Agreement | None]]:
    """The layer with which the network computes something else, as built or with open gates; or the two agreements.

    Args:
        but_for: finds the layers again, without those of the products that it is given.

    Raises:
        NotSoundError: nothing can be held against the traced network itself.
    """
    masks = frozenset(name for layer in found.found for name in layer.masks)
    fed, before = masked(feeds, masks), upcast(runnable(traced))
    try:
        wrong, checks = _compared(before, found, fed)
        if wrong:
            _require_sound(before, fed)
        return wrong, checks
    except NotSoundError:
        raise
    except UserError as error:
        _require_sound(before, fed)
        reason = f"put back: the graph with it cannot be run ({first_line(error)})"
        return [(layer, reason) for layer in _unrunnable(before, found, fed, but_for)], (None, None)


def _unrunnable(
    before: onnx.ModelProto, found: Recognition, feeds: Feeds, but_for: Callable[[Iterable[str]], Recognition]
) -> Sequence[Found]:
    """The layers with each of which alone the network cannot be run; all where it can be with any one."""
    if len(found.found) == 1:
        return found.found
    broken = []
    for layer in found.found:
        try:
            _compared(before, but_for([other.product for other in found.found if other is not layer]), feeds[:1])
        except UserError:
            broken.append(layer)
    return broken or found.found


def _compared(
    before: onnx.ModelProto, found: Recognition, feeds: Feeds
) -> tuple[Wrong, tuple[Agreement | None, Agreement | None]]:
    whole = canonical(found.model)
    tolerance, whole = _tolerance(whole), upcast(whole)
    soft = with_relaxed_products(before, found.found, whole) if has_hard_gates(whole) else None
    built = _agree(before, whole, feeds, tolerance, edges=soft is not None)
    if not built:
        return [_blamed(before, whole, found.found, feeds, built)], (built, None)
    if soft is not None:
        eased = with_relaxed_gates(whole, hard_only=True)
        alike = _agree(soft, eased, feeds[:1], tolerance)
        if not alike:
            return [_blamed(soft, eased, found.found, feeds[:1], alike)], (built, None)
    opened = _with_open_products(before, found.found)
    if opened is None:
        return [], (built, None)
    twin = dense_twin(whole)
    both = _agree(opened, twin, feeds[:1], tolerance)
    if not both and not_finite(_outputs(opened, feeds[:1], optimize=False)[0]):
        return [], (built, None)  # too large numbers with gates that were not trained to be open
    return ([] if both else [_blamed(opened, twin, found.found, feeds[:1], both)]), (built, both)


def _require_sound(model: onnx.ModelProto, feeds: Feeds) -> None:
    """Raises:
    NotSoundError: nothing can be held against the network as it was given.
    """
    try:
        outputs, again = _outputs(model, [feeds[0], feeds[0]], optimize=False)
    except UserError as error:
        shape = next(iter(feeds[0].values())).shape
        raise NotSoundError(f"{error}; if the network takes inputs of other sizes, say which", Fix("args", shape)) from None
    broken = not_finite(outputs)
    if broken is not None:
        raise NotSoundError(
            f"the network's output {broken} holds NaN or infinity, so that nothing can be held against it: check its weights "
            "and the range of its inputs"
        )
    if any(not np.array_equal(values, again[name]) for name, values in outputs.items()):
        raise NotSoundError("the network gives other outputs each time it is run: export it without its random numbers")


def _tolerance(model: onnx.ModelProto) -> float:
    """By the type of the nodes' own weights: another constant of lower precision is the same on both sides."""
    usual = default_tolerance(model, {n.input[1] for n in model.graph.node if is_lccl_node(n)})
    return TOLERANCE if usual < 1e-3 else usual


def _agree(
    reference: onnx.ModelProto, other: onnx.ModelProto, feeds: Feeds, tolerance: float, *, edges: bool = False
) -> Agreement:
    """Two models in ONNX Runtime on the same inputs; one after the other, since each session holds its model's weights.

    Args:
        edges: a minority of samples may differ, by logits at the edge of a hard gate: where these are compared too.
    """
    expected, got = _outputs(reference, feeds, optimize=False), _outputs(other, feeds)
    return merge([agreement(a, b, tolerance, hard_gates=edges) for a, b in zip(expected, got, strict=True)])


def _outputs(model: onnx.ModelProto, feeds: Feeds, optimize: bool = True) -> list[dict[str, Array]]:
    with OnnxRuntimeRunner(model, optimize=optimize) as runner:
        return [infer_all(runner, {name: feed[name] for name in runner.input_names}) for feed in feeds]


def _blamed(
    reference: onnx.ModelProto, other: onnx.ModelProto, layers: Sequence[Found], feeds: Feeds, result: Agreement
) -> tuple[Found, str]:
    """The first layer whose own output differs; where none does, the one that differs most."""
    names = [layer.output for layer in layers]
    pair = [_with_outputs(model, names) for model in (reference, other)]
    (expected,), (got,) = (_outputs(model, feeds[:1], optimize=False) for model in pair)
    errors = [
        agreement({name: expected[name]}, {name: got[name]}, result.tolerance).relative_error if name in expected else 0.0
        for name in names
    ]
    place = next((i for i, e in enumerate(errors) if not e <= result.tolerance), int(np.argmax(errors)))
    return layers[place], f"put back: as a node it changes the network's output (max error {result.max_error:.1e})"


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    present = {o.name for o in out.graph.output}
    made = {name for node in out.graph.node for name in node.output}
    out.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in present and n in made)
    return out


def _with_open_products(traced: onnx.ModelProto, layers: Sequence[Found]) -> onnx.ModelProto | None:
    """The traced network with every gate taken as 1: a product gives its other factor. None where it has other products."""
    out = with_open_gates(traced)
    tensors = Tensors.of(out)
    for name, place in (gate for layer in layers for gate in layer.gates):
        node = tensors.made.get(name)
        other = 1 - place if node is not None and node.op_type == "Mul" else None
        if node is not None and node.op_type == "Where":
            other = tensors.kept_choice(node)
        if node is None or other is None:
            return None
        node.op_type, node.input[:] = "Identity", [node.input[other]]
    return out
