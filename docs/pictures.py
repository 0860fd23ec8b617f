#!/usr/bin/env python3
"""Draw the pictures of the documents, and print the README's tables of measurements.

    python docs/pictures.py

writes into ``docs/pictures`` ``pages.png`` (pages of the demo: what was read, and where the network computed),
``training.png`` (the course of its training), ``networks.png`` (what the CPU benchmark measured) and ``gates.png`` (one scan
of samples/digits, gate maps over it, the pixels that are computed), ``inspect.png`` (the demo's network as ``lccl inspect``
draws it), and prints the tables from the same measurements.
Nothing is measured here, but with ``--report``: that compares the demo's networks, and takes a picture of the page by Chromium
(``report.png``). It needs matplotlib: ``pip install -e '.[docs]'``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

Array = npt.NDArray[Any]

MEASURED = ROOT / "bench" / "results" / "cpu" / "avx2" / "models.json"
PAGES = ROOT / "bench" / "results" / "cpu" / "avx2" / "pages.json"
PAGE_NAMES = {"dense": "dense", "pixel": "gates for each pixel", "grid": "gates for blocks of 2 x 2"}
NAMES = {
    "resnet18": "ResNet-18, 224 x 224",
    "resnet34": "ResNet-34, 224 x 224",
    "resnet50": "ResNet-50, 224 x 224",
    "resnet20": "ResNet-20, 32 x 32",
    "resnet56": "ResNet-56, 32 x 32",
    "unet": "U-Net, 512 x 512",
}
DENSITIES = (0.1, 0.3, 0.5, 0.7, 1.0)
LAYERS = ("stages.0.0.conv1", "stages.0.1.conv1", "stages.1.1.conv1")
IMAGE = 3
"""Of the held-out scans."""
GATE_NOTE = "above: the gate map\nover the input"
OUTPUT_NOTE = "below: the layer's\noutput, mean of its\nchannels; grey pixels\nare closed, so they\nare not computed"
LABEL_BELOW = 1.5
"""Ratios above this one are written below their point; others above it, clear of the line at 1x."""
INK, BLUE, ORANGE, PALE = "#1f2933", "#1f6fb2", "#e8710a", "#e9edf1"


# ---- what was measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One network: what the slower of both kinds of mask reached at each density."""

    name: str
    dense_ms: float
    ratios: dict[float, float]
    """Density -> dense time over gated time."""
    ideals: dict[float, float]
    """Density -> the same ratio of multiply-accumulates."""


def curves(path: Path = MEASURED) -> list[Curve]:
    """The networks of a result of ``cpu_models``, one thread and batch 1, in the order of ``NAMES``."""
    rows = [r for r in json.loads(path.read_text())["rows"] if (r["threads"], r["batch"]) == (1, 1)]
    found = []
    for subject, name in NAMES.items():
        mine = [r for r in rows if r["subject"] == subject]
        by_density = {d: [r for r in mine if r["density"] == d] for d in sorted({r["density"] for r in mine})}
        found.append(
            Curve(
                name,
                mine[0]["dense"]["median"] / 1000,
                {d: min(r["ratio"] for r in group) for d, group in by_density.items()},
                {d: min(r["ideal"] for r in group) for d, group in by_density.items()},
            )
        )
    return found


def table(path: Path = MEASURED) -> str:
    """The README's table."""
    lines = [
        f"| network, input | dense, ms | {' | '.join(f'density {d:g}' for d in DENSITIES)} |",
        f"|---|{'---|' * (1 + len(DENSITIES))}",
    ]
    for curve in curves(path):
        ratios = " | ".join(f"{curve.ratios[d]:.2f}x" for d in DENSITIES)
        lines.append(f"| {curve.name} | {_three_digits(curve.dense_ms)} | {ratios} |")
    return "\n".join(lines)


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(value))))}f}"


def pages_table(path: Path = PAGES) -> str:
    """The README's first table: the demo's network, one thread."""
    lines = [
        "| network | F1, held-out pages | MACs of dense | ms a page | dense time / time |",
        f"|{'---|' * 5}",
    ]
    for row in json.loads(path.read_text())["rows"]:
        if row["threads"] == 1:
            cells = (
                PAGE_NAMES[row["network"]],
                f"{100 * row['f1']:.2f} %",
                f"{row['macs']:.2f}",
                f"{row['ms']['median']:.1f}",
                f"{row['ratio']:.2f}x",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_training(path: Path, folder: Path = ROOT / "samples" / "pages") -> None:
    """Densities and loss over the steps of the gated page readers' training."""
    history = json.loads((folder / "history.json").read_text())
    pyplot = _pyplot()
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7.2, 5.4), sharex=True)
    for name, colour in (("pixel", BLUE), ("grid", ORANGE)):
        steps, loss, mean, lowest, highest = zip(*history[name], strict=True)
        above.fill_between(steps, lowest, highest, color=colour, alpha=0.18, linewidth=0)
        above.plot(steps, mean, color=colour, label=PAGE_NAMES[name])
        below.plot(steps, loss, color=colour)
    above.set_ylabel("density: mean, and range of layers")
    below.set_ylabel("loss of the batch")
    below.set_xlabel("step")
    below.set_ylim(bottom=0)
    above.set_ylim(0, 1.02)
    above.legend(frameon=False, fontsize=9)
    for axis in (above, below):
        axis.grid(color=PALE)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _save(figure, path)


def draw_pages(path: Path, numbers: Sequence[int] = (5, 2)) -> None:
    """Held-out pages: what the network with pixel gates read, and where it computed."""
    import lccl
    from samples.pages.network import page_reader
    from samples.pages.show import draw

    model = lccl.load_checkpoint(ROOT / "samples" / "pages" / "pixel.pt", page_reader).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(model, list(numbers), path)


def draw_networks(path: Path, measured: Path = MEASURED) -> None:
    """One panel a network: the measured ratio over density, and what the arithmetic alone would give."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, 3, figsize=(9.6, 5.6), sharex=True, sharey=True)
    for axis, curve in zip(axes.flat, curves(measured), strict=True):
        densities = list(curve.ratios)
        axis.axhline(1, color=INK, linewidth=0.8)
        axis.plot(densities, [curve.ideals[d] for d in densities], color="#9aa5b1", linestyle="--", label="MACs alone")
        axis.plot(densities, [curve.ratios[d] for d in densities], color=BLUE, marker="o", markersize=4, label="measured")
        axis.set_yscale("log")
        axis.set_yticks([1, 2, 4, 8], ["1x", "2x", "4x", "8x"])
        axis.set_ylim(0.7, 10)
        axis.set_xlim(-0.02, 1.05)
        axis.set_xticks([0.1, 0.3, 0.5, 0.7, 1.0])
        axis.minorticks_off()
        axis.grid(color=PALE)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(curve.name, fontsize=11, color=INK)
        for d in (0.1, 0.3, 0.5):
            axis.annotate(
                f"{curve.ratios[d]:.2f}x",
                (d, curve.ratios[d]),
                (-4, -14) if curve.ratios[d] > LABEL_BELOW else (5, 7),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=9,
                color=BLUE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )
    for axis in axes[-1]:
        axis.set_xlabel("density: fraction of pixels computed")
    for axis in axes[:, 0]:
        axis.set_ylabel("dense time / gated time")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    _save(figure, path)


# ---- one scan of samples/digits -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What one gated layer does with one image."""

    layer: str
    gate: Array
    """[H, W]; 0 where the pixel is closed."""
    output: Array
    """[H, W]: the mean over the channels of what the layer gives."""

    @property
    def computed(self) -> str:
        return f"{np.count_nonzero(self.gate)} of {self.gate.size} computed"


def look(image: Array) -> Iterator[Seen]:
    """The gated layers named in ``LAYERS`` on one image [1, 1, 16, 16]."""
    import torch

    import lccl
    from lccl.nn import LCCLConv2d

    model = lccl.load_checkpoint(ROOT / "samples" / "digits" / "lccl.pt").eval()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LCCLConv2d)}
    seen: dict[str, tuple[Any, Any]] = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    with torch.no_grad():
        model(torch.from_numpy(image))
        for name in LAYERS:
            gate, (x, y) = layers[name].gate, seen[name]
            assert gate is not None
            yield Seen(name, gate.activate(gate(x))[0, 0].numpy(), y[0].mean(0).numpy())


def draw_gates(path: Path, index: int = IMAGE) -> None:
    """The scan, then for each layer the gate map over it and the pixels that are computed."""
    from samples.digits.data import held_out

    pyplot = _pyplot()
    images, labels = held_out()
    image = images[index : index + 1]
    scan = image[0, 0]
    layers = list(look(image))
    figure, axes = pyplot.subplots(2, 1 + len(layers), figsize=(2.3 * (1 + len(layers)), 5.2))
    whole = {"extent": (0, 1, 1, 0), "interpolation": "nearest"}
    grey = {"cmap": "gray_r", "vmin": -1, "vmax": 1, **whole}
    axes[0, 0].imshow(scan, **grey)
    axes[0, 0].set_title(f"input: a {labels[index]}\n{scan.shape[0]} x {scan.shape[1]} pixels", fontsize=11, color=INK)
    axes[1, 0].set_visible(False)
    for (above, below), layer in zip(axes.T[1:], layers, strict=True):
        above.imshow(scan, alpha=0.55, **grey)
        is_open = np.ma.masked_equal(layer.gate, 0)
        above.imshow(is_open, cmap=_shades(ORANGE), vmin=0, vmax=float(layer.gate.max()), alpha=0.75, **whole)
        above.set_title(f"{layer.layer}\n{layer.gate.shape[0]} x {layer.gate.shape[1]}", fontsize=11, color=INK)
        below.set_facecolor(PALE)
        output = np.ma.masked_where(layer.gate == 0, layer.output)
        below.imshow(output, cmap=_shades(BLUE), vmin=0, vmax=float(output.max()), **whole)
        below.set_title(layer.computed, fontsize=11, color=BLUE)
        for axis in (above, below):
            _draw_cells(axis, *layer.gate.shape)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color("#9aa5b1")
    figure.tight_layout(h_pad=0.6)
    corner = axes[1, 0].get_position()
    for share, text, colour in ((0.95, GATE_NOTE, ORANGE), (0.6, OUTPUT_NOTE, BLUE)):
        height = corner.y0 + share * corner.height
        figure.text(corner.x0, height, text, fontsize=11, color=colour, verticalalignment="top")
    _save(figure, path)


def draw_inspection(path: Path) -> None:
    """Draw the demo's network as ``lccl inspect --picture`` does, over ten of its pages."""
    import lccl
    from lccl.exporting.inspection_picture import draw

    network = ROOT / "samples" / "pages" / "pixel.pt"
    draw(lccl.inspect(network, "samples.pages.data:ten", factory="samples.pages.network:page_reader"), path)


def draw_report(path: Path) -> None:
    """Compare the demo's networks over ten pages, and take a picture of the beginning and of the gate maps of the HTML page."""
    from matplotlib.image import imread, imsave

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("error: a picture of the report needs Chromium: apt install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "report.html", Path(folder) / "page.png"
        reader, data = "samples.pages.network:page_reader", "samples.pages.data:ten"
        network, dense = (ROOT / "samples" / "pages" / name for name in ("pixel.pt", "dense.pt"))
        words = [network, "--baseline", dense, "--factory", reader, "--baseline-factory", reader, "--data", data]
        limits = ["--metric", "samples.pages.score:f1", "--max-metric-drop", "0.005", "--html", page]
        command = [sys.executable, "-m", "lccl.cli.main", "compare", *words, *limits]
        subprocess.run(list(map(str, command)), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1060,4200")
        subprocess.run([browser, *options, f"--screenshot={shot}", page.as_uri()], check=True, stderr=subprocess.DEVNULL)
        image = imread(shot)
    line = np.zeros((6, image.shape[1], image.shape[2])) + 0.6
    rows = image[:, :, :3].min(axis=2)
    dark = np.flatnonzero((rows < 0.02).mean(axis=1) > 0.2)  # the gate maps are mostly black
    first = int(dark[0]) - 120
    imsave(path, np.clip(np.concatenate([image[:1150], line, image[first : first + 480]]), 0, 1))


def _shades(colour: str) -> Any:
    """From a pale tint to the colour itself."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    tint = tuple(0.35 * c + 0.65 for c in to_rgb(colour))
    return LinearSegmentedColormap.from_list(colour, [tint, to_rgb(colour)]).with_extremes(bad=(0, 0, 0, 0))


def _draw_cells(axis: Any, rows: int, columns: int) -> None:
    for i in range(1, rows):
        axis.axhline(i / rows, color="white", linewidth=0.5)
    for i in range(1, columns):
        axis.axvline(i / columns, color="white", linewidth=0.5)


# ---- files --------------------------------------------------------------------------------------------------------------


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})
    _pyplot().close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the pictures of the documents and print the README's tables.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER", help="(default: docs/pictures)"
    )
    parser.add_argument("--report", action="store_true", help="measure the demo and draw report.png alone")
    options = parser.parse_args(arguments)
    if options.report:
        draw_report(options.out / "report.png")
        return 0
    draw_pages(options.out / "pages.png")
    draw_training(options.out / "training.png")
    draw_networks(options.out / "networks.png")
    draw_gates(options.out / "gates.png")
    draw_inspection(options.out / "inspect.png")
    print(pages_table())
    print()
    print(table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
