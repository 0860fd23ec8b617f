"""What the benchmark says: JSON, tables, a picture."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.break_even import break_even
from bench.gpu import targets as gpu_targets
from bench.gpu.targets import Outcome

if TYPE_CHECKING:
    from bench.gpu.contest import Contest, Row


def targets(facts: dict[str, Any], contest: Contest) -> list[Outcome]:
    """The ratios that this GPU is held to."""
    return gpu_targets.outcomes(contest.rows, facts["compute_capability"])


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Values of these fields -> the rows that have them, in the order of the rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return groups


def break_evens(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Break-even densities of the chosen configuration and of the best, by layer, mask and form."""
    found = []
    names = ("layer", "grid", "mask", "form")
    for key, mine in grouped(rows, *names).items():
        best: dict[float, float] = {}
        for row in mine:
            best[row.density] = max(best.get(row.density, 0.0), row.ratio)
        chosen = [(r.density, r.ratio) for r in mine if r.chosen]
        evens = {"chosen": break_even(chosen) if chosen else None, "best": break_even(list(best.items()))}
        found.append(dict(zip(names, key, strict=True)) | evens)
    return found


def markdown(facts: dict[str, Any], contest: Contest) -> str:
    """What was measured, on what, by which command.

    The chosen row and the best row of each setting.
    """
    lines = ["# Gated layers against cuDNN", "", *(f"* {name}: {value}" for name, value in facts.items())]
    if not contest.complete:
        lines += ["", "**Not complete: not all settings were measured.**"]
    lines += [
        "",
        "Times are of one call, in microseconds: median (least, 10th to 90th percentile). Ratios are dense time over ours.",
        "",
        "| layer | G | mask | gate | density | configuration | us | predicted | dense us | ratio | gated dense us | ratio | peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rows in grouped(contest.rows, "layer", "grid", "mask", "form", "density").values():
        best = min(rows, key=lambda r: r.times.median)
        for row in dict.fromkeys([*(r for r in rows if r.chosen), best]):
            lines.append(_line(row, best is row))
    lines += ["", "| layer | G | mask | gate | break-even density, chosen | best |", "|---|---|---|---|---|---|"]
    for found in break_evens(contest.rows):
        values = ("none" if found[name] is None else f"{found[name]:.2f}" for name in ("chosen", "best"))
        lines.append(f"| {found['layer']} | {found['grid']} | {found['mask']} | {found['form']} | {' | '.join(values)} |")
    lines += gpu_targets.markdown(targets(facts, contest))
    failed = [r for r in contest.refusals if r.failed]
    lines += ["", *(f"* {r.config} in {r.setting}: {r.reason}" for r in failed)] if failed else []
    return "\n".join(lines) + "\n"


def _line(row: Row, best: bool) -> str:
    t = row.times
    marks = ", ".join(word for word, holds in (("chosen", row.chosen), ("best", best)) if holds)
    cells = (
        row.layer,
        row.grid,
        row.mask,
        row.form,
        row.density,
        f"{row.config} ({marks})",
        f"{t.median:.2f} ({t.min:.2f}, {t.p10:.2f} to {t.p90:.2f})",
        "-" if row.predicted_us is None else f"{row.predicted_us:.2f}",
        f"{row.dense.median:.2f}",
        f"{row.ratio:.2f}",
        f"{row.gated_dense.median:.2f}",
        f"{row.gated_ratio:.2f}",
        "-" if row.peak_percent is None else f"{row.peak_percent:.0f} %",
    )
    return f"| {' | '.join(map(str, cells))} |"


def draw(rows: Sequence[Row], path: Path) -> str:
    """Ratio over density for each layer, the best configuration of each mask.

    Returns why there is no picture, or "".
    """
    try:
        import_module("matplotlib").use("Agg")
        pyplot: Any = import_module("matplotlib.pyplot")
    except ImportError:
        return "no picture: matplotlib is not installed"
    layers = list(dict.fromkeys(r.layer for r in rows))
    if not layers:
        return "no picture: nothing was measured"
    columns = min(4, len(layers))
    lines = -(-len(layers) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4 * columns, 3 * lines), squeeze=False, sharex=True)
    for axis, layer in zip(axes.flat, layers, strict=False):
        for grid, kind, form in dict.fromkeys((r.grid, r.mask, r.form) for r in rows if r.layer == layer):
            best: dict[float, float] = {}
            for r in rows:
                if (r.layer, r.grid, r.mask, r.form) == (layer, grid, kind, form):
                    best[r.density] = max(best.get(r.density, 0.0), r.ratio)
            densities = sorted(best)
            style = "-" if form == "external" else "--"
            axis.plot(densities, [best[d] for d in densities], style, marker=".", label=f"G={grid} {kind} {form}")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_title(layer)
        axis.set_xlabel("density")
        axis.set_ylabel("dense time / ours")
    axes.flat[0].legend(fontsize="x-small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return ""


def report(facts: dict[str, Any], contest: Contest) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "facts": facts,
        "complete": contest.complete,
        "rows": [row.as_dict() for row in contest.rows],
        "not_timed": [refusal.as_dict() for refusal in contest.refusals],
        "break_even": break_evens(contest.rows),
        "targets": [outcome.as_dict() for outcome in targets(facts, contest)],
    }


class Files:
    """The files that were asked for, each whole at any time."""

    SHARE = 20
    """Writing takes one part of so many of the time at most: there may be many thousand rows."""

    def __init__(self, options: argparse.Namespace, facts: dict[str, Any]) -> None:
        self._options = options
        self._facts = facts
        self._next = 0.0

    def keep(self, contest: Contest) -> None:
        """Writes what there is, unless that was done a moment ago."""
        began = time.monotonic()
        if began >= self._next:
            self.write(contest)
            self._next = time.monotonic() + self.SHARE * (time.monotonic() - began)

    def write(self, contest: Contest) -> None:
        """Write the files that were asked for.

        Raises:
            UserError: one cannot be written.
        """
        from lccl.files import atomic_path

        if self._options.json:
            with atomic_path(self._options.json) as path:
                path.write_text(json.dumps(report(self._facts, contest), indent=1))
        if self._options.markdown:
            with atomic_path(self._options.markdown) as path:
                path.write_text(markdown(self._facts, contest))
