"""Module or ONNX -> the canonical ONNX file and its twins, checked before any of them is written."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from lccl.errors import UserError
from lccl.exporting.gate_search import explained, find_layers, masked
from lccl.exporting.reasons import layers_with_reasons
from lccl.exporting.source import OnnxSource, Source, check_against_source, real_feeds, with_own_gates
from lccl.files import atomic_path, require_writable
from lccl.graph.checks import check_model, default_tolerance
from lccl.graph.gate_probe import set_densities
from lccl.graph.layers import LayerReport
from lccl.graph.metadata import set_metadata
from lccl.graph.recognise import NearMiss, RecognisedLayer
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.stripped import stripped
from lccl.graph.variants.upcast import upcast
from lccl.loading.onnx import files_of_onnx, load_onnx
from lccl.numerics import Agreement, Array
from lccl.op.contract import QUALIFIED_NAME, VERSION
from lccl.op.onnx_op import register_schema
from lccl.profiling import profile
from lccl.progress import Progress, silent
from lccl.text import count, kind_of, table
from lccl.verify import check_view
from lccl.version import __version__
from lccl.weights import WeightFile, whole_size, write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

MAX_FILE_BYTES = 2**31 - 2**20
"""Protobuf's limit for one file, with room for the twins' metadata."""


@dataclass(frozen=True)
class ExportResult:
    """What was written; true, since nothing is written unless every check held."""

    path: Path
    layers: tuple[LayerReport, ...]
    checked: Agreement
    """The written model in ONNX Runtime against its source: PyTorch, or the ONNX model given."""
    checked_open: Agreement | None = None
    """As ``checked``, with the gates of its LCCL layers open; None where it has none, or is folded and cannot be asked. Of
    layers that were recognised the source does not know that they have a gate: these are as built in it."""
    recognised_open: Agreement | None = None
    """With every gate 1, against the graph that layers were recognised in; None where none was, or it cannot be told there."""
    given_inputs: int = 0
    """Of the inputs checked, how many the caller gave; the others are random."""
    random_inputs: int = 0
    recognised: tuple[RecognisedLayer, ...] = ()
    """Layers that were found in standard ops."""
    near_misses: tuple[NearMiss, ...] = ()
    """Products that look like a gated convolution and stay as they are, with the reason."""
    closed_layers: tuple[str, ...] = ()
    """Gated layers with no open pixel on any of these inputs."""
    dense_path: Path | None = None
    decomposed_path: Path | None = None
    tensorrt_path: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def gated(self) -> int:
        return sum(layer.gated for layer in self.layers)

    @property
    def warning(self) -> str | None:
        """What the check could not see: weights of a layer whose gate is closed everywhere, values below 0 of given masks."""
        said = [self._masks_said(), self._closed_said()]
        return ". ".join(filter(None, said)) or None

    def _masks_said(self) -> str:
        masks = sorted({name for layer in self.recognised for name in layer.masks})
        if not masks:
            return ""
        return f"Values of {', '.join(masks)} below 0 are not allowed: {'they are gates' if len(masks) > 1 else 'it is a gate'}"

    def _closed_said(self) -> str:
        """The output of a layer whose gate is closed everywhere is 0 whatever its weights."""
        if not self.closed_layers:
            return ""
        layers = f"layer{'s' if len(self.closed_layers) > 1 else ''} {', '.join(self.closed_layers)}"
        fix = ", the given ones among them" if self.given_inputs else "; pass --inputs"
        return f"no gate of {layers} opened on these inputs{fix}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {**asdict(self), "warning": self.warning}
        values["path"] = str(self.path)
        for name in ("dense_path", "decomposed_path", "tensorrt_path"):
            values[name] = str(values[name]) if values[name] else None
        return values

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                f"{layer.kernel[0]}x{layer.kernel[1]}",
                f"{layer.in_channels} -> {layer.out_channels}",
                "x".join(map(str, layer.strides)),
                f"gated, {layer.gate}" if layer.gated else "dense",
                layer.reason,
            )
            for layer in self.layers
        ]
        lines = [table(("convolution", "kernel", "channels", "stride", "form", "why not gated"), rows)]
        lines.append(f"{self.gated} of {len(self.layers)} convolutions are gated. Against its source: {self._found()}.")
        if self.recognised:
            lines.append(self._found_layers())
        if self.warning:
            lines.append(f"Warning: {self.warning}.")
        written = [("model", self.path), ("dense twin", self.dense_path), ("decomposed", self.decomposed_path)]
        written.append(("for TensorRT with the plugin", self.tensorrt_path))
        lines.append("Wrote " + ", ".join(f"{path} ({what})" for what, path in written if path) + ".")
        return "\n".join(lines)

    def _found_layers(self) -> str:
        """What recognition did, in a sentence."""
        fused = sum(len(layer.fused) for layer in self.recognised)
        return f"{count(len(self.recognised), 'layer')} recognised in standard ops, {count(fused, 'following op')} fused."

    def explain(self) -> str:
        """The near misses as a table."""
        return explained(self.near_misses)

    def _found(self) -> str:
        random = count(self.random_inputs, "random input")
        as_built = self.checked.over(f"{self.given_inputs} given and {random}" if self.given_inputs else random)
        gates = "the gates of its own LCCL layers" if self.recognised else "all gates"
        text = as_built + (f"; with {gates} open: max error {self.checked_open.max_error:.1e}" if self.checked_open else "")
        if self.recognised_open:
            text += (
                f". Against the graph before recognition, with all gates open: max error {self.recognised_open.max_error:.1e}"
            )
        return text


def export(
    model: nn.Module | ExportedProgram | onnx.ModelProto | str | Path,
    args: Tensor | Sequence[Tensor] | None,
    path: str | Path,
    *,
    dynamic_hw: bool = False,
    dense: bool | str | Path = False,
    decomposed: bool | str | Path = False,
    tensorrt: bool | str | Path = False,
    inputs: Mapping[str, Array] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    fuse: bool = True,
    tolerance: float | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> ExportResult:
    """Exports a network with LCCL layers to ONNX.

    Args:
        model: a module with :class:`lccl.nn.LCCLConv2d` layers or gates in code of its own, a program of ``torch.export``,
            or an ONNX model, with LCCLConv nodes or in standard ops; of this the path too, which takes less memory.
        args: example input(s) of the module, [N, C, H, W]; for an ONNX model None, or arrays whose shapes the check takes,
            which it needs where sizes besides the batch are dynamic and not any size will do.
        path: the canonical file: nodes and model-local function, opset 18, dynamic batch.
        dynamic_hw: height and width are dynamic too.
        dense: write the dense twin as well (every gate taken as 1): True for ``<stem>.dense.onnx``, or its path.
        decomposed: write the same maths in standard ops as well: True for ``<stem>.decomposed.onnx``, or its path.
        tensorrt: write the network without the function as well, for trtexec and others with the plugin: True for
            ``<stem>.tensorrt.onnx``, or its path.
        inputs: real inputs by name, for the check besides random ones, and to calibrate each node's density.
        input_names, output_names: of the ONNX model; by default the parameters of ``forward``, and torch's own names.
        fuse: take BatchNorm, activation and added branch behind a recognised layer into its node.
        tolerance: allowed error against the source, relative to max(0.01, largest output); by default 1e-4 for float32
            and 2e-2 for lower precision.
        metadata: added to the file's metadata.
        progress: told each step.

    Returns:
        Paths, layers and the measured error.

    Raises:
        UserError: the model has no gate, cannot be exported, fails a check, or cannot be written; nothing is written.
    """
    target = Path(path)
    targets = {
        "model": target,
        "dense": _twin_path(target, dense, "dense"),
        "decomposed": _twin_path(target, decomposed, "decomposed"),
        "tensorrt": _twin_path(target, tensorrt, "tensorrt"),
    }
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise UserError(f"the tolerance is a number from 0, not {tolerance}")
    named = [file.resolve() for file in targets.values() if file]
    if len(set(named)) < len(named):
        raise UserError(f"the model and its twins need different names, not {', '.join(str(f) for f in targets.values() if f)}")
    given = files_of_onnx(model) if isinstance(model, (str, Path)) else frozenset()
    for file in filter(None, targets.values()):
        require_writable(file)
        if file.resolve() in given:
            raise UserError(f"{file} is the model to export, which would be overwritten: choose another name")
    register_schema()
    with WeightFile(target) as weights:
        source = _make_source(model, args, (input_names, output_names), dynamic_hw, weights, progress)
        return _export(source, weights, targets, inputs, fuse, tolerance, metadata or {}, progress)


def _export(
    source: Source,
    weights: WeightFile,
    targets: Mapping[str, Path | None],
    inputs: Mapping[str, Array] | None,
    fuse: bool,
    tolerance: float | None,
    metadata: Mapping[str, str],
    progress: Progress,
) -> ExportResult:
    """The export of a network, once it is known what of it is asked for; its models are small, with their weights in a file."""
    traced = weights.externalize(source.to_onnx())
    recognised = find_layers(traced, source.feeds(traced), inputs, fuse, progress)
    progress("folding and completing the graph")
    result = canonical(recognised.model)
    notes = {"lccl.op": QUALIFIED_NAME, "lccl.op_version": str(VERSION), **source.metadata, **metadata}
    set_metadata(result, __version__, notes)
    progress("checking the model")
    check_model(result)
    runs = upcast(result)
    allowed = default_tolerance(result) if tolerance is None else tolerance
    random = masked(source.feeds(runs), recognised.masks)
    real = [] if inputs is None else real_feeds(runs, inputs)
    feeds = random + real
    own = with_own_gates(traced) if recognised.layers else runs
    checked, checked_open = check_against_source(runs, source, feeds, allowed, progress, own=own)
    progress("measuring densities")
    densities = _densities(runs, random)
    if real:
        calibrated = _densities(runs, real)
        set_densities(result, calibrated)
        densities = {name: max(value, calibrated[name]) for name, value in densities.items()}
    files = {"model": result}
    if targets["dense"]:
        progress("making the dense twin")
        files["dense"] = _checked_twin(dense_twin(result), notes, "dense")
    if targets["decomposed"]:
        progress("decomposing")
        files["decomposed"] = _checked_twin(inlined(result), notes, "decomposed")
        check_view(runs, upcast(files["decomposed"]), feeds, allowed)
    if targets["tensorrt"]:
        files["tensorrt"] = _checked_twin(stripped(result), notes, "tensorrt")
    progress("writing")
    _write({targets[kind]: proto for kind, proto in files.items()})  # type: ignore[misc]
    assert targets["model"] is not None
    return ExportResult(
        targets["model"],
        layers_with_reasons(result, recognised.near_misses),
        checked,
        checked_open,
        recognised.checked_open,
        recognised=recognised.layers,
        near_misses=recognised.near_misses,
        given_inputs=_samples(real),
        random_inputs=_samples(random),
        closed_layers=tuple(name for name, density in densities.items() if density == 0),
        dense_path=targets["dense"],
        decomposed_path=targets["decomposed"],
        tensorrt_path=targets["tensorrt"],
        metadata=notes,
    )


def _densities(model: onnx.ModelProto, feeds: list[dict[str, Array]]) -> dict[str, float]:
    """Fraction of open pixels of each gated layer over the feeds."""
    return {layer.name: layer.density for layer in profile(model, feeds).gated if layer.density is not None}


def _samples(feeds: list[dict[str, Array]]) -> int:
    return sum(len(next(iter(feed.values()))) for feed in feeds)


def _make_source(
    model: nn.Module | ExportedProgram | onnx.ModelProto | str | Path,
    args: Tensor | Sequence[Tensor] | None,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    dynamic_hw: bool,
    weights: WeightFile,
    progress: Progress,
) -> Source:
    if isinstance(model, (str, Path, onnx.ModelProto)):
        for given, name in ((dynamic_hw, "dynamic_hw"), (names[0], "input_names"), (names[1], "output_names")):
            if given:
                raise UserError(f"{name} is for a module; an ONNX model has its shapes and names in it")
        examples: Sequence[Any] = () if args is None else (args,) if hasattr(args, "__array__") else args
        loaded = weights.externalize(model) if isinstance(model, onnx.ModelProto) else load_onnx(model, weights)
        return OnnxSource(loaded, [tuple(a.shape) for a in examples])
    from torch import export as torch_export
    from torch import nn

    from lccl.exporting.program_source import ProgramSource
    from lccl.exporting.torch_source import TorchSource

    if isinstance(model, torch_export.ExportedProgram):
        for given, name in ((dynamic_hw, "dynamic_hw"), (names[0], "input_names"), (names[1], "output_names")):
            if given:
                raise UserError(f"{name} is for a module; a program of torch.export has its shapes and names in it")
        return ProgramSource(model, progress)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"a network to export is an nn.Module, a program of torch.export or an onnx.ModelProto, not {kind_of(model)}"
        )
    if isinstance(args, Sequence) and args and all(isinstance(size, int) for size in args):
        raise UserError(f"an example input is a tensor, not its shape: torch.zeros({', '.join(map(str, args))})")
    if args is None:
        raise UserError("exporting a module needs an example input: lccl.export(model, torch.zeros(1, 3, 224, 224), path)")
    return TorchSource(model, args, *names, dynamic_hw, progress)


def _twin_path(target: Path, wanted: bool | str | Path, kind: str) -> Path | None:
    if wanted is False:
        return None
    return target.with_suffix(f".{kind}.onnx") if wanted is True else Path(wanted)


def _checked_twin(model: onnx.ModelProto, notes: dict[str, str], kind: str) -> onnx.ModelProto:
    set_metadata(model, __version__, {**notes, "lccl.twin": kind})
    check_model(model)
    return model


def _write(files: Mapping[Path, onnx.ModelProto]) -> None:
    """All of the files or none."""
    with contextlib.ExitStack() as stack:
        for path, model in files.items():
            if whole_size(model) > MAX_FILE_BYTES:
                raise UserError(f"the model is over 2 GB, the limit of one ONNX file; this version cannot split {path}")
            temporary = stack.enter_context(atomic_path(path))
            write_whole(model, temporary)
