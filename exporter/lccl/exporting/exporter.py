"""Module or ONNX -> the canonical ONNX file and its variants, each checked before it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx

from lccl.backends.agreement import check_view
from lccl.console.progress import Progress, silent
from lccl.errors import Fix, UserError, kind_of, leave_out
from lccl.errors.arguments import CALLABLE, FILE, FLAG, NAMES, NETWORK, NONE, NUMBER, TEXTS_BY_NAME, instance_of, takes
from lccl.errors.deprecation import renamed_keywords
from lccl.exporting.checking import check_against_source, real_feeds
from lccl.exporting.gate_search import find_layers, masked
from lccl.exporting.onnx_source import OnnxSource
from lccl.exporting.reasons import layers_with_reasons
from lccl.exporting.results import MOST_DRIFT, ExportResult, describe_values
from lccl.exporting.source import Source
from lccl.files import require_writable
from lccl.files.weights import WeightFile
from lccl.files.whole_file import write_files
from lccl.graph.checks import check_model
from lccl.graph.gate_probe import set_densities
from lccl.graph.inputs import batch_axes
from lccl.graph.metadata import set_metadata
from lccl.graph.tolerance import default_tolerance
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin as dense_twin_of
from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.stripped import stripped
from lccl.graph.variants.upcast import upcast
from lccl.loading.data import LABEL_NAMES, DataSource, read_data
from lccl.loading.onnx import files_of_onnx, load_onnx
from lccl.loading.types import Network, SupportsArray
from lccl.numerics import Array, Axes, count_samples, float32
from lccl.op.contract import QUALIFIED_NAME, VERSION
from lccl.op.onnx_op import register_schema
from lccl.profiling.of_onnx import profile_canonical
from lccl.version import __version__

if TYPE_CHECKING:
    from torch.export import ExportedProgram


PositionalArgs: TypeAlias = "SupportsArray | Sequence[object] | Mapping[str, object]"
"""Positional example inputs, as ``torch.onnx.export`` takes them: one, or a sequence of them. Each
is a tensor, a number, or a list, tuple or dict of these."""


_MOST_AXES = 8
"""More numbers are not taken for a shape."""


@dataclass(frozen=True)
class _Request:
    """What is asked of an export, besides its source."""

    targets: Mapping[str, Path | None]
    data: DataSource | None
    fuse: bool
    tolerance: float | None
    metadata: Mapping[str, str]
    progress: Progress


@renamed_keywords(dense="dense_twin", inputs="data")
@takes(
    model=NETWORK | instance_of("torch.export", "ExportedProgram", "a program of torch.export"),
    path=FILE | NONE,
    dynamic_hw=FLAG,
    dense_twin=FLAG | FILE,
    decomposed=FLAG | FILE,
    tensorrt=FLAG | FILE,
    input_names=NAMES | NONE,
    output_names=NAMES | NONE,
    fuse=FLAG,
    tolerance=NUMBER | NONE,
    metadata=TEXTS_BY_NAME | NONE,
    progress=CALLABLE,
)
def export(
    model: Network | ExportedProgram,
    args: PositionalArgs | None = None,
    path: str | Path | None = None,
    *,
    dynamic_hw: bool = False,
    dense_twin: bool | str | Path = False,
    decomposed: bool | str | Path = False,
    tensorrt: bool | str | Path = False,
    data: DataSource | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    fuse: bool = True,
    tolerance: float | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> ExportResult:
    """Export a network with LCCL layers to ONNX.

    Args:
        model: a module with :class:`lccl.nn.LCCLConv2d` layers or gates in code of its own, a
            program of ``torch.export``, or an ONNX model, with LCCLConv nodes or in standard ops.
            The path of an ONNX file takes less memory than the model.
        args: positional example inputs for tracing a module, [N, C, H, W], as ``torch.onnx.export``
            takes them: tensors, also in lists, tuples and dicts, are inputs of the file; numbers,
            booleans and text are constants in it, and the result names them. An ONNX model needs
            none, unless sizes besides the batch are dynamic and not any size will do: arrays of a
            shape that it takes.
        path: the canonical file: nodes and model-local function, opset 18, dynamic batch.
        dynamic_hw: make height and width dynamic too.
        dense_twin: write the dense twin as well (every gate taken as 1): True for
            ``<stem>.dense.onnx``, or its path.
        decomposed: write the same maths in standard ops as well: True for
            ``<stem>.decomposed.onnx``, or its path.
        tensorrt: write the network without the function as well, for trtexec and others with the
            plugin: True for ``<stem>.tensorrt.onnx``, or its path.
        data: real inputs, for the check besides random ones, and to calibrate each node's density:
            arrays by name, an ``.npz`` file, "pkg.module:loader", arrays, (inputs, labels), or an
            iterable of batches.
        input_names: names of the ONNX model's inputs; by default the parameters of ``forward``.
        output_names: names of the ONNX model's outputs; by default torch's own names.
        fuse: take BatchNorm, activation and added branch behind a recognised layer into its node.
        tolerance: allowed error against the source, relative to max(0.01, largest output); by
            default 1e-4 for float32, 2e-2 for lower precision, and two steps of the type of
            a quantised network.
        metadata: added to the file's metadata.
        progress: called with each step.

    Returns:
        Paths, layers and the measured error.

    Raises:
        UserError: the model has no gate, cannot be exported, fails a check, or cannot be written;
            nothing is written.
    """
    if path is None:
        raise UserError("an export needs the file to write", Fix("path", "model.onnx"))
    target = Path(path)
    targets = {
        "model": target,
        "dense": _variant_path(target, dense_twin, "dense"),
        "decomposed": _variant_path(target, decomposed, "decomposed"),
        "tensorrt": _variant_path(target, tensorrt, "tensorrt"),
    }
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise UserError(f"the tolerance is a number of at least 0, not {tolerance}")
    _require_targets(targets, model)
    register_schema()
    with WeightFile(target) as weights:
        source = _make_source(model, args, (input_names, output_names), dynamic_hw, weights, progress)
        return _export(source, weights, _Request(targets, data, fuse, tolerance, metadata or {}, progress))


def _require_targets(targets: Mapping[str, Path | None], model: object) -> None:
    """Check the files to write before any long work begins.

    Raises:
        UserError: two have the same name, one cannot be written, or one is the model to export.
    """
    files = [file for file in targets.values() if file]
    if len({file.resolve() for file in files}) < len(files):
        raise UserError(f"the model and its variants need different names, not {', '.join(map(str, files))}")
    given = files_of_onnx(model) if isinstance(model, (str, Path)) else frozenset()
    for file in files:
        require_writable(file)
        if file.resolve() in given:
            raise UserError(f"{file} is the model to export, which would be overwritten: choose another name")


def _export(source: Source, weights: WeightFile, request: _Request) -> ExportResult:
    """Trace, recognise, check and write.

    The models here are small, with their weights in a file.
    """
    progress, targets = request.progress, request.targets
    traced = weights.externalize(source.to_onnx())
    axes = batch_axes(traced).inputs
    given = None if request.data is None else _inputs_by_name(request.data, axes)
    recognised = find_layers(traced, source.reference.feeds(traced), given, request.fuse, progress)
    progress("folding and completing the graph")
    result = canonical(recognised.model)
    notes = {"lccl.op": QUALIFIED_NAME, "lccl.op_version": str(VERSION), **source.metadata, **request.metadata}
    set_metadata(result, __version__, notes)
    progress("checking the model")
    check_model(result)
    runs = upcast(result)
    allowed = default_tolerance(result) if request.tolerance is None else request.tolerance
    random = masked(source.reference.feeds(runs), recognised.masks)
    real = [] if given is None else real_feeds(runs, given)
    feeds = random + real
    before = traced if recognised.layers else None
    checked, checked_open = check_against_source(runs, source.reference, feeds, allowed, progress, unrecognised=before)
    progress("measuring densities")
    densities = _densities(runs, random)
    drifted: dict[str, tuple[float, float]] = {}
    if real:
        calibrated = _densities(runs, real)
        set_densities(result, calibrated)
        trained = {name: source.trained_densities[name] for name in calibrated if name in source.trained_densities}
        drifted = {n: (d, calibrated[n]) for n, d in trained.items() if abs(d - calibrated[n]) > MOST_DRIFT}
        densities = {name: max(value, calibrated[name]) for name, value in densities.items()}
    files = {"model": result}
    if targets["dense"]:
        progress("making the dense twin")
        files["dense"] = _checked_variant(dense_twin_of(result), notes, "dense")
    if targets["decomposed"]:
        progress("decomposing")
        files["decomposed"] = _checked_variant(inlined(result), notes, "decomposed")
        check_view(runs, upcast(files["decomposed"]), feeds, allowed)
    if targets["tensorrt"]:
        files["tensorrt"] = _checked_variant(stripped(result), notes, "tensorrt")
    progress("writing")
    write_files({targets[kind]: proto for kind, proto in files.items()})  # type: ignore[misc]
    assert targets["model"] is not None
    return ExportResult(
        targets["model"],
        layers_with_reasons(result, recognised.near_misses),
        checked,
        checked_open,
        recognised.checked_open,
        recognised=recognised.layers,
        near_misses=recognised.near_misses,
        given_inputs=_samples(real, axes),
        random_inputs=_samples(random, axes),
        random_values=describe_values(random),
        closed_layers=tuple(name for name, density in densities.items() if density == 0),
        other_densities=drifted,
        constants=source.constants,
        dense_path=targets["dense"],
        decomposed_path=targets["decomposed"],
        tensorrt_path=targets["tensorrt"],
        metadata=notes,
    )


def _inputs_by_name(data: DataSource, axes: Axes) -> dict[str, Array]:
    """The given data under the model's own names; a dict of arrays has these names already.

    Args:
        axes: the model's inputs, and where the samples stand in each.

    Raises:
        UserError: the data cannot be read, or has no input of one of these names.
    """
    if not isinstance(data, Mapping):
        return read_data(data, axes).feed(tuple(axes))
    given = {str(name): np.asarray(values) for name, values in data.items()}
    return {name: values for name, values in given.items() if name in axes or name not in LABEL_NAMES}


def _densities(model: onnx.ModelProto, feeds: list[dict[str, Array]]) -> dict[str, float]:
    """The fraction of open pixels of each gated layer over the feeds."""
    return {layer.name: layer.density for layer in profile_canonical(model, feeds).gated if layer.density is not None}


def _samples(feeds: list[dict[str, Array]], axes: Axes) -> int:
    return sum(count_samples(feed, axes) for feed in feeds)


def _make_source(
    model: Network | ExportedProgram,
    args: PositionalArgs | None,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    dynamic_hw: bool,
    weights: WeightFile,
    progress: Progress,
) -> Source:
    of_module = {"dynamic_hw": dynamic_hw, "input_names": names[0], "output_names": names[1]}
    if isinstance(model, (str, Path, onnx.ModelProto)):
        _require_none(of_module, "an ONNX model")
        examples = () if args is None else _as_sequence(args)
        loaded = weights.externalize(model) if isinstance(model, onnx.ModelProto) else load_onnx(model, weights)
        return OnnxSource(loaded, [float32(example).shape for example in examples])
    from torch import export as torch_export
    from torch import nn

    from lccl.exporting.program_source import ProgramSource
    from lccl.exporting.torch_source import TorchSource

    if isinstance(model, torch_export.ExportedProgram):
        _require_none(of_module, "a program of torch.export")
        return ProgramSource(model, progress)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"a network to export is an nn.Module, a program of torch.export or an onnx.ModelProto, not {kind_of(model)}"
        )
    if isinstance(args, (list, tuple)) and 0 < len(args) <= _MOST_AXES and all(isinstance(size, int) for size in args):
        raise UserError("an example input is a tensor, not its shape", Fix("args", tuple(args)))
    if args is None:
        raise UserError("exporting a module needs an example input", Fix("args", (1, 3, 224, 224)))
    return TorchSource(model, _as_sequence(args), *names, dynamic_hw, progress)


def _require_none(given: Mapping[str, object], what: str) -> None:
    """Check that nothing is given that only a module takes.

    Raises:
        UserError: something is.
    """
    for name, value in given.items():
        if value:
            raise UserError(f"{what} already has its shapes and names; they cannot be chosen", leave_out(name))


def _as_sequence(args: PositionalArgs) -> Sequence[object]:
    return args if isinstance(args, Sequence) and not isinstance(args, (str, bytes)) else (args,)


def _variant_path(target: Path, wanted: bool | str | Path, kind: str) -> Path | None:
    if wanted is False:
        return None
    return target.with_suffix(f".{kind}.onnx") if wanted is True else Path(wanted)


def _checked_variant(model: onnx.ModelProto, notes: dict[str, str], kind: str) -> onnx.ModelProto:
    set_metadata(model, __version__, {**notes, "lccl.twin": kind})
    check_model(model)
    return model
