"""The command line that the two CPU benchmarks share."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.command_line import Parser
from bench.cpu import report as cpu_report
from bench.cpu.common import GATES, MASKS, NO_LIBRARY, Row, cpu_facts
from bench.cpu.contest import Plan, library_of
from bench.cpu.measure import Bench, Conditions
from bench.cpu.targets import DENSITIES as HELD_DENSITIES
from lccl.console.progress import on_terminal
from lccl.errors import UserError

DENSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Settings = list[tuple[str, Callable[[Bench], list[Row]]]]


def _density(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"a density is above 0 and at most 1, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must not be negative, not {text}")
    return value


def parser(prog: str, description: str, quick: str) -> argparse.ArgumentParser:
    """The arguments of both.

    Args:
        quick: what --quick measures.
    """
    p = Parser(prog, description=description)
    p.add_argument(
        "--library",
        metavar="PATH",
        help=f"liblccl_ort.so (default: the package's own); {NO_LIBRARY}: the function stands for it, to try the command out",
    )
    p.add_argument("--densities", nargs="+", type=_density, metavar="D", help="fractions of active pixels (default: .1 to 1)")
    p.add_argument("--masks", nargs="+", choices=MASKS, help="(default: both)")
    p.add_argument("--gates", nargs="+", choices=GATES, help="kernel of the gate")
    p.add_argument("--batches", nargs="+", type=_count, metavar="N", help="(default: 1 8)")
    p.add_argument("--threads", nargs="+", type=_count, metavar="T", help="(default: 1 2)")
    p.add_argument("--quick", action="store_true", help=quick)
    p.add_argument("--rounds", type=_count, metavar="R", help="of each setting (default: 30, or up to 200 in one second)")
    p.add_argument(
        "--seconds", type=_minutes, default=120, metavar="S", help="fewer rounds, but 5, where a setting takes longer (120)"
    )
    p.add_argument(
        "--minutes", type=_minutes, metavar="M", help="begin no setting after it; what there is gets written, marked"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="all rows")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="the tables that are printed")
    p.add_argument("--picture", type=Path, metavar="FILE.png", help="ratio over density (needs matplotlib)")
    return p


def conditions(options: argparse.Namespace, gates: Sequence[str]) -> list[Conditions]:
    """What the options ask for, one thread first.

    Args:
        gates: the default.
    """
    quick = options.quick
    masks = tuple(options.masks or (("blob",) if quick else MASKS))
    densities = tuple(options.densities or (HELD_DENSITIES if quick else DENSITIES))
    return [
        Conditions(batch, threads, gate, masks, densities)
        for threads in options.threads or ((1,) if quick else (1, 2))
        for batch in options.batches or ((1,) if quick else (1, 8))
        for gate in options.gates or gates
    ]


def main(
    options: argparse.Namespace, command: Sequence[str], settings: Callable[[argparse.Namespace], Settings], what: str
) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 after one sentence; 2 where a result was wrong or a setting ended with an error.

        Args:
            command: what was typed, for the reports.
            what: "layer" or "network".
    """
    try:
        wanted = settings(options)
        if not wanted:
            raise UserError("nothing is left to measure: a layer with a 1x1 kernel has a 1x1 gate only")
        library = library_of(options.library)
        facts = cpu_facts(command, library)
        files = cpu_report.Files(options, facts, what)
        plan = Plan(seconds=options.seconds)
        bench = Bench(library, replace(plan, rounds=options.rounds, most=options.rounds) if options.rounds else plan)
        if options.minutes is not None:
            bench.deadline = time.monotonic() + 60 * options.minutes
        with on_terminal() as progress:
            bench.run(wanted, progress, lambda: files.write(bench))
        files.write(bench)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(cpu_report.markdown(facts, bench, what))
    return 2 if bench.failures else 0
