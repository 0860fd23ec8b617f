"""Ratio over density beside the ideal, one panel for each layer or network. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.cpu.common import Row
from lccl.errors import UserError

COLUMNS = 4


def require() -> None:
    """Require matplotlib.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UserError("a picture needs matplotlib: pip install matplotlib, or leave --picture out")


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Writes the picture as PNG.

    Raises:
        UserError: matplotlib is not installed.
    """
    require()
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    subjects = list(dict.fromkeys(row.subject for row in rows))
    columns = min(COLUMNS, len(subjects))
    lines = -(-len(subjects) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(3.4 * columns, 2.8 * lines + 0.6), squeeze=False)
    handles: dict[str, Any] = {}
    for axis, subject in zip(axes.flat, subjects, strict=False):
        _panel(axis, [row for row in rows if row.subject == subject], handles)
    for axis in axes.flat[len(subjects) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize="small")
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns, fontsize="x-small")
    figure.tight_layout(rect=(0, 0.06 + 0.025 * (-(-len(handles) // columns)) / lines, 1, 0.99))
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)


def _panel(axis: Any, rows: Sequence[Row], handles: dict[str, Any]) -> None:
    """Curves of one layer.

    ``handles`` collects one line for each name, and each name has one colour in all panels.
    """
    settings = list(dict.fromkeys((r.batch, r.threads, r.gate, r.mask) for r in rows))
    for setting in settings:
        mine = sorted((r for r in rows if (r.batch, r.threads, r.gate, r.mask) == setting), key=lambda r: r.seen)
        batch, threads, gate, mask = setting
        name = f"batch {batch}, {threads} thread{'s' * (threads > 1)}, gate {gate}, {mask}"
        known = handles.get(name)
        style = {"color": known.get_color()} if known else {"color": f"C{len(handles) % 10}"}
        how = ("--" if threads > 1 else "-") if mask == "blob" else (":" if threads > 1 else "-.")
        (line,) = axis.plot([r.seen for r in mine], [r.ratio for r in mine], how, marker=".", linewidth=1, **style)
        handles.setdefault(name, line)
    ideal = sorted({(r.seen, r.ideal) for r in rows if r.gate == settings[0][2]})
    (line,) = axis.plot([d for d, _ in ideal], [i for _, i in ideal], color="black", linewidth=0.8)
    handles.setdefault("ideal", line)
    axis.axhline(1, color="grey", linewidth=0.6)
    axis.set_yscale("log")
    ticks = [t for t in (0.5, 1, 2, 3, 5, 10) if t <= 1.3 * max(max(r.ideal, r.ratio) for r in rows)]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_title(rows[0].subject, fontsize="small")
    axis.set_xlabel("density", fontsize="x-small")
    axis.set_ylabel("dense time / ours", fontsize="x-small")
    axis.tick_params(labelsize="x-small")
