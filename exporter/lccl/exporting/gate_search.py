"""The search for gated convolutions in an exported network, and the check of each.

A layer is checked against the graph that it was found in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.console.progress import Progress
from lccl.console.text import count, table
from lccl.errors import Fix, UserError
from lccl.graph.inputs import input_types
from lccl.graph.recognise import NearMiss, RecognisedLayer, Recognition, recognise
from lccl.graph.tolerance import default_tolerance, is_quantised
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.graph.variants.open_gates import with_open_gates
from lccl.graph.variants.relaxed import has_hard_gates, with_relaxed_gates
from lccl.graph.variants.relaxed_products import Tensors, with_relaxed_products
from lccl.graph.variants.runnable import runnable
from lccl.graph.variants.upcast import upcast
from lccl.numerics import Agreement, Array, agreement, merge, not_finite
from lccl.op.onnx_op import is_lccl_node

TOLERANCE = 1e-5
"""Allowed error in float32 between the graph with the nodes and the graph as it was, relative to
max(0.01, largest output)."""
Feeds = Sequence[Mapping[str, Array]]
Rejected = Sequence[tuple[RecognisedLayer, str]]
"""Layers that have to be put back, each with the reason."""
Checks = tuple[Agreement | None, Agreement | None]
"""The agreement with the graph as it was: as built, and with every gate 1."""


class NothingToGainError(UserError):
    """The network has no gated convolution; ``near_misses`` are the products that look like one."""

    def __init__(self, message: str, near_misses: tuple[NearMiss, ...]) -> None:
        super().__init__(message)
        self.near_misses = near_misses


class NotSoundError(UserError):
    """The network itself does not run, or its outputs are not finite or differ in each run."""


@dataclass(frozen=True)
class GateSearchResult:
    """A traced network with the nodes that its own graph allows."""

    model: onnx.ModelProto
    layers: tuple[RecognisedLayer, ...] = ()
    near_misses: tuple[NearMiss, ...] = ()
    checked: Agreement | None = None
    """The agreement with the traced network as built; None if nothing was found."""
    checked_open: Agreement | None = None
    """As ``checked``, with every gate 1; None also if the gates cannot be opened in the traced
    network."""

    @property
    def masks(self) -> frozenset[str]:
        """Inputs of the network that have to be at least 0."""
        return _masks_of(self.layers)


def find_layers(
    traced: onnx.ModelProto, feeds: Feeds, given: Mapping[str, Array] | None, fuse: bool, progress: Progress
) -> GateSearchResult:
    """Find every gated convolution of the network whose node computes what the network did.

    Args:
        feeds: random inputs of the traced network.
        given: the caller's own inputs; an input with values below 0 among them is no mask.
        fuse: take BatchNorm, activation and added branch behind a layer into its node.
        progress: called at each step.

    Raises:
        NothingToGainError: the network has no node of the op, and none was found.
        NotSoundError: the network itself cannot be compared with.
    """
    progress("looking for gated convolutions")
    put_back: dict[str, NearMiss] = {}

    def recognise_without(products: Iterable[str]) -> Recognition:
        return recognise(traced, fuse=fuse, skip={*put_back, *products})

    while True:
        found = recognise_without(())
        rejected: Rejected = _negative_masks(found, given)
        if not rejected and found.layers:
            progress("comparing with the graph as it was", len(put_back), len(found.layers) + len(put_back))
            rejected, checks = _check(traced, found, feeds, recognise_without)
        if not rejected:
            break
        put_back |= {layer.product: NearMiss(layer.name, reason) for layer, reason in rejected}
    misses = (*found.near_misses, *put_back.values())
    if not any(is_lccl_node(n) for n in found.model.graph.node):
        raise NothingToGainError(_nothing_found(misses), misses)
    if not found.layers:
        return GateSearchResult(traced, near_misses=misses)
    return GateSearchResult(found.model, found.layers, misses, *checks)


def _masks_of(layers: Iterable[RecognisedLayer]) -> frozenset[str]:
    return frozenset(name for layer in layers for name in layer.masks)


def masked(feeds: Sequence[Mapping[str, Array]], masks: frozenset[str], seed: int = 0) -> list[dict[str, Array]]:
    """Return the random feeds with the masks among them at least 0, and about half of each 0."""
    rng = np.random.default_rng(seed)

    def mask(values: Array) -> Array:
        if values.dtype.kind in "iu":
            return rng.integers(0, 2, values.shape).astype(values.dtype)
        positive: Array = np.maximum(values, values.dtype.type(0))
        return positive

    return [{name: mask(values) if name in masks else values for name, values in feed.items()} for feed in feeds]


def explained(near_misses: Sequence[NearMiss]) -> str:
    """Return the near misses as a table, or a sentence if there are none."""
    if not near_misses:
        return "No product looks like a gated convolution without being one."
    return table(("product", "why it is not a gated convolution"), [(miss.node, miss.reason) for miss in near_misses])


def _nothing_found(misses: Sequence[NearMiss]) -> str:
    near = ""
    if misses:
        near = f" ({count(len(misses), 'product')} that {'look' if len(misses) > 1 else 'looks'} like one: the near misses say why not)"
    return (
        f"the model has no LCCL layer or LCCLConv node, and no gated convolution was found in its graph{near}, so there is "
        "nothing to gain: gate a convolution with lccl.nn.LCCLConv2d, or a dense network with lccl.nn.convert"
    )


def _negative_masks(found: Recognition, given: Mapping[str, Array] | None) -> Rejected:
    return [
        (layer, f"its gate, input {name}, has values below 0 in the given inputs")
        for layer in found.layers
        for name in layer.masks
        if given is not None and name in given and (np.asarray(given[name]) < 0).any()
    ]


# ---- the check -----------------------------------------------------------------------------------


def _check(
    traced: onnx.ModelProto, found: Recognition, feeds: Feeds, recognise_without: Callable[[Iterable[str]], Recognition]
) -> tuple[Rejected, Checks]:
    """Compare the network with and without the nodes.

    Args:
        recognise_without: finds the layers again, without those of the given products.

    Returns:
        The layers to put back, and how well the two agree.

    Raises:
        NotSoundError: the traced network itself cannot be compared with.
    """
    fed, before = masked(feeds, _masks_of(found.layers)), upcast(runnable(traced))
    try:
        rejected, checks = _compare(before, found, fed)
        if rejected:
            _require_sound(before, fed)
        return rejected, checks
    except NotSoundError:
        raise
    except UserError as error:
        _require_sound(before, fed)
        reason = f"put back: the graph with it cannot be run ({error.message.rstrip('.')})"
        return [(layer, reason) for layer in _unrunnable(before, found, fed, recognise_without)], (None, None)


def _unrunnable(
    before: onnx.ModelProto, found: Recognition, feeds: Feeds, recognise_without: Callable[[Iterable[str]], Recognition]
) -> Sequence[RecognisedLayer]:
    """Return the layers with each of which alone the network cannot be run.

    All layers, if the network can be run with any one.
    """
    if len(found.layers) == 1:
        return found.layers
    broken = []
    for layer in found.layers:
        alone = recognise_without([other.product for other in found.layers if other is not layer])
        try:
            _compare(before, alone, feeds[:1])
        except UserError:
            broken.append(layer)
    return broken or found.layers


def _compare(before: onnx.ModelProto, found: Recognition, feeds: Feeds) -> tuple[Rejected, Checks]:
    """Compare as built, then with relaxed gates if some are hard, then with every gate 1."""
    whole = canonical(found.model)
    tolerance, whole = _tolerance(whole), upcast(whole)
    relaxed = with_relaxed_products(before, found.layers, whole) if has_hard_gates(whole) else None
    built = _agree(before, whole, feeds, tolerance, edges=relaxed is not None)
    if not built:
        return [first_divergent_layer(before, whole, found.layers, feeds, built)], (built, None)
    if relaxed is not None:
        whole_relaxed = with_relaxed_gates(whole, hard_only=True)
        alike = _agree(relaxed, whole_relaxed, feeds[:1], tolerance)
        if not alike:
            return [first_divergent_layer(relaxed, whole_relaxed, found.layers, feeds[:1], alike)], (built, None)
    opened = _with_open_products(before, found.layers)
    if opened is None:
        return [], (built, None)
    twin = dense_twin(whole)
    both = _agree(opened, twin, feeds[:1], tolerance)
    if not both and not_finite(_outputs(opened, feeds[:1], optimize=False)[0]):
        return [], (built, None)  # numbers overflow with gates that were not trained to be open
    return ([] if both else [first_divergent_layer(opened, twin, found.layers, feeds[:1], both)]), (built, both)


def _require_sound(model: onnx.ModelProto, feeds: Feeds) -> None:
    """Check that the network as it was given can be compared with.

    Raises:
        NotSoundError: it does not run, or its outputs are not finite or differ in each run.
    """
    try:
        outputs, again = _outputs(model, [feeds[0], feeds[0]], optimize=False)
    except UserError as error:
        sizes = _sizes_to_choose(model)
        hint = "; if the network takes other input sizes, give an example of them" if sizes else ""
        raise NotSoundError(f"{error.message}{hint}", (*sizes, *error.fixes)) from None
    broken = not_finite(outputs)
    if broken is not None:
        raise NotSoundError(
            f"the network's output {broken} holds NaN or infinity, so nothing can be compared with it: check its weights "
            "and the range of its inputs"
        )
    if any(not np.array_equal(values, again[name]) for name, values in outputs.items()):
        raise NotSoundError("the network gives different outputs each time it runs: export it without random numbers")


def _sizes_to_choose(model: onnx.ModelProto) -> tuple[Fix, ...]:
    """Return the example input to pass, with letters for the sizes that are dynamic.

    It is that of the first input with a dynamic size besides the batch; there is none without one.
    """
    kinds = input_types(model)
    for name, kind in kinds.items():
        letters = "NCHW" if len(kind.shape.dim) == 4 else "NABCDEFGH"
        sizes = zip(kind.shape.dim, letters, strict=False)
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else letter for dim, letter in sizes)
        if any(isinstance(size, str) for size in shape[1:]):
            return (Fix("args", shape, f"for {name}, and an example of each other input" if len(kinds) > 1 else ""),)
    return ()


def _tolerance(model: onnx.ModelProto) -> float:
    """Return the tolerance for the type of the nodes' own weights, as other constants are equal."""
    usual = default_tolerance(model, {n.input[1] for n in model.graph.node if is_lccl_node(n)})
    return TOLERANCE if usual < 1e-3 else usual


def _agree(
    reference: onnx.ModelProto, other: onnx.ModelProto, feeds: Feeds, tolerance: float, *, edges: bool = False
) -> Agreement:
    """Compare two models in ONNX Runtime on the same inputs.

    They run one after the other, since each session holds its weights.

    Args:
        edges: a minority of samples may differ, by logits at the edge of a hard gate. Relaxed gates
            are then compared too.
    """
    expected = _outputs(reference, feeds, optimize=False)
    got = _outputs(other, feeds, optimize=not is_quantised(other))
    return merge([agreement(a, b, tolerance, hard_gates=edges) for a, b in zip(expected, got, strict=True)])


def _outputs(model: onnx.ModelProto, feeds: Feeds, optimize: bool = True) -> list[dict[str, Array]]:
    with OnnxRuntimeRunner(model, optimize=optimize) as runner:
        return [infer_all(runner, {name: feed[name] for name in runner.input_names}) for feed in feeds]


def first_divergent_layer(
    reference: onnx.ModelProto, other: onnx.ModelProto, layers: Sequence[RecognisedLayer], feeds: Feeds, result: Agreement
) -> tuple[RecognisedLayer, str]:
    """Return the first layer whose own output differs, with the reason to put it back.

    If no output differs, it is the layer with the largest error.

    Args:
        result: how the models' outputs differ.
    """
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
    """Return the model with the named tensors among its outputs, as far as it computes them."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    present = {o.name for o in out.graph.output}
    made = {name for node in out.graph.node for name in node.output}
    out.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in present and n in made)
    return out


def _with_open_products(traced: onnx.ModelProto, layers: Sequence[RecognisedLayer]) -> onnx.ModelProto | None:
    """Return the traced network with every gate taken as 1, or None if that cannot be done.

    A product then gives its other factor.
    """
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
