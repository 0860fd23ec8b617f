"""The picture of an inspected network: its convolutions in order, with their open pixels."""

from __future__ import annotations

from pathlib import Path

from lccl.errors import UserError
from lccl.errors.requires import needing
from lccl.exporting.inspection import Inspection
from lccl.files import atomic_path

_ROW = 0.22
"""Inches for each layer."""
_GATED, _SKIPPED, _DENSE, _COULD = "C0", "#c6dbef", "0.45", "0.7"


def draw(found: Inspection, path: Path) -> None:
    """Write the picture, in the format of the file's name (.png, .svg, .pdf).

    Raises:
        UserError: matplotlib is not installed, no size is known, or the file cannot be written.
    """
    with needing("a picture"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

    layers = [layer for layer in found.layers if layer.macs is not None]
    if not layers:
        raise UserError("a picture shows MACs, and the network's sizes are not known")
    with rc_context({"text.parse_math": False}):  # names are names
        figure = Figure(figsize=(8, 1.6 + _ROW * len(layers)), layout="constrained")
        axes = figure.add_subplot()
        for row, layer in enumerate(layers):
            macs = (layer.macs or 0) / 1e6
            computed = macs if not layer.gated or layer.density is None else macs * layer.density
            axes.barh(row, macs, color=_SKIPPED if layer.gated else _DENSE if not layer.gateable else _COULD)
            if layer.gated:
                axes.barh(row, computed, color=_GATED)
        names = [f"{layer.name}  [gate {layer.gate}]" if layer.gated else layer.name for layer in layers]
        axes.set_yticks(range(len(layers)), names, fontsize="x-small")
        for label, layer in zip(axes.get_yticklabels(), layers, strict=True):
            label.set_fontweight("bold" if layer.gated else "normal")
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.set_xlabel("million multiply-accumulates per image, input at the top")
        axes.set_title(
            f"{Path(found.source).name}: {len(found.gated)} of {len(found.layers)} convolutions are gated", fontsize="medium"
        )
        figure.legend(
            loc="outside lower center",
            ncols=4,
            handles=[
                Patch(color=_GATED, label="gated: open pixels"),
                Patch(color=_SKIPPED, label="gated: closed pixels"),
                Patch(color=_COULD, label="dense, could have a gate"),
                Patch(color=_DENSE, label="dense"),
            ],
            fontsize="x-small",
        )
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix.lower().removeprefix("."))
