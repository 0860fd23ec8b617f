"""Charts of a report as SVG, in colours that the page replaces by its own: light and dark."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lccl.errors.requires import needing
from lccl.numerics import Array

_INK, ACCENT, PALE, WARN, GREY = "#010203", "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
"""Colours that stand for those of the page, which puts its own in their place."""
WIDTH = 7.0


def latency_bars(names: Sequence[str], medians: Sequence[float], p95: Sequence[float], gated: Sequence[bool]) -> str:
    """Draw median latencies as bars, with a line to the 95th percentile."""

    def draw(axes: Any) -> None:
        places = np.arange(len(names))
        axes.barh(places, medians, color=[ACCENT if own else GREY for own in gated])
        axes.hlines(places, medians, p95, color=_INK, linewidth=1.2)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("ms for a batch, median; line: to the 95th percentile")

    return _svg(draw, 0.7 + 0.34 * len(names))


def layer_bars(names: Sequence[str], dense: Sequence[float], computed: Sequence[float]) -> str:
    """Draw the MACs of gated layers, and those of their open pixels."""

    def draw(axes: Any) -> None:
        places = np.arange(len(names))
        axes.barh(places, dense, color=PALE, label="closed pixels: skipped")
        axes.barh(places, computed, color=ACCENT, label="open pixels: computed")
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("million multiply-accumulates per image")
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK)

    return _svg(draw, 1.1 + 0.26 * len(names))


def histogram(values: Array) -> str:
    """Draw how the densities of samples are distributed, from 0 to 1."""

    def draw(axes: Any) -> None:
        axes.hist(values, bins=np.linspace(0, 1, 26), color=ACCENT)
        axes.set_xlim(0, 1)
        axes.set_xlabel("density")
        axes.set_ylabel("samples")
        axes.yaxis.get_major_locator().set_params(integer=True)

    return _svg(draw, 1.5, 2.6)


def pareto(points: Sequence[Mapping[str, float]], chosen: Mapping[str, float], built: Mapping[str, float], score: str) -> str:
    """Draw the points that a tuning measured: score over cost, in percent of the dense network."""

    def draw(axes: Any) -> None:
        axes.plot([100 * p["cost"] for p in points], [p["score"] for p in points], "o", color=GREY, label="measured")
        axes.plot(100 * built["cost"], built["score"], "s", color=ACCENT, label="as built")
        axes.plot(100 * chosen["cost"], chosen["score"], "*", color=WARN, markersize=13, label="chosen")
        axes.set_xlabel("cost, % of the dense network's")
        axes.set_ylabel(score)
        axes.legend(frameon=False, labelcolor=_INK)

    return _svg(draw, 3.2)


def curves(epochs: Sequence[Mapping[str, float | None]]) -> str:
    """Draw density and score over the epochs of a training."""

    def draw(axes: Any) -> None:
        places = np.arange(1, len(epochs) + 1)
        axes.plot(places, [epoch["density"] for epoch in epochs], color=ACCENT, marker="o", label="density")
        scores = [epoch.get("score") for epoch in epochs]
        if all(score is not None for score in scores):
            axes.plot(places, scores, color=WARN, marker="o", label="score")
        axes.set_ylim(0, None)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, labelcolor=_INK)

    return _svg(draw, 2.6)


def _svg(draw: Callable[[Any], None], height: float, width: float = WIDTH) -> str:
    """Return a chart as an SVG element without sizes and metadata, in the page's colours."""
    with needing("a report"):
        import matplotlib
        from matplotlib.figure import Figure

    options: Any = {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "svg.hashsalt": "lccl",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    options |= dict.fromkeys(inked, _INK)
    with matplotlib.rc_context(options):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        draw(axes)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', text, count=1
    )
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # each chart has the same ones
    return text.replace("xlink:href", "href")


def picture(values: Array) -> str:
    """Return an image, grey or coloured values from 0 to 1, as PNG in a data URI."""
    with needing("a report"):
        from matplotlib.image import imsave

    target = io.BytesIO()
    imsave(target, np.clip(values, 0, 1), cmap="gray", vmin=0, vmax=1, format="png")
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"
