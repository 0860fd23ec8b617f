#!/usr/bin/env python3
"""Times the page reader of samples/pages, dense and gated, on held-out pages with its own masks.

See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "exporter")]

from bench.command_line import Parser
from bench.cpu.common import NO_LIBRARY, Array, Times, cpu_facts, summary
from bench.cpu.contest import Candidate, OpenVinoRunner, OrtRunner, Plan, library_of, openvino_there, race, relative_error
from bench.cpu.report import UNDISTURBED
from lccl.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "samples" / "pages"
FACTORY = "samples.pages.network:page_reader"
GATED = ("pixel", "grid")
MOST_ERROR = 1e-3
"""Of the CPU op against the function body, relative to the largest output."""


@dataclass(frozen=True)
class Row:
    """One network, over all pages."""

    network: str
    threads: int
    f1: float
    """Over the digits of all 100 held-out pages, as the training wrote it."""
    macs: float
    """Over the dense network's, on the same pages."""
    ms: Times
    """Milliseconds for a page: median and spread of each page's median over the rounds."""
    ratio: float
    """Dense time over this network's."""
    function_ratio: float | None
    """Dense time over the function body's; None for the dense network."""
    openvino_ratio: float | None
    """OpenVINO's dense time over this network's; None where it is not installed."""
    error: float
    """Largest difference to the function body, relative to the largest output; 0 for the dense
    network."""
    cpu_share: float | None
    """CPU time over the time that passed; None with more threads."""


def exported(folder: Path) -> dict[str, bytes]:
    """Export the committed networks; the gated ones are checked against PyTorch on a page."""
    import torch

    import lccl
    from lccl.nn.translate import to_onnx
    from samples.pages.data import pages

    page = pages(1, held_out=True)[0]
    dense = lccl.load_checkpoint(FOLDER / "dense.pt", FACTORY)
    models = {"dense": to_onnx(dense, (torch.from_numpy(page),)).SerializeToString()}
    for name in GATED:
        network = lccl.load_checkpoint(FOLDER / f"{name}.pt", FACTORY)
        models[name] = lccl.export(network, page, folder / f"{name}.onnx").path.read_bytes()
    return models


def measured(models: dict[str, bytes], count: int, threads: int, plan: Plan, library: str) -> list[Row]:
    """Time all networks on the first held-out pages, in turn.

    Args:
        models: ONNX files by name.
        count: of pages.
    """
    from samples.pages.data import pages

    images = pages(count, held_out=True)[0]
    every: dict[str, Array] = {str(i): images[i : i + 1] for i in range(count)}
    one = {"0": every["0"]}  # what is no candidate for the table
    own = None if library == NO_LIBRARY else library
    candidates = [Candidate("dense", partial(OrtRunner, models["dense"], threads), every)]
    for name in GATED:
        candidates.append(Candidate(name, partial(OrtRunner, models[name], threads, own), every))
        candidates.append(Candidate(f"{name}, function", partial(OrtRunner, models[name], threads), one))
    if openvino_there():
        candidates.append(Candidate("openvino", partial(OpenVinoRunner, models["dense"], threads), one))
    found = race(candidates, threads, plan)
    times = {c.name: [statistics.median(found.samples[c.name, label]) for label in c.feeds] for c in candidates}
    dense, rival = statistics.median(times["dense"]), times.get("openvino", [None])[0]
    results = json.loads((FOLDER / "results.json").read_text())
    rows = []
    for name in ("dense", *GATED):
        spread = summary(times[name])
        known = results[name]
        rows.append(
            Row(
                name,
                threads,
                known["f1"],
                known["macs_computed"] / known["macs"],
                Times(spread.median / 1000, spread.p10 / 1000, spread.p90 / 1000, len(found.samples[name, "0"])),
                dense / spread.median,
                None if name == "dense" else dense / times[f"{name}, function"][0],
                None if rival is None else rival / spread.median,
                0.0 if name == "dense" else _error(models[name], own, threads, every),
                found.cpu_share,
            )
        )
    return rows


def _error(model: bytes, library: str | None, threads: int, feeds: dict[str, Array]) -> float:
    ours, function = OrtRunner(model, threads, library), OrtRunner(model, threads)
    return max(relative_error(ours.run(x), function.run(x)) for x in feeds.values())


def markdown(facts: dict[str, Any], rows: Sequence[Row], pages: int) -> str:
    """What was measured, on what, by which command.

    Args:
        pages: how many were timed.
    """
    lines = ["# Pages: a network with its own masks on a CPU", "", *(f"* {name}: {value}" for name, value in facts.items()), ""]
    lines += [
        f"Times are of the first {pages} held-out pages, one by one: the median over the pages of each page's median, and the 10th "
        "to 90th percentile of these. Every run follows one of the same network and page that is not timed. F1 and MACs are those of "
        "all 100 held-out pages in PyTorch, from samples/pages/results.json. Ratios: of the dense network in ONNX Runtime, of the "
        "function body, and of the dense network in OpenVINO over this network's time. error: against the function body.",
        "",
    ]
    busy = sorted({row.cpu_share for row in rows if row.cpu_share is not None and row.cpu_share < UNDISTURBED})
    if busy:
        lines += [f"**The machine was busy ({100 * busy[0]:.0f} % of the time was this process's): measure these again.**", ""]
    lines += [
        "| network | threads | F1 | MACs of dense | ms a page | dense / ms | dense / function | OpenVINO dense / ms | error |",
        "|---" * 9 + "|",
    ]
    for r in rows:
        cells = (
            r.network,
            r.threads,
            f"{r.f1:.2%}",
            f"{r.macs:.3f}",
            f"{r.ms.median:.1f} ({r.ms.p10:.1f} to {r.ms.p90:.1f})",
            f"{r.ratio:.2f}x",
            _ratio(r.function_ratio),
            _ratio(r.openvino_ratio),
            f"{r.error:.1e}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = Parser("bench/cpu/pages.py", description="Times the page reader, dense and gated, on held-out pages in ONNX Runtime.")
    p.add_argument("--threads", nargs="+", type=int, default=[1], metavar="T", help="(default: 1)")
    p.add_argument("--pages", type=int, default=20, metavar="N", help="the first N of the 100 held-out ones (default: 20)")
    p.add_argument("--seconds", type=float, default=60, metavar="S", help="of measuring, for each number of threads (60)")
    p.add_argument("--rounds", type=int, default=30, metavar="R", help="over all networks and pages (30)")
    p.add_argument("--library", dest="op", metavar="PATH", help=f"liblccl_ort.so; {NO_LIBRARY}: the function stands for it")
    p.add_argument("--json", type=Path, metavar="FILE", help="all rows")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="the table that is printed")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 after one sentence; 2 where a result was wrong.
    """
    options = parser().parse_args(arguments)
    from lccl.files import atomic_path, require_writable

    try:
        if not 1 <= options.pages <= 100 or min(options.threads) < 1 or options.rounds < 1:
            raise UserError("there are 1 to 100 pages, and at least one thread and one round")
        for path in (options.json, options.markdown):
            if path is not None:
                require_writable(path)
        library = library_of(options.op)
        typed = sys.argv[1:] if arguments is None else arguments
        facts = cpu_facts(("bench/cpu/pages.py", *typed), library)
        plan = Plan(rounds=options.rounds, most=options.rounds, seconds=options.seconds, warm_below_us=float("inf"))
        with tempfile.TemporaryDirectory() as folder:
            models = exported(Path(folder))
        rows = [row for threads in options.threads for row in measured(models, options.pages, threads, plan, library)]
        text = markdown(facts, rows, options.pages)
        if options.json is not None:
            with atomic_path(options.json) as path:
                path.write_text(
                    json.dumps({"facts": facts, "pages": options.pages, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
                )
        if options.markdown is not None:
            with atomic_path(options.markdown) as path:
                path.write_text(text)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    wrong = [row.network for row in rows if not row.error <= MOST_ERROR]
    if wrong:
        print(f"error: differs from the function body: {', '.join(wrong)}", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
