"""``lccl tune``: a trained network's gates, moved to meet a limit or a target without training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lccl.command_line import EXIT_OK, Parser, fraction, number, run, show, stdout_kept
from lccl.console.progress import on_terminal
from lccl.files import require_file, require_writable

EXAMPLES = """\
examples:
  {prog} lccl.pt -o sparser.pt --data mydata:calibration --max-accuracy-drop 0.5
  {prog} model.onnx -o sparser.onnx --data calibration.npz --target-macs 0.4 --picture pareto.png
  {prog} model.onnx -o sparser.onnx --data calibration.npz --target-latency 0.6 --costs costs.json
  {prog} model.onnx -o sparser.onnx --data pages:loader --metric pages:f1 --max-metric-drop 0.005
"""

PROG = "lccl-tune"
SUMMARY = "Move the cuts of a trained network's gates, without training, to meet a limit or a target."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument(
        "network", type=Path, help="the gated network: a checkpoint (.pt, .pth, .safetensors) or an exported .onnx file"
    )
    p.add_argument("-o", "--output", type=Path, required=True, help="the file to write, of the same kind")
    p.add_argument(
        "--data",
        required=True,
        metavar="FILE.npz|FOLDER|PKG.MODULE:LOADER",
        help="the calibration set, with labels if there are any",
    )
    p.add_argument(
        "--max-accuracy-drop",
        type=number,
        metavar="POINTS",
        help="top-1 below that of the network as it is, in percentage points",
    )
    p.add_argument("--target-density", type=fraction, metavar="FRACTION", help="the mean density of the gated layers to reach")
    p.add_argument(
        "--target-macs", type=fraction, metavar="FRACTION", help="the whole network's MACs to reach, of those of the dense one"
    )
    p.add_argument(
        "--target-latency",
        type=fraction,
        metavar="FRACTION",
        help="the time of all convolutions to reach, of that of the dense network's, by --costs",
    )
    p.add_argument("--costs", type=Path, metavar="COSTS.json", help="what layers cost here, as lccl measure wrote it")
    p.add_argument("--threads", type=int, default=1, help="those that the table has to be of (default: %(default)s)")
    p.add_argument(
        "--foreign-costs", action="store_true", help="take a table of another machine or of other threads, with a warning"
    )
    p.add_argument(
        "--metric", metavar="PKG.MODULE:FUNCTION", help="scores the outputs in place of top-1: a function of outputs and labels"
    )
    p.add_argument(
        "--metric-direction",
        choices=("higher", "lower"),
        default="higher",
        help="which of its values are better (default: %(default)s)",
    )
    p.add_argument(
        "--max-metric-drop", type=number, metavar="AMOUNT", help="by how much the metric may become worse, in its own unit"
    )
    p.add_argument("--points", type=int, default=24, help="networks to measure on the way, at least 10 (default: %(default)s)")
    p.add_argument("--no-open-layers", action="store_true", help="open no layer as a whole")
    p.add_argument("--no-close-layers", action="store_true", help="close no layer as a whole")
    p.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the measured points, with the chosen one marked (.png, .svg, .pdf)"
    )
    p.add_argument("--factory", metavar="PKG.MODULE:FACTORY", help="builds the network of a checkpoint, as for an export")
    p.add_argument("--state-dict-key", metavar="KEY", help="which entry of a nested checkpoint is the state dict")
    p.add_argument(
        "--state-dict-prefix", metavar="PREFIX", help="what the names of the network's weights begin with, such as model."
    )
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    require_file(options.network)
    for file in filter(None, (options.output, options.picture)):
        require_writable(file)
    with on_terminal(not options.quiet) as progress, stdout_kept():
        progress("loading the network")
        from lccl.tuning import tune

        result = tune(
            options.network,
            options.data,
            options.output,
            max_accuracy_drop=options.max_accuracy_drop,
            max_metric_drop=options.max_metric_drop,
            target_density=options.target_density,
            target_macs=options.target_macs,
            target_latency=options.target_latency,
            costs=options.costs,
            threads=options.threads,
            foreign_costs=options.foreign_costs,
            metric=options.metric,
            metric_direction=options.metric_direction,
            points=options.points,
            open_layers=not options.no_open_layers,
            close_layers=not options.no_close_layers,
            picture=options.picture,
            factory=options.factory,
            state_dict_key=options.state_dict_key,
            state_dict_prefix=options.state_dict_prefix,
            progress=progress,
        )
    show(result, options.json)
    return EXIT_OK


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
