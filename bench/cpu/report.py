"""What the CPU benchmarks say: JSON and tables, written while they run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.break_even import break_even
from bench.cpu import picture as cpu_picture
from bench.cpu import targets as cpu_targets
from bench.cpu.common import NO_LIBRARY, Row, Times

if TYPE_CHECKING:
    from bench.cpu.measure import Bench

UNDISTURBED = 0.97
"""The least part of the time that passed that one thread has to have had."""
HEAD = (
    "| {subject} | batch | threads | gate | mask | density | ours us | dense us | ratio | ideal | of ideal | function "
    "| OpenVINO us | OpenVINO/ours | error | rounds |"
)
WORDS = (
    "Times are of one {what}, in microseconds: median (10th to 90th percentile). ratio: dense network in ONNX Runtime over ours. "
    "ideal: MACs of the dense network over those of active pixels and gates. function: dense over the op's function, which "
    "skips nothing. OpenVINO: the dense network there. error: ours against the function, of the largest output. rounds: of ours."
)


def grouped(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """(subject, batch, threads, gate, mask) -> its rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.subject, row.batch, row.threads, row.gate, row.mask), []).append(row)
    return groups


def break_evens(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The break-even density of each setting, on a line between measured densities.

    None where no density breaks even.

    ``beyond``: the ratio is not below 1 at the largest density that was measured.
    """
    names = ("subject", "batch", "threads", "gate", "mask")
    return [
        dict(zip(names, key, strict=True))
        | {"break_even": break_even([(row.seen, row.ratio) for row in mine]), "beyond": max(mine, key=_density).ratio >= 1}
        for key, mine in grouped(rows).items()
        if len(mine) > 1
    ]


def _density(row: Row) -> float:
    return row.seen


def disturbances(rows: Iterable[Row]) -> list[str]:
    """Lines that name the settings in which something else took the core."""
    shares = {
        f"{r.subject}, batch {r.batch}, gate {r.gate}": r.cpu_share
        for r in rows
        if r.cpu_share is not None and r.cpu_share < UNDISTURBED
    }
    told = [f"* {name}: {100 * share:.0f} %" for name, share in shares.items()]
    words = "**The machine was busy: measure these again.** So much of the time that passed was this process's with one thread:"
    return ["", words, "", *told] if told else []


def markdown(facts: dict[str, Any], bench: Bench, what: str) -> str:
    """What was measured, on what, by which command.

    Args:
        what: "layer" or "network".
    """
    lines = [f"# Gated {what}s on a CPU", "", *(f"* {name}: {value}" for name, value in facts.items())]
    if bench.library == NO_LIBRARY:
        lines += ["", "**Without the library: what is called ours is the function, which skips nothing.**"]
    if not bench.complete:
        lines += ["", "**Not complete: not all settings were measured.**"]
    lines += ["", WORDS.format(what=what), "", HEAD.format(subject=what), "|---" * 16 + "|"]
    lines += [_line(row) for row in bench.rows]
    lines += disturbances(bench.rows)
    lines += ["", f"| {what} | batch | threads | gate | mask | break-even density |", "|---" * 6 + "|"]
    for found in break_evens(bench.rows):
        *setting, even, beyond = found.values()
        words = "none" if even is None else f"{'at least ' * beyond}{even:.2f}"
        lines.append(f"| {' | '.join(map(str, setting))} | {words} |")
    lines += cpu_targets.markdown([] if bench.library == NO_LIBRARY else cpu_targets.outcomes(bench.rows))
    lines += ["", *(f"* {failure}" for failure in bench.failures)] if bench.failures else []
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = (
        row.subject,
        row.batch,
        row.threads,
        row.gate,
        row.mask,
        f"{row.density:g}" if abs(row.seen - row.density) < 5e-4 else f"{row.density:g} ({row.seen:.3f})",
        _times(row.ours),
        _times(row.dense),
        f"{row.ratio:.2f}",
        f"{row.ideal:.2f}",
        f"{100 * row.efficiency:.0f} %",
        f"{row.function_ratio:.2f}",
        "not installed" if row.openvino is None else _times(row.openvino),
        "-" if row.openvino_ratio is None else f"{row.openvino_ratio:.2f}",
        f"{row.error:.1e}",
        row.ours.rounds,
    )
    return f"| {' | '.join(map(str, cells))} |"


def _times(t: Times) -> str:
    digits = 1 if t.median < 100 else 0
    return f"{t.median:.{digits}f} ({t.p10:.{digits}f} to {t.p90:.{digits}f})"


def report(facts: dict[str, Any], bench: Bench) -> dict[str, Any]:
    """Everything, for JSON."""
    held = [] if bench.library == NO_LIBRARY else cpu_targets.outcomes(bench.rows)
    return {
        "facts": facts,
        "complete": bench.complete,
        "rows": [row.as_dict() for row in bench.rows],
        "failures": bench.failures,
        "break_even": break_evens(bench.rows),
        "targets": [outcome.as_dict() for outcome in held],
    }


class Files:
    """The files that were asked for, each whole at any time."""

    def __init__(self, options: argparse.Namespace, facts: dict[str, Any], what: str) -> None:
        """Check that the files can be written, before any long work begins.

        Raises:
            UserError: one cannot.
        """
        from lccl.files import require_writable

        self._json: Path | None = options.json
        self._markdown: Path | None = options.markdown
        self._picture: Path | None = options.picture
        self._facts, self._what = facts, what
        for path in (self._json, self._markdown, self._picture):
            if path is not None:
                require_writable(path)
        if self._picture is not None:
            cpu_picture.require()

    def write(self, bench: Bench) -> None:
        """What there is.

        Raises:
            UserError: a file cannot be written.
        """
        from lccl.files import atomic_path

        if self._json is not None:
            with atomic_path(self._json) as path:
                path.write_text(json.dumps(report(self._facts, bench), indent=1))
        if self._markdown is not None:
            with atomic_path(self._markdown) as path:
                path.write_text(markdown(self._facts, bench, self._what))
        if self._picture is not None and bench.rows:
            with atomic_path(self._picture) as path:
                cpu_picture.draw(bench.rows, path, f"{self._facts['cpu']}, ONNX Runtime {self._facts['onnxruntime']}")
