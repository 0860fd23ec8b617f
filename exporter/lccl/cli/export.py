"""``lccl export``: a checkpoint or an ONNX file -> the canonical ONNX file and its variants."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from lccl.command_line import EXIT_OK, Parser, parse_shape, recorded, run, show, stdout_kept
from lccl.console.progress import Progress, on_terminal
from lccl.errors import Fix, UserError
from lccl.files import require_file, require_writable

EXAMPLES = """\
examples:
  {prog} lccl.pt -o model.onnx
  {prog} weights.pth --factory mynet:build --input-shape 1x3x224x224 -o model.onnx --dense-twin --decomposed
  {prog} any.onnx -o model.onnx --explain
  {prog} program.pt2 -o model.onnx --unsafe-pickle
"""


PROG = "lccl-export"
_OF_CHECKPOINTS = ("factory", "state_dict_key", "state_dict_prefix")
SUMMARY = "Export a network with gated convolutions (LCCL) to ONNX, checked against its source."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument(
        "source",
        type=Path,
        help="a checkpoint (.pt, .pth, .safetensors), an .onnx file, a torch.export archive (.pt2) or TorchScript; gates are found in any code",
    )
    p.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    p.add_argument(
        "--factory",
        metavar="PKG.MODULE:FACTORY",
        help="builds the network that the checkpoint's weights belong to; the dense one where lccl.nn.convert gated it",
    )
    p.add_argument("--state-dict-key", metavar="KEY", help="which entry of a nested checkpoint is the state dict")
    p.add_argument(
        "--state-dict-prefix",
        metavar="PREFIX",
        help="what the names of the network's weights begin with, where others are beside them, such as model.",
    )
    p.add_argument(
        "--unsafe-pickle",
        action="store_true",
        help="load a pickled module, a .pt2 archive or TorchScript, which RUNS CODE from the file",
    )
    p.add_argument("--input-shape", metavar="NxCxHxW", action="append", help="of an example input; once per input, in order")
    p.add_argument(
        "--data", metavar="FILE.npz|FOLDER|PKG.MODULE:LOADER", help="real inputs: checked too, and they calibrate densities"
    )
    p.add_argument("--dynamic-hw", action="store_true", help="height and width are dynamic, besides the batch")
    p.add_argument("--dense-twin", action="store_true", help="also write OUTPUT.dense.onnx: every gate taken as 1")
    p.add_argument(
        "--decomposed", action="store_true", help="also write OUTPUT.decomposed.onnx: the same maths in standard ops"
    )
    p.add_argument(
        "--tensorrt",
        action="store_true",
        help="also write OUTPUT.tensorrt.onnx: without the function, for trtexec and Polygraphy with the plugin",
    )
    p.add_argument(
        "--no-fuse", action="store_true", help="leave BatchNorm, ReLU and Add behind a recognised layer outside of its node"
    )
    p.add_argument(
        "--explain", action="store_true", help="also print the products that only look like a gated convolution, and why"
    )
    p.add_argument("--tolerance", type=float, help="allowed error, relative to max(0.01, largest output) (default: 1e-4)")
    for old, new in (("--model", "--factory"), ("--inputs", "--data"), ("--dense", "--dense-twin")):
        p.keep_old_spelling(old, new)
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    require_file(options.source)
    require_writable(options.output)
    if options.output.suffix != ".onnx":
        raise UserError(f"{options.output}: the output's name ends with .onnx")
    with on_terminal(not options.quiet) as progress, stdout_kept():
        progress("loading PyTorch")
        result = _explaining(options, [*prog.split(), *arguments], progress)
    show(result, options.json)
    if options.explain and not options.json:
        print(f"\n{result.explain()}")
    return EXIT_OK


def _explaining(options: Namespace, words: Sequence[str], progress: Progress) -> Any:
    """Export; where nothing is gated, print the near misses before the error."""
    from lccl.exporting.gate_search import NothingToGainError, explained

    try:
        return _export(options, words, progress)
    except NothingToGainError as error:
        error.details = {"near_misses": [asdict(miss) for miss in error.near_misses]}
        if options.explain:
            print(explained(error.near_misses), file=sys.stderr)
        elif error.near_misses:
            error.fixes = (Fix("explain", True, "to see the near misses"),)
        raise


def _export(options: Namespace, words: Sequence[str], progress: Progress) -> Any:
    from lccl.exporting import export
    from lccl.exporting.example import example_of_module, example_of_onnx, example_of_program
    from lccl.files import sha256

    shapes = [parse_shape(text) for text in options.input_shape or ()]
    metadata = {
        "lccl.command": shlex.join(recorded(words)),
        "lccl.source": options.source.name,
        "lccl.source_sha256": sha256(options.source),
    }
    common: dict[str, Any] = {
        "dense_twin": options.dense_twin,
        "decomposed": options.decomposed,
        "tensorrt": options.tensorrt,
        "tolerance": options.tolerance,
        "metadata": metadata,
        "progress": progress,
        "dynamic_hw": options.dynamic_hw,
        "fuse": not options.no_fuse,
    }
    if options.source.suffix == ".onnx":
        _refuse(options, (*_OF_CHECKPOINTS, "unsafe_pickle", "dynamic_hw"), "an .onnx file")
        example = example_of_onnx(options.source, shapes, options.data)
        return export(options.source, example.args, options.output, data=example.data, **common)
    from lccl.loading.torch_file import load_model

    loaded = load_model(
        options.source,
        options.factory,
        state_dict_key=options.state_dict_key,
        state_dict_prefix=options.state_dict_prefix,
        unsafe_pickle=options.unsafe_pickle,
    )
    if loaded.program is not None:
        _refuse(options, (*_OF_CHECKPOINTS, "dynamic_hw", "input_shape"), "a torch.export archive")
        example = example_of_program(loaded.program, options.data)
    else:
        example = example_of_module(loaded.module, options.source, shapes, loaded.input_shape, options.data)
    source = loaded.module if loaded.program is None else loaded.program
    return export(source, example.args, options.output, data=example.data, input_names=example.input_names, **common)


def _refuse(options: Namespace, names: Sequence[str], what: str) -> None:
    for name in names:
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} goes with a checkpoint; {what} has its network in it")


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
