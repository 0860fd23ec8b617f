"""The check of an exported model against its source, and the given inputs that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from lccl.backends.agreement import require_agreement
from lccl.backends.batches import CHUNK, infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.console.progress import Progress
from lccl.console.text import FIXED_BATCH, FIXED_HW, count
from lccl.errors import Fix, UserError, leave_out
from lccl.exporting.source import Reference
from lccl.graph.feeds import require_shape
from lccl.graph.inputs import batch_axes, input_types
from lccl.graph.tolerance import default_tolerance, is_quantised
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.graph.variants.relaxed import has_hard_gates, with_relaxed_gates
from lccl.graph.variants.upcast import upcast
from lccl.numerics import Agreement, Array, count_samples, merge, require_finite, sample_axis, take_samples
from lccl.op.onnx_op import is_lccl_node

if TYPE_CHECKING:
    from lccl.nn.gate import GateMode


def check_against_source(
    model: onnx.ModelProto,
    source: Reference,
    feeds: list[dict[str, Array]],
    tolerance: float | None,
    progress: Progress,
    *,
    unrecognised: onnx.ModelProto | None = None,
) -> tuple[Agreement, Agreement | None]:
    """Hold the model in ONNX Runtime against its source, as built on all feeds.

    On the first feed it is also checked with relaxed gates where some are hard, since hard gates
    may differ at their edges; and with open gates, since nothing else shows the weights under a
    closed gate.

    Args:
        model: the exported model.
        source: the network that it was exported from.
        feeds: the inputs.
        tolerance: allowed error, relative to max(0.01, largest output); None: by the model's
            precision.
        progress: called with each step.
        unrecognised: the network as it was before gates were recognised in it, which has the gates
            alone that the source knows; None where none was recognised.

    Returns:
        The agreement as built, and with the gates that the source knows open, where it has some and
        can run that way.

    Raises:
        UserError: they differ.
    """
    own = model if unrecognised is None else _with_own_gates(unrecognised)
    allowed = default_tolerance(model) if tolerance is None else tolerance
    results = _compare(model, source, feeds, "as built", allowed, progress, hard=has_hard_gates(model))
    if own is None:
        return merge(results), None
    if has_hard_gates(own) and "relaxed" in source.checks:
        _compare(with_relaxed_gates(own), source, feeds[:1], "relaxed", allowed, progress)
    if "open" not in source.checks:
        return merge(results), None
    return merge(results), merge(_compare(dense_twin(own), source, feeds[:1], "open", allowed, progress))


def _with_own_gates(traced: onnx.ModelProto) -> onnx.ModelProto | None:
    """The traced network to check with its own gates only; None where it has no LCCLConv node."""
    return upcast(canonical(traced)) if any(is_lccl_node(n) for n in traced.graph.node) else None


def _compare(
    model: onnx.ModelProto,
    source: Reference,
    feeds: list[dict[str, Array]],
    gates: GateMode,
    tolerance: float,
    progress: Progress,
    *,
    hard: bool = False,
) -> list[Agreement]:
    what = "the exported model differs from its source" + ("" if gates == "as built" else f" with its gates {gates}")
    results = []
    with OnnxRuntimeRunner(model, optimize=not is_quantised(model)) as runner:
        for i, feed in enumerate(feeds):
            progress(f"comparing with the source, gates {gates}", i, len(feeds))
            try:
                outputs = infer_all(runner, {name: feed[name] for name in runner.input_names})
                expected = source.infer(feed, gates)
            except UserError as error:
                hint, fixes = _hint(source, feed, runner)
                raise UserError(f"{error.message}{hint}", (*error.fixes, *fixes)) from None
            if len(expected) != len(outputs):
                raise UserError(f"the exported model has {count(len(outputs), 'output')}, but its source has {len(expected)}")
            results.append(require_agreement(dict(zip(outputs, expected, strict=True)), outputs, tolerance, hard, what))
    return results


def _hint(source: Reference, feed: Mapping[str, Array], runner: OnnxRuntimeRunner) -> tuple[str, tuple[Fix, ...]]:
    """What about a feed the model may not take in spite of its dynamic sizes, and the fix."""
    if source.example_hw is not None and tuple(a.shape[2:] for a in feed.values()) != source.example_hw:
        return f"; {FIXED_HW}", (leave_out("dynamic_hw"),)
    return (f"; {FIXED_BATCH}" if runner.batches.most is None else ""), ()


def real_feeds(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Cut the given inputs into parts that fit in memory.

    Inputs that are the same for all samples, such as a rate, are in each part.

    Raises:
        UserError: the inputs do not fit the model's in name, rank, size or type, or hold NaN or
            infinity.
    """
    wanted, axes = input_types(model), batch_axes(model).inputs
    if set(inputs) != set(wanted):
        raise UserError(f"the model's inputs are {', '.join(wanted)}, but {', '.join(inputs) or 'none'} were given")
    feed = {}
    for name, kind in wanted.items():
        given, element = np.asarray(inputs[name]), onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        require_shape(name, given.shape, kind, any_size=axes[name])
        if given.dtype != element and not (given.dtype == np.float64 and element == np.float32):
            raise UserError(f"input {name} is {given.dtype}, but the model takes {element}: convert it as for training")
        feed[name] = np.asarray(given, element, order="C")
    require_finite(feed)
    lengths = {a.shape[axis] for name, a in feed.items() if (axis := sample_axis(name, a, axes)) is not None}
    if len(lengths) > 1 or 0 in lengths:
        raise UserError(f"the inputs need the same number of samples, at least one, not {sorted(lengths)}")
    starts = range(0, count_samples(feed, axes), CHUNK)
    return [take_samples(feed, axes, start, start + CHUNK) for start in starts]
