"""``lccl measure``: what each layer of a network costs here, dense and gated at densities."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lccl.command_line import EXIT_OK, Parser, parse_shape, recorded, run, seconds, show, stdout_kept
from lccl.console.progress import on_terminal
from lccl.errors import UserError
from lccl.files import require_file, require_writable

if TYPE_CHECKING:
    from lccl.forms.measuring import LayerTimer

EXAMPLES = """\
examples:
  {prog} dense.pt --factory mynet:build --input-shape 1x3x224x224 -o costs.json
  {prog} model.onnx -o costs.json --gate 1x1 grid:2 --threads 2
  {prog} --list costs.json
"""

PROG = "lccl-measure"
PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
SUMMARY = "Time every layer of a network on this machine, dense and gated: where does a gate pay?"


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument(
        "network", type=Path, nargs="?", help="a checkpoint (.pt, .pth, .safetensors) or an .onnx file, dense or gated"
    )
    p.add_argument("-o", "--output", type=Path, help="the table to write; one that is there gets the new layers added")
    p.add_argument("--list", type=Path, metavar="COSTS.json", help="print a table and end")
    p.add_argument("--factory", metavar="PKG.MODULE:FACTORY", help="builds the network that the checkpoint's weights belong to")
    p.add_argument("--unsafe-pickle", action="store_true", help="load a pickled module, which RUNS CODE from the file")
    p.add_argument("--input-shape", metavar="NxCxHxW", help="of the input, where the file does not say it")
    p.add_argument("--gate", nargs="+", default=("1x1", "kxk"), metavar="KIND", help="1x1, kxk, grid:G (default: 1x1 kxk)")
    p.add_argument("--threads", type=int, default=1, help="threads of one inference (default: 1)")
    p.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cpu: ONNX Runtime; cuda: PyTorch on the GPU (default: cpu)"
    )
    p.add_argument(
        "--precision", choices=tuple(PRECISIONS), default="fp16", help="of images and weights on a GPU (default: fp16)"
    )
    p.add_argument("--batch", type=int, default=1, help="images of one inference (default: 1)")
    p.add_argument(
        "--max-seconds", type=seconds, default=2.0, metavar="SECONDS", help="for each shape and kind of gate (default: 2)"
    )
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    if options.list is not None:
        if any((options.network, options.output, options.factory, options.input_shape, options.unsafe_pickle)):
            raise UserError("--list prints a table that is there: leave out the network and --output")
        from lccl.forms.costs import read_costs

        show(read_costs(options.list), options.json)
        return EXIT_OK
    if options.network is None or options.output is None:
        raise UserError("give a network and --output, or --list with a table")
    for name, most in (("threads", 1024), ("batch", 2**16)):
        if not 1 <= getattr(options, name) <= most:
            raise UserError(f"--{name} is a number from 1 to {most}, not {getattr(options, name)}")
    require_file(options.network)
    require_writable(options.output)
    with on_terminal(not options.quiet) as progress, stdout_kept():
        progress("loading the network")
        from lccl.exporting.unchecked import unchecked_onnx
        from lccl.forms.costs import CostTable, Machine, read_costs
        from lccl.forms.measuring import measure_costs

        timer, versions = _on_gpu(options) if options.device == "cuda" else _on_cpu(options)
        machine = Machine.here(options.device)
        if machine is None:
            raise UserError("there is no NVIDIA GPU with a driver here to measure on: leave out --device cuda")
        costs = CostTable(machine, options.threads, options.batch, versions, (), ())
        if options.output.exists():
            costs = read_costs(options.output).merged(costs)  # before minutes of measuring
        shape = parse_shape(options.input_shape) if options.input_shape else None
        found = measure_costs(
            unchecked_onnx(options.network, options.factory, shape, options.unsafe_pickle),
            timer,
            machine=machine,
            kinds=options.gate,
            threads=options.threads,
            batch=options.batch,
            versions=versions,
            command=shlex.join(recorded([*prog.split(), *arguments])),
            progress=progress,
        )
        costs = costs.merged(found)
        costs.save(options.output)
    show(costs, options.json)
    return EXIT_OK


def _on_cpu(options: argparse.Namespace) -> tuple[LayerTimer, dict[str, str]]:
    """Return what times layers in ONNX Runtime, and the versions of what runs.

    Raises:
        UserError: the op's library cannot be used.
    """
    import onnxruntime

    from lccl import __version__
    from lccl.backends.onnxruntime.library import check_library
    from lccl.forms.measuring import onnxruntime_timer

    library = check_library()
    if not library or library.path is None:
        raise UserError(f"layers cannot be timed without the op's library for ONNX Runtime: {library.reason}")
    timer = onnxruntime_timer(options.threads, options.batch, options.max_seconds, library.path)
    return timer, {"onnxruntime": onnxruntime.__version__, "lccl": __version__}


def _on_gpu(options: argparse.Namespace) -> tuple[LayerTimer, dict[str, str]]:
    """Return what times layers in PyTorch on the GPU, and the versions of what runs.

    Raises:
        UserError: PyTorch has no GPU here.
    """
    import torch

    from lccl import __version__
    from lccl.nn.measuring import torch_timer

    if not torch.cuda.is_available():
        raise UserError(
            f"PyTorch {torch.__version__} has no GPU here to measure on: leave out --device cuda, or see lccl doctor"
        )
    timer = torch_timer("cuda", getattr(torch, PRECISIONS[options.precision]), options.batch, options.max_seconds)
    return timer, {"torch": str(torch.__version__), "lccl": __version__, "precision": options.precision}


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
