"""Tables of what layers cost on one machine: dense, and gated at densities. Read, merged, asked."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lccl.backends.gpus import gpus
from lccl.backends.machine import machine_name
from lccl.backends.onnxruntime.library import cpu_isa
from lccl.console.text import count, table
from lccl.errors import Fix, UserError
from lccl.files import atomic_path, require_file

FORMAT = 1
LEAST_GAIN = 0.97
"""The most of the dense time that a gated layer may take where a gate pays: less is noise."""
DENSITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""At which gated layers are timed; 0 is the gate itself, and the output's closed pixels."""


@dataclass(frozen=True)
class Machine:
    """Where a table was measured."""

    device: str
    """"cpu", or "cuda"."""
    processor: str
    isa: str
    """The instruction set of the kernels: "avx2"; of a GPU its architecture: "sm_90"."""

    @classmethod
    def here(cls, device: str = "cpu") -> Machine | None:
        """Return this machine, or its first GPU; None where it has none."""
        if device == "cpu":
            return cls("cpu", machine_name(), cpu_isa() or "")
        gpu = next(iter(gpus()), None)
        return None if gpu is None else cls("cuda", gpu.name, f"sm_{gpu.capability.replace('.', '')}")

    def __str__(self) -> str:
        return f"{self.processor} ({self.isa})"


@dataclass(frozen=True)
class ConvShape:
    """What makes a convolution's cost, but for the size of its maps; and its gate."""

    kernel: tuple[int, int]
    in_channels: int
    out_channels: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    gate: str = ""
    """The kind: "1x1", "kxk" or "grid:G", or another one that no table has; empty without one."""


@dataclass(frozen=True)
class LayerCost:
    """The times of one layer, in microseconds, for a batch."""

    name: str
    """Of the first layer of this shape."""
    kernel: tuple[int, int]
    in_channels: int
    out_channels: int
    strides: tuple[int, int]
    out_hw: tuple[int, int]
    macs: int
    """Multiply-accumulates per image."""
    dense_us: float
    gated_us: Mapping[str, Mapping[str, float]]
    """Kind of gate -> density -> time of the layer by itself."""
    dilations: tuple[int, int]
    chained_us: Mapping[str, Mapping[str, float]]
    """The same between two dense convolutions: the dense time, and by how much the three take
    longer, with changes of layout and lost fusions."""

    @property
    def key(self) -> tuple[object, ...]:
        """What makes a layer the same for the machine."""
        return self.kernel, self.in_channels, self.out_channels, self.strides, self.dilations, self.out_hw

    def at(self, kind: str, density: float, *, in_chain: bool = True) -> float | None:
        """Return the time at a density, between those measured; None for a kind that was not.

        Args:
            kind: "1x1", "kxk" or "grid:G".
            density: 0 to 1.
            in_chain: whether the neighbours are dense.
        """
        found = (self.chained_us if in_chain else self.gated_us).get(kind)
        if found is None:
            return None
        points = sorted((float(d), us) for d, us in found.items())
        return float(np.interp(density, [d for d, _ in points], [us for _, us in points]))

    def merged(self, other: LayerCost) -> LayerCost:
        """Return the costs with another measurement's kinds of gates, in place of the same kinds.

        Times are comparable within one measurement, so the other's are scaled by the dense times.
        """
        scale = self.dense_us / other.dense_us

        def scaled(kinds: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
            return {kind: {d: round(scale * us, 2) for d, us in times.items()} for kind, times in kinds.items()}

        gated, chained = scaled(other.gated_us), scaled(other.chained_us)
        return replace(self, gated_us={**self.gated_us, **gated}, chained_us={**self.chained_us, **chained})

    def break_even(self, kind: str) -> float | None:
        """Return the density below which the gate pays in a chain; 0 where it never does."""
        if kind not in self.chained_us:
            return None
        grid = np.linspace(0, 1, 101)
        costly = (float(d) for d in grid if not self.pays(kind, float(d)))
        return next(costly, 1.0)

    def pays(self, kind: str, density: float) -> bool:
        """Return whether the gated layer is faster than the dense one by more than noise."""
        found = self.at(kind, density)
        return found is not None and found < LEAST_GAIN * self.dense_us


@dataclass(frozen=True)
class CostTable:
    """The costs of layers on one machine, with one number of threads and one batch."""

    machine: Machine
    threads: int
    batch: int
    versions: Mapping[str, str]
    commands: tuple[str, ...]
    layers: tuple[LayerCost, ...]

    def find(self, shape: ConvShape, macs: int) -> LayerCost | None:
        """Return the costs of a layer; None if it was not measured.

        Args:
            shape: the layer's.
            macs: per image, which tells the size of its output.
        """
        wanted = shape.kernel, shape.in_channels, shape.out_channels, shape.strides, shape.dilations
        return next((layer for layer in self.layers if layer.key[:-1] == wanted and layer.macs == macs), None)

    def merged(self, other: CostTable) -> CostTable:
        """Return both tables as one; of a layer in both, the other's costs.

        Raises:
            UserError: they are of different machines, threads, batches or versions.
        """
        for name in ("machine", "threads", "batch", "versions"):
            if getattr(self, name) != getattr(other, name):
                mine, theirs = (_text(getattr(t, name)) for t in (self, other))
                raise UserError(f"tables of other {name} cannot be merged: {mine} and {theirs}; write into another file")
        layers = {layer.key: layer for layer in self.layers}
        for layer in other.layers:
            before = layers.get(layer.key)
            layers[layer.key] = layer if before is None else before.merged(layer)
        return replace(self, layers=tuple(layers.values()), commands=(*self.commands, *other.commands))

    def save(self, path: str | Path) -> None:
        """Write the table as JSON.

        Raises:
            UserError: the path cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"format": FORMAT, **asdict(self)}

    def __str__(self) -> str:
        kinds = list(dict.fromkeys(kind for layer in self.layers for kind in layer.chained_us))
        head = ["layer", "kernel", "channels", "output", "dense us"]
        head += [f"{kind} at {d}" for kind in kinds for d in ("0.1", "0.3", "0.5")] + [f"{kind} pays below" for kind in kinds]
        rows = []
        for layer in self.layers:
            row = [
                layer.name,
                "x".join(map(str, layer.kernel)),
                f"{layer.in_channels} -> {layer.out_channels}",
                "x".join(map(str, layer.out_hw)),
                f"{layer.dense_us:.1f}",
            ]
            row += [_us(layer.at(kind, d)) for kind in kinds for d in (0.1, 0.3, 0.5)]
            row += [_share(layer.break_even(kind)) for kind in kinds]
            rows.append(row)
        what = f"{self.machine}, {self.threads} thread{'s' * (self.threads > 1)}, batch {self.batch}; " + ", ".join(
            f"{name} {version}" for name, version in self.versions.items()
        )
        return f"{table(head, rows, right=range(4, len(head)))}\n{what}"


def read_costs(path: str | Path) -> CostTable:
    """Read a table that ``lccl measure`` wrote, of any machine.

    Raises:
        UserError: it is no such table.
    """
    source = require_file(path)
    try:
        return table_of(json.loads(source.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{source} is no table of costs of format {FORMAT}: write one with lccl measure") from None


def load_costs(path: str | Path, *, foreign: bool = False, threads: int | None = None) -> CostTable:
    """Read a table that ``lccl measure`` wrote.

    Args:
        path: the file.
        foreign: take a table of another machine, with a warning.
        threads: those that it has to be of; None: any.

    Raises:
        UserError: it is no such table, or of another machine or other threads.
    """
    found = read_costs(path)
    here = Machine.here(found.machine.device)
    of = None
    if found.machine != here:
        of = f"{found.machine}, and {'there is no GPU here' if here is None else f'this is {here}'}"
    elif threads is not None and found.threads != threads:
        of = f"{count(found.threads, 'thread')}, not of {threads}"
    if of is not None and not foreign:
        fixes = [Fix("foreign_costs", True, "to take them all the same")]
        if found.machine == here:
            fixes.insert(0, Fix("threads", found.threads))
        raise UserError(f"{path} has the costs of {of}: measure here", fixes)
    if of is not None:
        warnings.warn(f"{path} has the costs of {of}: what pays there need not pay here", UserWarning, stacklevel=2)
    return found


def table_of(content: Mapping[str, object]) -> CostTable:
    """Return the table that was read from JSON.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no table.
    """
    if content["format"] != FORMAT:
        raise ValueError("another format")
    layers = content["layers"]
    if not isinstance(layers, list) or not isinstance(content["machine"], dict):
        raise TypeError("no table")
    return CostTable(
        machine=Machine(**content["machine"]),
        threads=int(content["threads"]),  # type: ignore[call-overload]
        batch=int(content["batch"]),  # type: ignore[call-overload]
        versions=dict(content["versions"]),  # type: ignore[call-overload]
        commands=tuple(content["commands"]),  # type: ignore[arg-type]
        layers=tuple(map(_layer, layers)),
    )


def _layer(values: dict[str, Any]) -> LayerCost:
    """Return one layer of a table.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is none.
    """
    for times in (values["gated_us"], values["chained_us"]):
        for kind in times.values():
            if not kind or not all(0 <= float(d) <= 1 and _is_time(us) for d, us in kind.items()):
                raise ValueError("no times")
    pairs = [values[name] for name in ("kernel", "strides", "dilations", "out_hw")]
    if not _is_time(values["dense_us"]) or not all(len(pair) == 2 for pair in pairs):
        raise ValueError("no layer")
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return LayerCost(**fields)


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _text(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else "never" if value == 0 else f"{value:.2f}"
