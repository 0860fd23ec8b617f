#!/usr/bin/env python3
"""Times single gated 3x3 layers on a GPU against cuDNN: every density, mask and configuration. See bench/README.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from gpu_common import Layer
    from gpu_contest import Contest, Row, Setting

ROOT = Path(__file__).resolve().parent.parent
for _folder in ("bench", "exporter"):
    sys.path.insert(0, str(ROOT / _folder))

RESNET = ((64, 56), (128, 28), (256, 14), (512, 7))
RESNET_BATCHES = (1, 8, 32, 128)
LARGE_CHANNELS, LARGE_SIZES, LARGE_BATCHES = (64, 128, 256), (160, 320, 512), (1, 8)
DENSITIES = (0.1, 0.25, 0.35, 0.5, 0.65, 0.8, 1.0)
MASKS = ((1, "iid"), (1, "clustered"), (4, "iid"), (8, "iid"), (16, "iid"))
"""Grid, and how its cells are drawn."""
QUICK_LAYERS = ((64, 56, 32), (128, 28, 32), (256, 14, 32), (128, 160, 1))
QUICK_DENSITIES = (0.25, 0.5, 0.8)
QUICK_MASKS = ((1, "iid"), (8, "iid"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(1)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = _Parser(
        "gpu_layers.py",
        description="Times gated 3x3 layers against cuDNN (channels_last, float16) in CUDA graphs over buffers larger than L2.",
    )
    p.add_argument("--library", metavar="PATH", help="liblccl_cuda.so (default: $LCCL_CUDA_LIBRARY, else the package's own)")
    p.add_argument("--layers", nargs="+", metavar="C@SIZExBATCH", help="such as 64@56x8 (default: see bench/README.md)")
    p.add_argument("--densities", nargs="+", type=float, metavar="D", help="fractions of active cells")
    p.add_argument("--forms", nargs="+", choices=("external", "fused"), default=["external", "fused"], help="of the gate")
    p.add_argument("--quick", action="store_true", help="four layers, three densities, two masks")
    p.add_argument("--within", type=float, default=4.0, metavar="F", help="skip what is predicted F times the chosen (0: none)")
    p.add_argument("--peak", type=float, metavar="TFLOPS", help="of the GPU, to give times in per cent of it")
    p.add_argument("--minutes", type=float, metavar="M", help="stop in time; what there is gets written and marked")
    p.add_argument("--json", type=Path, metavar="FILE", help="all rows")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="the table that is printed")
    p.add_argument("--picture", type=Path, metavar="FILE.png", help="ratio over density (needs matplotlib)")
    return p


def gpu_refusal() -> str:
    """Why nothing can be measured here, in one sentence; empty if it can."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed here: install torch with CUDA"
    if not torch.cuda.is_available():
        return "this needs a CUDA GPU that PyTorch can use, and there is none here: run it on a machine that has one"
    return ""


def layers_of(texts: Sequence[str] | None, quick: bool) -> list[Layer]:
    """Layers as the command line has them.

    Raises:
        UserError: one that is written otherwise.
    """
    import re

    from gpu_common import Layer

    from lccl.errors import UserError

    if texts:
        layers = []
        for text in texts:
            match = re.fullmatch(r"(\d+)@(\d+)x(\d+)", text)
            if match is None or min(map(int, match.groups())) < 1:
                raise UserError(f"a layer is written like 64@56x8 (channels@size x batch), not {text!r}")
            layers.append(Layer(*map(int, match.groups())))
        return layers
    if quick:
        return [Layer(*numbers) for numbers in QUICK_LAYERS]
    resnet = [Layer(c, size, batch) for c, size in RESNET for batch in RESNET_BATCHES]
    return resnet + [Layer(c, size, batch) for c in LARGE_CHANNELS for size in LARGE_SIZES for batch in LARGE_BATCHES]


def settings_of(
    layers: Sequence[Layer], densities: Sequence[float], masks: Iterable[tuple[int, str]], forms: Sequence[str]
) -> list[Setting]:
    """Everything to measure, layer by layer."""
    from gpu_contest import Setting

    return [
        Setting(layer, grid, kind, form == "external", density)
        for layer in layers
        for grid, kind in masks
        if grid <= layer.size
        for form in forms
        for density in densities
    ]


def break_even(points: Sequence[tuple[float, float]]) -> float | None:
    """The largest density at which dense time over ours is 1, between measured densities on a line.

    Args:
        points: (density, ratio).

    Returns:
        None if the ratio is below 1 at every density; the largest density if it is nowhere.
    """
    ordered = sorted(points)
    for (d0, r0), (d1, r1) in reversed(list(pairwise(ordered))):
        if r1 >= 1:
            return d1
        if r0 >= 1:
            return d0 + (d1 - d0) * (r0 - 1) / (r0 - r1)
    return ordered[0][0] if len(ordered) == 1 and ordered[0][1] >= 1 else None


def break_evens(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each layer, mask and form: break-even density of the chosen configuration and of the best."""
    found = []
    for key in dict.fromkeys((r.layer, r.grid, r.mask, r.form) for r in rows):
        mine = [r for r in rows if (r.layer, r.grid, r.mask, r.form) == key]
        best: dict[float, float] = {}
        for row in mine:
            best[row.density] = max(best.get(row.density, 0.0), row.ratio)
        chosen = [(r.density, r.ratio) for r in mine if r.chosen]
        names = dict(zip(("layer", "grid", "mask", "form"), key, strict=True))
        found.append(names | {"chosen": break_even(chosen) if chosen else None, "best": break_even(list(best.items()))})
    return found


def markdown(facts: dict[str, Any], contest: Contest) -> str:
    """What was measured, on what, by which command; the chosen row and the best row of each setting."""
    lines = ["# Gated layers against cuDNN", "", *(f"* {name}: {value}" for name, value in facts.items())]
    if not contest.complete:
        lines += ["", "**Not complete: the time was up before all settings were measured.**"]
    lines += [
        "",
        "Times are of one call, in microseconds: median (least, 10th to 90th percentile). Ratios are dense time over ours.",
        "",
        "| layer | G | mask | gate | density | configuration | us | predicted | dense us | ratio | gated dense us | ratio | peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r.layer, r.grid, r.mask, r.form, r.density) for r in contest.rows):
        rows = [r for r in contest.rows if (r.layer, r.grid, r.mask, r.form, r.density) == key]
        best = min(rows, key=lambda r: r.times.median)
        for row in dict.fromkeys([*(r for r in rows if r.chosen), best]):
            lines.append(_line(row, best is row))
    lines += ["", "| layer | G | mask | gate | break-even density, chosen | best |", "|---|---|---|---|---|---|"]
    for found in break_evens(contest.rows):
        values = ("none" if found[name] is None else f"{found[name]:.2f}" for name in ("chosen", "best"))
        lines.append(f"| {found['layer']} | {found['grid']} | {found['mask']} | {found['form']} | {' | '.join(values)} |")
    wrong = [r for r in contest.refusals if r.reason.startswith("wrong")]
    lines += ["", *(f"* {r.config} in {r.setting}: {r.reason}" for r in wrong)] if wrong else []
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
    """Ratio over density for each layer, the best configuration of each mask. Returns why there is no picture, or ""."""
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
    }


def measure(options: argparse.Namespace, command: Sequence[str], tell: Callable[[str], None]) -> tuple[dict[str, Any], Contest]:
    """Runs what the options ask for.

    Raises:
        UserError: no library, or a layer that is written otherwise.
    """
    from gpu_common import gpu_facts
    from gpu_contest import Contest

    from lccl.cuda.library import load

    contest = Contest(load(options.library), options.peak, options.within)
    if options.minutes is not None:
        contest.deadline = time.monotonic() + 60 * options.minutes
    densities = options.densities or (QUICK_DENSITIES if options.quick else DENSITIES)
    masks = QUICK_MASKS if options.quick else MASKS
    contest.run(settings_of(layers_of(options.layers, options.quick), densities, masks, options.forms), tell)
    return gpu_facts(command), contest


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 after one sentence; 2 where a configuration gave a wrong result."""
    options = parser().parse_args(arguments)
    refusal = gpu_refusal()
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    from lccl.errors import UserError

    try:
        command = ("bench/gpu_layers.py", *(sys.argv[1:] if arguments is None else arguments))
        facts, contest = measure(options, command, lambda line: print(line, file=sys.stderr))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = markdown(facts, contest)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(report(facts, contest), indent=1))
    if options.markdown:
        options.markdown.write_text(text)
    if options.picture:
        skipped = draw(contest.rows, options.picture)
        print(skipped or f"picture: {options.picture}", file=sys.stderr)
    return 2 if any(r.reason.startswith("wrong") for r in contest.refusals) else 0


if __name__ == "__main__":
    raise SystemExit(main())
