"""The build for ONNX Runtime: the model with its layers in the fastest forms, as an ONNX file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from lccl.backends.interface import FORMS_BACKEND, BuildRequest, LayerPath
from lccl.backends.onnxruntime.library import check_library, cpu_isa
from lccl.backends.profiles import make_profiles
from lccl.console.progress import Progress
from lccl.engine.results import EngineResult
from lccl.engine.sidecar import SIDECAR_SUFFIX
from lccl.errors import Fix, UserError, leave_out
from lccl.files import sha256
from lccl.forms.choosing import Chosen, Request, choose
from lccl.graph.batch_axes import dims_of
from lccl.graph.feeds import Feed, random_feed, require_shape
from lccl.graph.inputs import batch_axes, input_types
from lccl.graph.intake import intake
from lccl.graph.variants.canonical import canonical
from lccl.loading.data import DataSource, read_data
from lccl.loading.onnx import load_onnx
from lccl.op.onnx_op import is_lccl_node

SUFFIX = ".fast.onnx"
MOST_FEEDS = 16
"""Batches of the data that are timed: evenly from all of it."""
Gates = str | Mapping[str, bool] | None


@dataclass(frozen=True)
class Options:
    """What the build for ONNX Runtime takes."""

    data: DataSource | None
    gate: Gates
    threads: int
    batch: int
    baseline: Path | None
    shapes: Mapping[str, tuple[int, ...]]


def build_for_onnxruntime(source: Path, options: Options, progress: Progress) -> tuple[Chosen, float]:
    """Choose the forms of an exported model's layers.

    Returns:
        The model with its report, and the seconds that it took.

    Raises:
        UserError: the op's library cannot be used, the model has no gated layer, or the data does
            not fit.
    """
    library = check_library()
    if not library or library.path is None:
        raise UserError(f"the forms cannot be timed without the op's library for ONNX Runtime: {library.reason}")
    isa = cpu_isa()
    if isa is None:
        raise UserError("LCCL_CPU_ISA names an instruction set that this machine does not run: unset it")
    given = intake(load_onnx(source))
    if not any(is_lccl_node(node) for node in given.graph.node):
        raise UserError(f"{source} has no LCCLConv node, so ONNX Runtime runs it as fast as it can: export it with lccl-export")
    model = canonical(given)
    if any(t.data_type != onnx.TensorProto.FLOAT for t in _weights(model)):
        raise UserError("the build for ONNX Runtime takes float32 models: export the model in float32")
    baseline = None if options.baseline is None else load_onnx(options.baseline)
    options = replace(options, batch=_batch(model, options))
    feeds, samples = _feeds(model, options)
    if baseline is not None:
        _require_same_inputs(baseline, model, feeds[0])
    request = Request(
        feeds=feeds,
        samples=samples,
        threads=options.threads,
        batch=options.batch,
        library=library.path,
        isa=isa,
        given=_given(options.gate, model),
        baseline=baseline,
    )
    started = time.perf_counter()
    return choose(model, request, progress), time.perf_counter() - started


def result_of(chosen: Chosen, written: Path, path: Path, version: str, seconds: float) -> EngineResult:
    """Return what a build tells of itself.

    Args:
        chosen: the model and its report.
        written: where the model's file is now.
        path: where it will be.
        version: of ONNX Runtime.
        seconds: that the choice took.
    """
    layers = tuple(
        LayerPath(layer.name, "LCCLConv" if layer.density is not None else "Conv", layer.form) for layer in chosen.choice.layers
    )
    return EngineResult(
        path=path,
        sidecar=path.with_name(path.name + SIDECAR_SUFFIX),
        backend=FORMS_BACKEND,
        version=version,
        precision="fp32",
        profiles=(),
        compute_capabilities=(),
        layers=layers,
        bytes=written.stat().st_size,
        seconds=seconds,
        sha256=sha256(written),
        choice=chosen.choice,
    )


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    read = {node.input[1] for node in model.graph.node if is_lccl_node(node)}
    return (t for t in model.graph.initializer if t.name in read)


def _given(gate: Gates, model: onnx.ModelProto) -> dict[str, bool]:
    """Return the layers whose form the caller chose."""
    if gate is None:
        return {}
    if isinstance(gate, str):
        if gate not in ("all", "none"):
            raise UserError(f'gate is "all", "none" or a dict of True or False by layer, not {gate!r}')
        return {node.name: gate == "all" for node in model.graph.node if is_lccl_node(node)}
    return dict(gate)


def _batch(model: onnx.ModelProto, options: Options) -> int:
    """Return the samples of an inference: as asked for, else of the model or of the shapes.

    Raises:
        UserError: these contradict each other, or shapes are given beside data, which has its own.
    """
    if options.data is not None and options.shapes:
        raise UserError("the data has shapes of its own", leave_out("opt_shapes"))
    axes, sizes = batch_axes(model).inputs, set()
    for name, kind in input_types(model).items():
        axis = axes[name]
        if axis is not None and axis < len(dims := dims_of(kind)) and isinstance(dims[axis], int):
            sizes.add(int(dims[axis] or 0))
        shape = options.shapes.get(name)
        if axis is not None and shape is not None and axis < len(shape):
            sizes.add(shape[axis])
    sizes.discard(0)
    if not sizes or sizes == {options.batch}:
        return options.batch
    if len(sizes) > 1 or options.batch != 1:
        found = " and ".join(map(str, sorted(sizes)))
        raise UserError(f"the model or its shapes have a batch of {found}, not of {options.batch}", leave_out("batch"))
    return sizes.pop()


def _feeds(model: onnx.ModelProto, options: Options) -> tuple[tuple[Feed, ...], int]:
    """Return inputs of the batch, and how many real samples they are of."""
    axes = batch_axes(model).inputs
    names = tuple(input_types(model))
    if options.data is None:
        return (random_feed(model, _shapes(model, options)),), 0
    data = read_data(options.data, axes)
    count = len(data)
    if count < options.batch:
        raise UserError(f"the data has {count} samples, fewer than a batch of {options.batch}", Fix("batch", count))
    most = min(MOST_FEEDS, count // options.batch)
    starts = [round(i * (count - options.batch) / max(1, most - 1)) for i in range(most)]
    feeds = tuple(data.feed(names, start, start + options.batch) for start in starts)
    for name, kind in input_types(model).items():
        require_shape(name, feeds[0][name].shape, kind)
    return feeds, most * options.batch


def _shapes(model: onnx.ModelProto, options: Options) -> dict[str, tuple[int, ...]]:
    """Return the shapes of random inputs: those given, else the model's own with the batch."""
    request = BuildRequest(
        model=model,
        min_shapes={},
        opt_shapes=options.shapes,
        max_shapes={},
        workspace=None,
        timing_cache=None,
        compute_capabilities=(),
        plugin=False,
        plugin_library=None,
        alias_residual=False,
        tf32=False,
        verbose=False,
    )
    axes = batch_axes(model).inputs
    shapes = {}
    for profile in make_profiles(request):
        axis = axes[profile.input]
        sizes = list(profile.opt)
        if axis is not None:
            sizes[axis] = options.batch
        shapes[profile.input] = tuple(sizes)
    return shapes


def _require_same_inputs(baseline: onnx.ModelProto, model: onnx.ModelProto, feed: Feed) -> None:
    theirs, ours = input_types(baseline), input_types(model)
    if set(theirs) != set(ours):
        raise UserError(f"the baseline has the inputs {', '.join(theirs)}, but the model {', '.join(ours)}")
    for name, kind in theirs.items():
        require_shape(name, feed[name].shape, kind)
