"""A network as the exporter sees it: which layers are gated, which could be, what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx

from lccl.console.progress import Progress, silent
from lccl.console.text import count, percent, table
from lccl.errors import UserError
from lccl.errors.arguments import CALLABLE, COUNT, FILE, FLAG, NAME, NONE, SIZES, takes
from lccl.exporting.reasons import layers_with_reasons
from lccl.exporting.unchecked import unchecked_onnx
from lccl.forms.costs import CostTable, load_costs
from lccl.forms.layer_models import LayerShape, layers_of
from lccl.forms.network_costs import NetworkCosts, conv_shapes
from lccl.graph.inputs import input_types
from lccl.graph.layers import NO_GATE, LayerReport
from lccl.graph.recognise import recognise
from lccl.graph.variants.canonical import canonical
from lccl.loading.data import DataSource, read_data
from lccl.op.onnx_op import is_lccl_node, node_attributes
from lccl.profiling.of_onnx import axes_of_data, profile_canonical

LARGEST_FOR_CPU = 7
"""The largest kernel, in rows and columns, of a layer that the CPU op computes."""
NOT_KNOWN = -1.0
"""What a node's expected density says where nobody has measured it."""
COULD = "could have a gate"
_CHUNK = 64


@dataclass(frozen=True)
class InspectedLayer:
    """One convolution."""

    name: str
    gated: bool
    gate: str
    """Kernel of the gate ("3x3", "4x4 per 4x4 block") or "external"; empty without a gate."""
    gateable: bool
    """Whether it has a gate or could have one."""
    note: str
    """Why it has no gate or could have none."""
    kernel: tuple[int, ...]
    in_channels: int
    out_channels: int
    strides: tuple[int, ...]
    out_hw: tuple[int, int] | None
    """None where sizes are not known."""
    macs: int | None
    """Multiply-accumulates per image with every pixel computed, the gate's not counted."""
    density: float | None
    """The fraction of open pixels: over the data, else what the file says; None if not known."""
    dense_us: float | None = None
    """By the table of costs: the time with every pixel computed."""
    gated_us: float | None = None
    """By the table of costs: the time with the gate at this density, between dense neighbours."""
    in_engine: str = ""
    """How it went into an engine: "plugin", "inlined" or "native"; empty for a model."""


@dataclass(frozen=True)
class Inspection:
    """What was found. It prints as a table."""

    source: str
    layers: tuple[InspectedLayer, ...]
    backends: Mapping[str, str]
    """What each runtime would do with the gated layers, in words."""
    images: int
    """Over which the densities were measured; 0: they are those that the file says."""
    costs: str = ""
    """Of what machine the table of costs is; empty without a table."""

    @property
    def gated(self) -> tuple[InspectedLayer, ...]:
        """The layers with a gate."""
        return tuple(layer for layer in self.layers if layer.gated)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "source": self.source,
            "images": self.images,
            "costs": self.costs,
            "backends": dict(self.backends),
            "layers": [asdict(layer) for layer in self.layers],
        }

    def __str__(self) -> str:
        timed, built = bool(self.costs), any(layer.in_engine for layer in self.layers)
        head = ["layer", "form", "kernel", "channels", "stride", "output", "MMACs", "density"]
        head += [*(["dense us", "gated us"] if timed else []), *(["in the engine"] if built else []), "note"]
        rows = [
            [
                *_cells(layer),
                *([_us(layer.dense_us), _us(layer.gated_us)] if timed else []),
                *([layer.in_engine] if built else []),
                layer.note,
            ]
            for layer in self.layers
        ]
        could = sum(layer.gateable and not layer.gated for layer in self.layers)
        lines = [
            table(head, rows, right=range(6, 8 + 2 * timed)),
            f"{len(self.gated)} of {count(len(self.layers), 'convolution')} are gated, {could} more could be. {self._densities_said()}",
            *(f"{name}: {what}" for name, what in self.backends.items()),
        ]
        return "\n".join([*lines, *([f"Costs: {self.costs}"] if timed else [])])

    def _densities_said(self) -> str:
        if self.images:
            return f"Densities over {count(self.images, 'sample')}."
        known = any(layer.density is not None for layer in self.gated)
        return "Densities as the file says." if known else "Densities are not known."


@takes(
    source=FILE,
    args=SIZES | NONE,
    factory=NAME | NONE,
    unsafe_pickle=FLAG,
    costs=FILE | NONE,
    threads=COUNT,
    foreign_costs=FLAG,
    progress=CALLABLE,
)
def inspect(
    source: str | Path,
    data: DataSource | None = None,
    *,
    args: tuple[int, ...] | None = None,
    factory: str | None = None,
    unsafe_pickle: bool = False,
    costs: str | Path | None = None,
    threads: int = 1,
    foreign_costs: bool = False,
    progress: Progress = silent,
) -> Inspection:
    """Look at a network as the exporter does, without the checks of an export.

    Args:
        source: a checkpoint or an ``.onnx`` file, exported, built or in standard ops.
        data: inputs to measure densities on, as for :func:`lccl.compare`; None: densities are what
            the file says.
        args: the shape of the input, batch first, where the file does not say it.
        factory: "pkg.module:callable", for a checkpoint that does not name its own.
        unsafe_pickle: load a pickled module, which runs code from the file.
        costs: the file of a table of costs that ``lccl measure`` wrote.
        threads: of one inference, those that the table has to be of.
        foreign_costs: take a table of another machine or of other threads, with a warning.
        progress: called with each step.

    Returns:
        All convolutions in order.

    Raises:
        UserError: the file, the data or the table cannot be used.
    """
    path = Path(source)
    if path.suffix not in (".onnx", ".pt", ".pth", ".safetensors", ".bin", ".ckpt"):
        raise UserError(f"{path} is no network to inspect: give a checkpoint or an .onnx file")
    table_of = None if costs is None else load_costs(costs, foreign=foreign_costs, threads=threads)
    progress("reading the network")
    model = unchecked_onnx(path, factory, args, unsafe_pickle)
    progress("looking for gates")
    found = recognise(model)
    result = canonical(found.model)
    densities, images = _densities_said_by(result), 0
    if data is not None:
        progress("measuring densities")
        inputs = read_data(data, axes_of_data([result]))
        profile = profile_canonical(result, inputs.chunks(tuple(input_types(result)), _CHUNK))
        densities = {layer.name: layer.density for layer in profile.gated if layer.density is not None}
        images = profile.images
    shapes = dict(layers_of(result))
    time = None if table_of is None or costs is None else NetworkCosts(table_of, costs, conv_shapes(result))
    layers = tuple(
        _layer(report, shapes.get(report.name), densities.get(report.name), time)
        for report in layers_with_reasons(result, found.near_misses)
    )
    return Inspection(str(path), layers, _backends(layers), images, "" if table_of is None else _costs_of(table_of))


def with_engine(found: Inspection, engine: str | Path, backend: str, paths: Mapping[str, str]) -> Inspection:
    """Return an inspection of an engine: of its model, with how each layer went into it.

    Args:
        found: the model's; one without layers where the model is not at hand.
        engine: the engine's file.
        backend: the runtime that it is for.
        paths: by layer, as the side-car has them.
    """
    layers = [replace(layer, in_engine=paths.get(layer.name, "")) for layer in found.layers]
    if not layers:
        layers = [
            InspectedLayer(name, path != "native", "", path != "native", "", (), 0, 0, (), None, None, None, in_engine=path)
            for name, path in paths.items()
        ]
    return replace(found, source=str(engine), layers=tuple(layers), backends={backend: _built_said(layers)})


def _built_said(layers: Sequence[InspectedLayer]) -> str:
    """Return what an engine does with its gated layers, by the paths that they took."""
    paths = [layer.in_engine for layer in layers if layer.gated]
    skipped = sum(path.startswith("plugin") for path in paths)
    if not skipped:
        return "every pixel is computed, by standard ops"
    rest = f", of {len(paths)}" if skipped < len(paths) else ""
    return f"closed pixels of {count(skipped, 'layer')}{rest} are skipped, by the plugin"


def _densities_said_by(model: onnx.ModelProto) -> dict[str, float]:
    nodes = ((node.name, node_attributes(node).density) for node in model.graph.node if is_lccl_node(node))
    return {name: density for name, density in nodes if density != NOT_KNOWN}


def _layer(report: LayerReport, shape: LayerShape | None, density: float | None, time: NetworkCosts | None) -> InspectedLayer:
    barred = "" if report.gated else _why_not(report, shape)
    dense_us = gated_us = None
    if time is not None and shape is not None:
        cost = time.cost(report.name, shape.macs)
        dense_us = None if cost is None else cost.dense_us
        if cost is not None and report.gated and density is not None:
            gated_us = time.known_us(report.name, shape.macs, density)
    return InspectedLayer(
        name=report.name,
        gated=report.gated,
        gate=report.gate,
        gateable=report.gated or not barred,
        note="" if report.gated else barred or _could(report),
        kernel=report.kernel,
        in_channels=report.in_channels,
        out_channels=report.out_channels,
        strides=report.strides,
        out_hw=None if shape is None else shape.out_hw,
        macs=None if shape is None else shape.macs,
        density=density if report.gated else None,
        dense_us=dense_us,
        gated_us=gated_us,
    )


def _could(report: LayerReport) -> str:
    return COULD if report.reason == NO_GATE else f"{COULD}; {report.reason}"


def _why_not(report: LayerReport, shape: LayerShape | None) -> str:
    """Return why a dense convolution could have no gate, or nothing."""
    if report.reason.startswith("it computes the gate"):
        return report.reason
    if report.reason and report.reason != NO_GATE and shape is None:
        return report.reason
    if shape is None:
        return "grouped, not in two dimensions, or of unknown size: the op has no such layer"
    if shape.out_hw == (1, 1):
        return "its output is one pixel: there is nothing to skip"
    return ""


def _backends(layers: tuple[InspectedLayer, ...]) -> dict[str, str]:
    """Return what each runtime would do with the gated layers."""
    gated = [layer for layer in layers if layer.gated]
    if not gated:
        return {}
    large = [layer.name for layer in gated if max(layer.kernel, default=0) > LARGEST_FOR_CPU]
    every = "every pixel is computed, by standard ops"
    skips = f"closed pixels of {count(len(gated), 'layer')} are skipped, by the CPU op"
    if large:  # an ONNX Runtime session takes the op's nodes or none
        skips = f"{every}: the kernel of {large[0]} is larger than 7x7, and the CPU op has none such"
    return {
        "onnxruntime": every,
        "onnxruntime-lccl": skips,
        "tensorrt": f"closed pixels of {count(len(gated), 'layer')} are skipped, by the plugin",
        "tensorrt-rtx": f"{every}: it has no plugins",
    }


def _costs_of(costs: CostTable) -> str:
    return f"{costs.machine}, {count(costs.threads, 'thread')}, batch {costs.batch}"


def _cells(layer: InspectedLayer) -> Iterator[str]:
    yield layer.name
    yield f"gated, {layer.gate}" if layer.gated else "dense"
    yield "x".join(map(str, layer.kernel)) or "?"
    yield f"{layer.in_channels or '?'} -> {layer.out_channels or '?'}"
    yield "x".join(map(str, layer.strides)) or "?"
    yield "x".join(map(str, layer.out_hw)) if layer.out_hw else "?"
    yield "?" if layer.macs is None else f"{layer.macs / 1e6:.2f}"
    yield "" if not layer.gated else percent(layer.density) if layer.density is not None else "?"


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
