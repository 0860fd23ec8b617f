#!/usr/bin/env python3
"""Times whole gated networks on a CPU against ONNX Runtime's and OpenVINO's dense ones.

See bench/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "exporter")]

from bench.cpu import command as cpu_command
from bench.cpu.measure import measure_network
from bench.cpu.networks import NETWORKS

QUICK = ("resnet18", "resnet20")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = cpu_command.parser(
        "bench/cpu/models.py",
        "Times gated networks with random weights against the dense ones in ONNX Runtime and OpenVINO, and the op's function.",
        f"{' and '.join(QUICK)}, four densities, blob masks, batch 1, one thread",
    )
    p.add_argument("--networks", nargs="+", choices=NETWORKS, metavar="NET", help=f"of {' '.join(NETWORKS)} (default: all)")
    return p


def settings(options: argparse.Namespace) -> cpu_command.Settings:
    """Each network under each condition."""
    names = options.networks or (QUICK if options.quick else tuple(NETWORKS))
    return [
        (f"{name}, {given.words}", partial(measure_network, network=NETWORKS[name], given=given))
        for given in cpu_command.conditions(options, ("1x1",))
        for name in names
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 after one sentence; 2 where a result was wrong or a setting ended with an error.
    """
    options = parser().parse_args(arguments)
    command = ("bench/cpu/models.py", *(sys.argv[1:] if arguments is None else arguments))
    return cpu_command.main(options, command, settings, "network")


if __name__ == "__main__":
    raise SystemExit(main())
