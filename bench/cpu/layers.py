#!/usr/bin/env python3
"""Times single gated layers on a CPU against ONNX Runtime's and OpenVINO's dense ones.

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
from bench.cpu.layer_nets import Layer
from bench.cpu.measure import measure_layer
from bench.cpu.targets import LIKE, RATIOS

LAYERS = (*RATIOS, *LIKE)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = cpu_command.parser(
        "bench/cpu/layers.py",
        "Times gated layers against ONNX Runtime's dense convolution, bias and ReLU, the op's function, and OpenVINO.",
        "seven 3x3 layers, four densities, blob masks, 1x1 gates, batch 1, one thread",
    )
    p.add_argument("--layers", nargs="+", metavar="LAYER", help=f"such as 64@56 or 64-128@56s2k3 (default: {' '.join(LAYERS)})")
    return p


def settings(options: argparse.Namespace) -> cpu_command.Settings:
    """Each layer under each condition; a 1x1 layer has a 1x1 gate only.

    Raises:
        UserError: a layer that is written otherwise.
    """
    layers = [Layer.parse(text) for text in options.layers or (RATIOS if options.quick else LAYERS)]
    gates = ("1x1",) if options.quick else ("1x1", "kxk")
    return [
        (f"{layer.name}, {given.words}", partial(measure_layer, layer=layer, given=given))
        for given in cpu_command.conditions(options, gates)
        for layer in layers
        if layer.kernel > 1 or given.gate == "1x1"
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 after one sentence; 2 where a result was wrong or a setting ended with an error.
    """
    options = parser().parse_args(arguments)
    command = ("bench/cpu/layers.py", *(sys.argv[1:] if arguments is None else arguments))
    return cpu_command.main(options, command, settings, "layer")


if __name__ == "__main__":
    raise SystemExit(main())
