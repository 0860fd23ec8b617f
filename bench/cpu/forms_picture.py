"""Bars over the dense network's time: the file, what was written, the rivals, and the ideal."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cpu.picture import require
from lccl.files import atomic_path

if TYPE_CHECKING:
    from bench.cpu.forms import Row

BARS = (
    ("file", "file as it was", "0.7"),
    ("written", "written", "C0"),
    ("int8", "dense, INT8", "C1"),
    ("openvino", "dense, OpenVINO", "C2"),
)
_WIDTH = 0.2


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the picture as PNG.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    require()
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, axis = pyplot.subplots(figsize=(max(6.0, 1.1 * len(rows) + 1.5), 4.2), layout="constrained")
    for i, (field, label, colour) in enumerate(BARS):
        places = [(x + (i - 1.5) * _WIDTH, getattr(row, field)) for x, row in enumerate(rows)]
        shown = [(x, value) for x, value in places if value is not None]
        axis.bar([x for x, _ in shown], [value for _, value in shown], _WIDTH, label=label, color=colour)
    for x, row in enumerate(rows):
        axis.plot(
            [x - 0.45, x + 0.45],
            [1 / row.macs] * 2,
            color="k",
            linewidth=1.2,
            label=None if x else "ideal: MACs of dense / MACs",
        )
    axis.axhline(1, color="C3", linewidth=0.8, linestyle="--")
    threads = len({row.threads for row in rows}) > 1
    names = [
        f"{row.network}\n{'own masks' if row.density is None else f'density {row.density:g}'}"
        + (f"\n{row.threads} threads" if threads else "")
        for row in rows
    ]
    axis.set_xticks(range(len(rows)), names, fontsize="small")
    axis.set_ylabel("dense network's time / time")
    axis.set_title(title, fontsize="small")
    axis.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
