#!/usr/bin/env python3
"""The ratios that the kernels are held to on a Hopper GPU (H100, H200).

As a command: which of them these kernels can reach by their own model. Needs no GPU and no PyTorch.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "exporter")]

from bench.break_even import break_even
from bench.command_line import Parser

if TYPE_CHECKING:
    from bench.gpu.contest import Row
    from bench.gpu.settings import Layer
    from lccl.backends.torch.cuda.library import Library

COMPUTE_CAPABILITY = "9.0"
"""That the targets are for."""
PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"
WITHIN_REACH, WAITS = "within reach", "waits for the Hopper kernels"
DEVICE = "9.0x132"
"""H100 SXM, H200."""
DENSE_TFLOPS, DENSE_BYTES, DENSE_CALL_US = 790.0, 4.3e12, 2.5
"""Of a dense layer: the tensor cores' rate, the memory's, and what a call takes beside them.
Assumed, not measured here."""
DENSE_EFFICIENCY = {64: 0.60, 128: 0.75}
"""Least number of channels -> the share of the rate that cuDNN reaches. Assumed."""


@dataclass(frozen=True)
class Target:
    """The least ratio, or break-even density, that every setting has to reach.

    The ratio is dense time over the chosen configuration's time.
    """

    words: str
    least: float
    density: float | None
    """Of the settings; None: of all, for the break-even density or for a ratio at any density."""
    covers: Callable[[Row], bool]
    """Whether a row, whatever its density, is one of the settings."""
    break_even: bool = False


def _large(row: Row) -> bool:
    return row.batch >= 32 or row.size >= 160


def _grid8(row: Row) -> bool:
    return row.grid == 8 and _large(row)


def _pixel(row: Row) -> bool:
    return row.grid == 1 and _large(row)


def _any(_: Row) -> bool:
    return True


TARGETS = (
    Target("G = 8, density 0.25", 2.8, 0.25, _grid8),
    Target("G = 8, density 0.5", 1.6, 0.5, _grid8),
    Target("G = 8, density 0.65", 1.25, 0.65, _grid8),
    Target("G = 8, break-even density", 0.85, None, _grid8, break_even=True),
    Target("pixels, C >= 128, density 0.25", 2.0, 0.25, lambda row: _pixel(row) and row.channels >= 128),
    Target("pixels, C = 64, density 0.25", 1.7, 0.25, lambda row: _pixel(row) and row.channels == 64),
    Target("pixels, density 0.5", 1.3, 0.5, _pixel),
    Target("pixels, break-even density", 0.65, None, _pixel, break_even=True),
    Target("everywhere", 0.97, None, _any),
)


@dataclass(frozen=True)
class Outcome:
    """A target beside what was measured; true when it passed."""

    target: str
    least: float
    measured: float | None
    """The smallest of all settings; None: nothing that says it."""
    where: str
    """The setting that it comes from."""
    settings: int
    result: str

    def __bool__(self) -> bool:
        return self.result == PASSED

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def outcomes(rows: Sequence[Row], compute_capability: str) -> list[Outcome]:
    """Each target and whether it passed; none for another GPU than they are for."""
    if compute_capability != COMPUTE_CAPABILITY:
        return []
    chosen = [row for row in rows if row.chosen]
    return [_outcome(target, chosen) for target in TARGETS]


def _values(target: Target, rows: Sequence[Row]) -> list[tuple[float, str]]:
    """Of each of the target's settings: the ratio or the break-even density, and its name."""
    covered = [row for row in rows if target.covers(row)]
    return _break_evens(target, covered) if target.break_even else _ratios(target, covered)


def _outcome(target: Target, rows: Sequence[Row]) -> Outcome:
    values = _values(target, rows)
    if not values:
        return Outcome(target.words, target.least, None, "", 0, NOT_MEASURED)
    least, where = min(values)
    return Outcome(target.words, target.least, least, where, len(values), PASSED if least >= target.least else FAILED)


def _ratios(target: Target, rows: Sequence[Row]) -> list[tuple[float, str]]:
    fits = [row for row in rows if target.density is None or math.isclose(row.density, target.density)]
    return [(row.ratio, f"{_setting(row)} {row.density}") for row in fits]


def _break_evens(target: Target, rows: Sequence[Row]) -> list[tuple[float, str]]:
    """Of each setting that was measured at densities far enough to say."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        points.setdefault(_setting(row), []).append((row.density, row.ratio))
    found = []
    for setting, measured in points.items():
        even = break_even(measured) or 0.0
        if even >= target.least or (even < max(measured)[0] and min(measured)[0] <= target.least):
            found.append((even, setting))
    return found


def _setting(row: Row) -> str:
    return f"{row.layer} G={row.grid} {row.mask} {row.form}"


def markdown(results: Sequence[Outcome]) -> list[str]:
    """Lines of a table; none without results."""
    if not results:
        return []
    lines = ["", "| target | at least | measured | of settings | least in | |", "|---|---|---|---|---|---|"]
    for o in results:
        measured = "-" if o.measured is None else f"{o.measured:.2f}"
        lines.append(f"| {o.target} | {o.least} | {measured} | {o.settings} | {o.where} | {o.result} |")
    return lines


# ---- the command: what the kernels' own model says -----------------------------------------------


@dataclass(frozen=True)
class Predicted:
    """A row of which nothing was measured."""

    layer: str
    channels: int
    size: int
    batch: int
    grid: int
    mask: str
    form: str
    density: float
    ratio: float
    chosen: bool = True


def assumed_dense_us(layer: Layer) -> float:
    """Microseconds of the dense layer in cuDNN, by assumption."""
    efficiency = DENSE_EFFICIENCY[
        max(least for least in DENSE_EFFICIENCY if least <= max(layer.channels, min(DENSE_EFFICIENCY)))
    ]
    math_us = layer.flops / (efficiency * DENSE_TFLOPS * 1e6)
    return max(math_us, layer.bytes / DENSE_BYTES * 1e6) + DENSE_CALL_US


def predicted_rows(library: Library, device: str = DEVICE) -> list[Predicted]:
    """Every setting of the benchmark, with the chosen configuration's predicted time."""
    from bench.gpu.settings import DENSITIES, FORMS, MASKS, layers_of, settings_of
    from lccl.backends.torch.cuda.planning import parse_device

    gpu = parse_device(device)
    rows = []
    for s in settings_of(layers_of(None, False), DENSITIES, MASKS, FORMS):
        params = s.params()
        us = library.predict(params, gpu, library.choose(params, gpu))
        if us:
            layer = s.layer
            sizes = (layer.name, layer.channels, layer.size, layer.batch)
            rows.append(Predicted(*sizes, s.grid, s.mask, s.form, s.density, assumed_dense_us(layer) / us))
    return rows


def reach(rows: Sequence[Any]) -> list[str]:
    """A table of the targets; everything in it is predicted."""
    lines = [
        "| target | at least | predicted | settings that reach it | least in | by this model |",
        "|---|---|---|---|---|---|",
    ]
    for target, o in zip(TARGETS, outcomes(rows, COMPUTE_CAPABILITY), strict=True):
        said = {PASSED: WITHIN_REACH, FAILED: WAITS}.get(o.result, "no setting says it")
        predicted = "-" if o.measured is None else f"{o.measured:.2f}"
        reached = sum(value >= target.least for value, _ in _values(target, rows))
        lines.append(f"| {o.target} | {o.least} | {predicted} | {reached} of {o.settings} | {o.where} | {said} |")
    return lines


TABLE_DENSITIES = (0.25, 0.5, 0.65, 1.0)


def layer_table(library: Library, device: str = DEVICE) -> list[str]:
    """A table of the ratios of layers of stride 1 with gates of their own; everything in it is predicted."""
    from bench.gpu.settings import layers_of, settings_of
    from lccl.backends.torch.cuda.planning import parse_device

    gpu = parse_device(device)
    head = " | ".join(f"{density:g}" for density in TABLE_DENSITIES)
    lines = [f"| layer | gate | {head} | configuration at 0.5 |", "|---|---|" + "---|" * (len(TABLE_DENSITIES) + 1)]
    cells: dict[tuple[str, int], list[str]] = {}
    for s in settings_of(
        [o for o in layers_of(None, False) if o.stride == 1], TABLE_DENSITIES, ((8, "iid"), (1, "iid")), ("fused",)
    ):
        params = s.params()
        chosen = library.choose(params, gpu)
        us = library.predict(params, gpu, chosen)
        row = cells.setdefault((s.layer.name, s.grid), ["", ""])
        row.insert(-1, f"{assumed_dense_us(s.layer) / us:.2f}" if us else "-")
        if s.density == 0.5 and us:
            row[-1] = library.config(chosen).name
    for (name, grid), row in cells.items():
        lines.append(f"| {name} | {'pixel' if grid == 1 else f'G = {grid}'} | {' | '.join(row[1:])} |")
    return lines


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = Parser(
        "bench/gpu/targets.py",
        description="Which of the targets the kernels can reach by their own model. Nothing is measured.",
    )
    p.add_argument("--library", metavar="PATH", help="that has the model (default: $LCCL_CUDA_LIBRARY, else the package's own)")
    p.add_argument("--layers", action="store_true", help="print the ratios of each layer, too")
    p.add_argument("--device", default=DEVICE, metavar="CCxSMS", help="(default: %(default)s)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0, or 1 after one sentence.
    """
    options = parser().parse_args(arguments)
    from lccl.backends.torch.cuda.library import load
    from lccl.errors import UserError

    try:
        library = load(options.library)
        rows = predicted_rows(library, options.device)
        table = layer_table(library, options.device) if options.layers else []
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shares = ", ".join(f"{share:.2f} from {least} channels" for least, share in DENSE_EFFICIENCY.items())
    print(f"Predicted for {options.device}, not measured: dense time over the chosen configuration's.\n")
    print("\n".join([*reach(rows), *([""] if table else []), *table]))
    print(
        f"\nOurs: the kernels' own model. Dense, assumed: {DENSE_TFLOPS:g} TFLOP/s times {shares}, or {DENSE_BYTES / 1e12:g} TB/s,"
    )
    print(f"whichever takes longer, and {DENSE_CALL_US:g} us a call.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
