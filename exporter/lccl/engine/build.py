"""Building engines: canonical ONNX -> a serialized engine and its side-car."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from lccl.backends.agreement import check_view
from lccl.backends.interface import BACKEND_NAMES, FORMS_BACKEND, Backend, BuildRequest, OptimizationProfile, Shapes
from lccl.backends.profiles import make_profiles
from lccl.console.progress import Progress, silent
from lccl.engine.for_onnxruntime import SUFFIX, Gates, Options, build_for_onnxruntime, result_of
from lccl.engine.results import EngineResult, Plugin
from lccl.engine.sidecar import SIDECAR_SUFFIX, write_sidecar
from lccl.errors import Fix, UserError, leave_out, shown
from lccl.errors.arguments import CALLABLE, COUNT, FILE, FLAG, NAME, NAMES, NONE, SHAPES, THREADS, takes
from lccl.files import atomic_path, require_file, require_writable, sha256
from lccl.files.whole_file import write_whole
from lccl.graph.checks import check_types
from lccl.graph.feeds import Feed, random_feed
from lccl.graph.inputs import batch_axes
from lccl.graph.intake import intake
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.precision import Precision, to_precision
from lccl.graph.variants.relaxed import has_hard_gates, with_relaxed_gates
from lccl.graph.variants.runnable import runnable
from lccl.loading.data import DataSource
from lccl.loading.onnx import load_onnx
from lccl.op.onnx_op import is_lccl_node, register_schema
from lccl.version import __version__


def make_backend(name: str) -> Backend:
    """The backend of that name, whether it is installed or not: :meth:`Backend.unavailable` tells.

    Raises:
        UserError: there is no backend of that name.
    """
    if name == "tensorrt":
        from lccl.backends.tensorrt.builder import TensorRT

        return TensorRT()
    if name == "tensorrt-rtx":
        from lccl.backends.tensorrt_rtx.builder import TensorRTRTX

        return TensorRTRTX()
    raise UserError(f"backend is one of {', '.join((*BACKEND_NAMES, FORMS_BACKEND))}, not {shown(name)}")


def choose_backend(name: str | None) -> Backend:
    """The named backend, or the first that is installed.

    Raises:
        UserError: it is not installed, or none is.
    """
    if name is not None:
        backend = make_backend(name)
        reason = backend.unavailable()
        if reason:
            raise UserError(reason)
        return backend
    reasons = []
    for candidate in map(make_backend, BACKEND_NAMES):
        reason = candidate.unavailable()
        if reason is None:
            return candidate
        reasons.append(reason)
    raise UserError("no engine builder is installed: " + "; ".join(reasons))


@takes(
    model=FILE,
    path=FILE | NONE,
    backend=NAME | NONE,
    min_shapes=SHAPES | NONE,
    opt_shapes=SHAPES | NONE,
    max_shapes=SHAPES | NONE,
    precision=NAME,
    workspace=COUNT | NONE,
    timing_cache=FILE | NONE,
    compute_capabilities=NAMES,
    plugin=FLAG,
    plugin_library=FILE | NONE,
    alias_residual=FLAG,
    tf32=FLAG,
    verbose=FLAG,
    threads=THREADS,
    batch=COUNT,
    baseline=FILE | NONE,
    command=NAMES | NONE,
    progress=CALLABLE,
)
def build_engine(
    model: str | Path,
    path: str | Path | None = None,
    *,
    backend: str | None = None,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    precision: Precision = "fp32",
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
    compute_capabilities: Sequence[str] = (),
    plugin: bool = True,
    plugin_library: str | Path | None = None,
    alias_residual: bool = False,
    tf32: bool = False,
    verbose: bool = False,
    data: DataSource | None = None,
    gate: Gates = None,
    threads: int = 1,
    batch: int = 1,
    baseline: str | Path | None = None,
    command: Sequence[str] | None = None,
    progress: Progress = silent,
) -> EngineResult:
    """Build an engine from an exported model and write it with its side-car ``<engine>.json``.

    Args:
        model: an exported ONNX file, or any other with LCCLConv nodes; a dense model is built as it
            is.
        path: the engine to write; by default beside the model, with the suffix ``.engine``, or
            ``.fast.onnx`` for ONNX Runtime.
        backend: "tensorrt" or "tensorrt-rtx"; by default the first of these that is installed.
            "onnxruntime" writes the model itself, with each layer in the form that is the fastest
            on this machine; it takes ``opt_shapes`` and the options from ``data`` on, which the
            others do not.
        min_shapes, opt_shapes, max_shapes: input name -> shape, of every input with dynamic
            dimensions; of one that is left out, a dynamic batch is 1 (min), max's or min's (opt), 8
            or opt's (max); other dynamic dimensions have to be given at least once.
        precision: "fp16" or "bf16" converts feature maps and weights; gates stay float32.
        workspace: the limit of scratch memory in MiB.
        timing_cache: a file of tactic timings, read if present and updated (tensorrt).
        compute_capabilities: such as "8.9"; targets of an ahead-of-time build (tensorrt-rtx).
        plugin: run LCCLConv by the plugin (tensorrt); False: by standard ops, which compute every
            pixel.
        plugin_library: the plugin's library; by default the installed one.
        alias_residual: let a layer write over its residual where nothing else reads it (tensorrt,
            with the plugin). This needs a preview feature of TensorRT.
        tf32: let float32 convolutions, those of gates too, round their inputs to TF32 on the GPU.
        verbose: print the builder's own messages on stderr.
        data: real inputs, which decide densities and so the forms (onnxruntime); None: random ones.
        gate: "all" or "none", or True or False by the name of a gated layer, whose form is not
            chosen then (onnxruntime); True: by the op, False: in standard ops.
        threads: of one inference, for which the forms are chosen (onnxruntime).
        batch: samples of one inference (onnxruntime).
        baseline: a dense network as an ONNX file, to be timed too (onnxruntime).
        command: the words that the side-car records as the command.
        progress: called with each step.

    Returns:
        Paths, how each layer went into the engine, and the time that it took.

    Raises:
        UserError: no builder, a model that does not fit, or a failed build; nothing is written.
    """
    source = require_file(model)
    for_onnxruntime = backend == FORMS_BACKEND
    target = Path(path) if path is not None else source.with_suffix(SUFFIX if for_onnxruntime else ".engine")
    require_writable(target)
    sidecar = target.with_name(target.name + SIDECAR_SUFFIX)
    read = {"model": source, "baseline": baseline, "data": data if isinstance(data, (str, Path)) else None}
    for what, file in read.items():
        if file is not None and Path(file).resolve() in (target.resolve(), sidecar.resolve()):
            raise UserError(f"the engine would replace its {what} {file}", Fix("path", "FILE"))
    require_writable(sidecar)
    register_schema()
    if for_onnxruntime:
        others = {
            "min_shapes": min_shapes, "max_shapes": max_shapes, "precision": precision != "fp32", "workspace": workspace,
            "timing_cache": timing_cache, "compute_capabilities": compute_capabilities, "plugin": not plugin,
            "plugin_library": plugin_library, "alias_residual": alias_residual, "tf32": tf32,
        }  # fmt: skip
        _refuse(others, "the build for ONNX Runtime has no such option")
        shapes = {name: tuple(shape) for name, shape in (opt_shapes or {}).items()}
        options = Options(data, gate, threads, batch, Path(baseline) if baseline else None, shapes)
        return _write_forms(source, target, options, command, progress)
    given_options = {"data": data, "gate": gate, "baseline": baseline, "threads": threads != 1, "batch": batch != 1}
    _refuse(given_options, 'only the build for ONNX Runtime, backend "onnxruntime", has such an option')
    chosen = choose_backend(backend)
    progress("reading the model")
    given = intake(load_onnx(source))
    gated = any(is_lccl_node(n) for n in given.graph.node)
    request = BuildRequest(
        model=canonical(given) if gated else given,
        min_shapes=min_shapes or {},
        opt_shapes=opt_shapes or {},
        max_shapes=max_shapes or {},
        workspace=workspace,
        timing_cache=Path(timing_cache) if timing_cache else None,
        compute_capabilities=tuple(dict.fromkeys(compute_capabilities)),
        plugin=plugin,
        plugin_library=Path(plugin_library) if plugin_library else None,
        alias_residual=alias_residual,
        tf32=tf32,
        verbose=verbose,
    )
    feed = random_feed(request.model, _examples(request))
    if precision != "fp32":
        progress(f"converting to {precision}")
    converted = to_precision(request.model, precision)
    progress("checking the model in standard ops")
    _check(given, request.model, converted, precision, feed)
    request = replace(request, model=converted)
    started = time.perf_counter()
    built = chosen.build(request, progress)
    seconds = time.perf_counter() - started
    result = EngineResult(
        path=target,
        sidecar=sidecar,
        backend=chosen.name,
        version=built.version,
        precision=precision,
        profiles=built.profiles,
        compute_capabilities=built.targets,
        layers=built.layers,
        bytes=len(built.engine),
        seconds=seconds,
        sha256=hashlib.sha256(built.engine).hexdigest(),
        plugin=Plugin(built.plugin.name, sha256(built.plugin)) if built.plugin else None,
    )
    progress("writing")
    with atomic_path(target) as temporary, atomic_path(sidecar) as temporary_sidecar:
        temporary.write_bytes(built.engine)
        write_sidecar(temporary_sidecar, result, source, sha256(source), shlex.join(command or ()), __version__)
    return result


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse options of another backend.

    Raises:
        UserError: one is given.
    """
    for given, value in options.items():
        if value:
            raise UserError(f"{given.replace('_', ' ')}: {why}", leave_out(given))


def _write_forms(
    source: Path, target: Path, options: Options, command: Sequence[str] | None, progress: Progress
) -> EngineResult:
    """Build for ONNX Runtime and write the file with its side-car."""
    import onnxruntime

    chosen, seconds = build_for_onnxruntime(source, options, progress)
    progress("writing")
    sidecar = target.with_name(target.name + SIDECAR_SUFFIX)
    with atomic_path(target) as temporary, atomic_path(sidecar) as temporary_sidecar:
        write_whole(chosen.model, temporary)
        result = result_of(chosen, temporary, target, onnxruntime.__version__, seconds)
        write_sidecar(temporary_sidecar, result, source, sha256(source), shlex.join(command or ()), __version__)
    return result


def _examples(request: BuildRequest) -> dict[str, tuple[int, ...]]:
    axes = batch_axes(request.model).inputs
    return {profile.input: _example(profile, axes[profile.input]) for profile in make_profiles(request)}


def _example(profile: OptimizationProfile, axis: int | None) -> tuple[int, ...]:
    """The profile's best shape with few samples along the axis, since the check runs on the CPU."""
    few = {} if axis is None else {axis: max(profile.min[axis], min(profile.opt[axis], 2))}
    return tuple(few.get(i, size) for i, size in enumerate(profile.opt))


def _check(
    given: onnx.ModelProto, model: onnx.ModelProto, converted: onnx.ModelProto, precision: Precision, feed: Feed
) -> None:
    """Hold what is built against the file as it was given, in standard ops.

    ONNX Runtime has no bfloat16 on the CPU. For bfloat16 the float32 model is held against the
    file, and only the types of the converted model are checked. Rounding flips gates that jump at
    their edge, so a lower precision is checked without the jump.

    Raises:
        UserError: they differ.
    """
    source = runnable(given)
    if precision == "bf16":
        check_types(model, inlined(converted))
        converted = model
    if converted is not model and has_hard_gates(model):
        source, converted = with_relaxed_gates(source), with_relaxed_gates(converted)
    check_view(source, inlined(converted), [feed])
