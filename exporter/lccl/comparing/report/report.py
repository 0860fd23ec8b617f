"""A comparison as one HTML file that loads nothing: the verdict, numbers, charts, gate maps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from lccl.backends.diagnosis.parts import PACKAGES
from lccl.comparing.report.charts import curves, histogram, latency_bars, layer_bars, pareto, picture
from lccl.comparing.report.gate_look import GateLook
from lccl.comparing.results import Comparison, Row
from lccl.console.text import count, percent
from lccl.errors import UserError
from lccl.errors.requires import needing
from lccl.files import atomic_path, require_file

TEMPLATE = "page.html.j2"
_RUNTIMES = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "triton")
MOST_LAYERS_SHOWN = 8
"""Layers whose maps and histograms are shown; their choice is even from first to last."""


@dataclass(frozen=True)
class Extras:
    """What a report shows beside the comparison; all of it may be missing."""

    look: GateLook | None = None
    decisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By layer, the row of a built file's side-car: form, reason, times."""
    tuning: Mapping[str, str] | None = None
    """The figure of a tuning, as :func:`tuning_figure` has it."""
    training: Mapping[str, str] | None = None
    """The figure of a training, as :func:`training_figure` has it."""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The sentence at the top."""

    state: str
    """"passed", "failed" or "open": no limit was set."""
    word: str
    sentence: str


def write_report(path: str | Path, comparison: Comparison, extras: Extras) -> None:
    """Write the page.

    Raises:
        UserError: Jinja2 or matplotlib is not installed, or the file cannot be written.
    """
    text = page(comparison, extras)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_report() -> None:
    """Check that what draws a report is installed.

    Raises:
        UserError: it is not.
    """
    with needing("a report"):
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401


def page(comparison: Comparison, extras: Extras) -> str:
    """Return the page as text.

    Raises:
        UserError: as :func:`write_report`.
    """
    with needing("a report"):
        from jinja2 import Environment, StrictUndefined

    source = (files("lccl.comparing.report") / TEMPLATE).read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)
    ran = [row for row in comparison.rows if not row.skipped]
    timed = [row for row in ran if row.latency is not None]
    shown = _shown(extras.look)
    return template.render(
        version=versions().get("lccl", ""),
        title=_title(ran),
        verdict=verdict(comparison),
        checks=[
            {"name": c.name, "value": f"{c.value:.4g}", "limit": f"{c.limit:.4g}", "passed": c.passed}
            for c in comparison.checks
        ],
        rows=_rows(comparison, ran),
        latency=latency_bars(
            [row.label for row in timed],
            [row.latency.median_ms for row in timed if row.latency],
            [row.latency.p95_ms for row in timed if row.latency],
            [row.role == "lccl" for row in timed],
        )
        if timed
        else None,
        skipped=[f"{row.label}: {row.skipped}." for row in comparison.rows if row.skipped],
        layers=_layers(comparison, extras),
        maps=_maps(extras.look, shown),
        histograms=_histograms(extras.look, shown),
        samples=comparison.environment.images,
        tuning=extras.tuning,
        training=extras.training,
        facts=_facts(comparison, extras),
    )


def verdict(comparison: Comparison) -> Verdict:
    """Return what a reader has to know first."""
    ran = [row for row in comparison.rows if not row.skipped]
    own = [row for row in ran if row.role == "lccl"]
    best = max((row for row in own if row.speedup is not None), key=lambda row: row.speedup or 0, default=None)
    parts = list(filter(None, (_speed_said(best, ran), _accuracy_said(own, ran, comparison.metric))))
    said = "; ".join(parts) or "nothing could be compared"
    sentence = f"{said[0].upper()}{said[1:]}."
    failed = [check for check in comparison.checks if not check.passed]
    if failed:
        reasons = ", ".join(f"{c.name} is {c.value:.4g}, allowed is {c.limit:.4g}" for c in failed)
        return Verdict("failed", f"{count(len(failed), 'limit')} of {len(comparison.checks)} failed: {reasons}.", sentence)
    if comparison.checks:
        word = "The limit passed." if len(comparison.checks) == 1 else f"All {len(comparison.checks)} limits passed."
        return Verdict("passed", word, sentence)
    return Verdict("open", "No limit was set.", sentence)


def _speed_said(best: Row | None, ran: Sequence[Row]) -> str:
    if best is None or best.speedup is None:
        return ""
    over = next((row for row in ran if row.label == best.speedup_over), None)
    what = "its own dense twin" if over is not None and over.role == "dense twin" else "the dense network"
    if best.speedup >= 1:
        return f"the gated network is {best.speedup:.2f}x as fast as {what} in {best.runner}"
    return f"the gated network is SLOWER than {what} in {best.runner}: {best.speedup:.2f}x"


def _accuracy_said(own: Sequence[Row], ran: Sequence[Row], metric: str | None) -> str:
    base = next((row for row in ran if row.role == "baseline"), None)
    row = next((row for row in own if row.accuracy is not None or row.metric is not None), None)
    if row is not None and metric is not None and row.metric is not None:
        beside = f", the dense network's {base.metric:.4g}" if base is not None and base.metric is not None else ""
        return f"its {metric.partition(',')[0]} is {row.metric:.4g}{beside}"
    if row is not None and row.accuracy is not None:
        beside = f", the dense network's {percent(base.accuracy)}" if base is not None and base.accuracy is not None else ""
        return f"its top-1 is {percent(row.accuracy)}{beside}"
    agreed = next((row for row in own if row.agreement is not None), None)
    return f"{percent(agreed.agreement)} of its predictions are those of {agreed.reference}" if agreed is not None else ""


def _title(ran: Sequence[Row]) -> str:
    own = next((row.network for row in ran if row.role == "lccl"), "A gated network")
    base = next((row.network for row in ran if row.role == "baseline"), None)
    if base is not None:
        return f"{own} beside {base}"
    return f"{own} beside its dense twin" if any(row.role == "dense twin" for row in ran) else f"{own} in {len(ran)} runtimes"


def _rows(comparison: Comparison, ran: Sequence[Row]) -> dict[str, Any]:
    columns: dict[str, list[str]] = {
        "network": [row.network for row in ran],
        "runtime": [row.runner for row in ran],
        "device": [row.device for row in ran] if len({row.device for row in ran}) > 1 else [],
        "top-1": [percent(None if row.role == "dense twin" else row.accuracy) for row in ran],
        f"top-{comparison.environment.top_k}": [percent(None if row.role == "dense twin" else row.top_k) for row in ran],
        "metric": ["-" if row.metric is None else f"{row.metric:.4g}" for row in ran],
        "median ms": [f"{row.latency.median_ms:.3f}" if row.latency else "-" for row in ran],
        "p95 ms": [f"{row.latency.p95_ms:.3f}" if row.latency else "-" for row in ran],
        **{
            f"per s, batch {batch}": [f"{row.throughput[batch]:.0f}" if batch in row.throughput else "-" for row in ran]
            for batch in dict.fromkeys(batch for row in ran for batch in row.throughput)
        },
        "speed-up": ["-" if row.speedup is None else f"{row.speedup:.2f}x" for row in ran],
        "held against": [row.reference or "-" for row in ran],
        "agreement": [percent(row.agreement) for row in ran],
        "max error": [_error(row.max_error) for row in ran],
        "mean error": [_error(row.mean_error) for row in ran],
    }
    shown = {name: cells for name, cells in columns.items() if set(cells) - {"-"}}
    head, rows = list(shown), [list(cells) for cells in zip(*shown.values(), strict=True)]
    texts = ("network", "runtime", "device", "held against")
    note = "Speed-ups are over the baseline, or the dense twin where there is none, in the same runtime."
    if comparison.metric:
        note += f" Metric: {comparison.metric}."
    return {"head": head, "rows": rows, "numbers": [i for i, name in enumerate(head) if name not in texts], "note": note}


def _layers(comparison: Comparison, extras: Extras) -> dict[str, Any] | None:
    profile = comparison.profile
    if profile is None or not profile.gated:
        return None
    built = bool(extras.decisions)
    head = [
        "layer",
        "density",
        "MMACs dense",
        "MMACs computed",
        "saved",
        *(["form", "time, us", "dense, us", "why"] if built else []),
    ]
    rows = []
    for layer in profile.layers:
        own = extras.decisions.get(layer.name, {})
        cells = [layer.name, "dense" if layer.density is None else percent(layer.density)]
        cells += [f"{layer.dense_macs / 1e6:.2f}", f"{layer.macs / 1e6:.2f}"]
        cells.append(percent(1 - layer.macs / layer.dense_macs) if layer.density is not None and layer.dense_macs else "")
        if built:
            cells += [str(own.get("form", "")), _us(own.get("chosen_us")), _us(own.get("dense_us")), str(own.get("reason", ""))]
        rows.append(cells)
    gated = profile.gated
    return {
        "summary": f"Over {count(profile.images, 'sample')}, {percent(profile.saved_network)} of the network's multiply-accumulates are "
        f"saved, the gates' own included; the mean density of its {count(len(gated), 'gated layer')} is {percent(profile.density)}.",
        "chart": layer_bars(
            [layer.name for layer in gated],
            [layer.dense_macs / 1e6 for layer in gated],
            [(layer.density or 0) * layer.dense_macs / 1e6 for layer in gated],
        ),
        "head": head,
        "rows": rows,
        "numbers": [1, 2, 3, 4, *([6, 7] if built else [])],
    }


def _shown(look: GateLook | None) -> list[str]:
    """Return the layers that are shown, even from first to last."""
    names = list(look.densities) if look is not None else []
    if len(names) <= MOST_LAYERS_SHOWN:
        return names
    return [names[round(i * (len(names) - 1) / (MOST_LAYERS_SHOWN - 1))] for i in range(MOST_LAYERS_SHOWN)]


def _maps(look: GateLook | None, shown: Sequence[str]) -> list[list[dict[str, str]]]:
    if look is None or not len(look.inputs):
        return []
    groups = []
    for i, image in enumerate(look.inputs):
        group = [{"uri": picture(image), "alt": f"input {i + 1}", "caption": "the input"}]
        for name in shown:
            opened = look.maps[name][i]
            share = percent(float(opened.mean()))
            group.append(
                {
                    "uri": picture(opened.astype(float)),
                    "alt": f"gate map of {name}: {share} open",
                    "caption": f"{name}: {share}",
                }
            )
        groups.append(group)
    return groups


def _histograms(look: GateLook | None, shown: Sequence[str]) -> list[dict[str, str]]:
    if look is None:
        return []
    found = []
    for name in shown:
        values = look.densities[name]
        caption = f"{name}: from {percent(float(values.min()))} to {percent(float(values.max()))}, mean {percent(float(values.mean()))}"
        found.append({"svg": histogram(values), "caption": caption})
    return found


def tuning_figure(path: str | Path) -> dict[str, str]:
    """Return the points of a tuning, from what ``lccl tune`` printed as JSON: "svg" and "caption".

    Raises:
        UserError: the file is of another kind.
    """
    said = _json(path, "lccl tune")
    try:
        points = [_point(point) for point in said["points"]]
        chosen, built = _point(said["chosen"]), _point(said["built"])
        svg = pareto(points, chosen, built, str(said["score"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is not what lccl tune prints as JSON") from None
    return {
        "svg": svg,
        "caption": f"{count(len(points), 'setting')} of the gates. Chosen: {said['score']} {chosen['score']:.4f} at "
        f"{percent(chosen['cost'])} of the dense network's cost; as built: {built['score']:.4f} at {percent(built['cost'])}.",
    }


def _point(point: Mapping[str, Any]) -> dict[str, float]:
    latency = point.get("latency")
    return {"score": float(point["score"]), "cost": float(point["macs"] if latency is None else latency)}


def training_figure(path: str | Path) -> dict[str, str]:
    """Return the course of a training, from ``FitResult.as_dict()``: "svg" and "caption".

    Raises:
        UserError: the file is of another kind.
    """
    said = _json(path, "a training")
    try:
        epochs = [
            {"density": float(e["density"]), "score": None if e.get("score") is None else float(e["score"])}
            for e in said["epochs"]
        ]
        svg = curves(epochs)
        last = epochs[-1]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise UserError(f"{path} does not hold the epochs of a training: write FitResult.as_dict() as JSON") from None
    score = "" if last["score"] is None else f", score {last['score']:.4f}"
    return {"svg": svg, "caption": f"{count(len(epochs), 'epoch')}; the last one: density {percent(last['density'])}{score}."}


def _json(path: str | Path, what: str) -> dict[str, Any]:
    file = require_file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file} is no JSON of {what}")
    return content


def _facts(comparison: Comparison, extras: Extras) -> list[tuple[str, str]]:
    s = comparison.environment
    how = f"batch {s.batch}, runs of all rows interleaved" if s.batch else "not measured"
    runs = [row.latency.runs for row in comparison.rows if row.latency]
    return [
        ("data", count(s.images, "sample")),
        (
            "latency",
            f"{how}{f', {runs[0]} rounds after {s.warmup} of warm-up' if runs else ''}, {count(s.threads, 'CPU thread')}",
        ),
        ("processor", s.cpu),
        *[("devices", ", ".join(sorted({row.device for row in comparison.rows if not row.skipped})))],
        *((name, version) for name, version in extras.versions.items()),
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        *([("command", extras.command)] if extras.command else []),
    ]


def versions() -> dict[str, str]:
    """Return what is installed of the runtimes."""
    found = {}
    for module in ("lccl", *_RUNTIMES):
        for name in PACKAGES.get(module, (module,)):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[module] = metadata.version(name)
                break
    return found


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _us(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, (int, float)) else ""
