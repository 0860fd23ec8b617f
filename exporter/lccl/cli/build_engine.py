"""``lccl build-engine``: an exported ONNX file -> an engine and its side-car."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lccl.backends.interface import BACKEND_NAMES
from lccl.command_line import EXIT_OK, Parser, parse_named_shapes, recorded, run, show
from lccl.console.progress import on_terminal
from lccl.errors import UserError
from lccl.files import require_file

EXAMPLES = """\
examples:
  {prog} model.onnx
  {prog} model.onnx --fp16 --min-shapes x:1x3x224x224 --opt-shapes x:8x3x224x224 --max-shapes x:32x3x224x224
  {prog} model.onnx --backend tensorrt-rtx --compute-capability 8.6 8.9
"""


PROG = "lccl-build-engine"
SUMMARY = "Build an engine from an exported model, with a side-car that says what is in it."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument("model", type=Path, help="the .onnx file that lccl-export wrote")
    p.add_argument("-o", "--output", type=Path, help="the engine to write (default: the model's name with .engine)")
    p.add_argument("--backend", choices=BACKEND_NAMES, help="default: the first that is installed")
    for name in ("min", "opt", "max"):
        p.add_argument(f"--{name}-shapes", nargs="+", metavar="INPUT:NxCxHxW", help=f"{name} shape of each dynamic input")
    precision = p.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="feature maps and weights in float16; gates stay float32")
    precision.add_argument("--bf16", action="store_true", help="feature maps and weights in bfloat16; gates stay float32")
    p.add_argument("--workspace", type=int, metavar="MIB", help="limit of scratch memory")
    p.add_argument("--timing-cache", type=Path, metavar="FILE", help="tactic timings to read and update (tensorrt)")
    p.add_argument(
        "--compute-capability",
        nargs="+",
        default=(),
        metavar="X.Y",
        help="target GPUs of an ahead-of-time build (tensorrt-rtx)",
    )
    plugin = p.add_mutually_exclusive_group()
    plugin.add_argument(
        "--plugin-library", type=Path, metavar="LIBRARY", help="the plugin's library (default: the installed one)"
    )
    plugin.add_argument("--no-plugin", action="store_true", help="build LCCLConv from standard ops, which compute every pixel")
    p.add_argument(
        "--alias-residual", action="store_true", help="let the plugin write over a residual that nobody else reads (preview)"
    )
    p.add_argument("--tf32", action="store_true", help="let float32 convolutions, the gates' too, round to TF32 on the GPU")
    p.add_argument("-v", "--verbose", action="store_true", help="the builder's own messages on stderr")
    p.keep_old_spelling("--plugin", "--plugin-library")
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    require_file(options.model)
    if options.workspace is not None and options.workspace < 1:
        raise UserError(f"--workspace is a number of MiB above 0, not {options.workspace}")
    shapes = {f"{name}_shapes": parse_named_shapes(getattr(options, f"{name}_shapes")) for name in ("min", "opt", "max")}
    with on_terminal(not options.quiet and not options.verbose) as progress:
        progress("loading the builder")
        from lccl.engine import build_engine

        result = build_engine(
            options.model,
            options.output,
            backend=options.backend,
            precision="fp16" if options.fp16 else "bf16" if options.bf16 else "fp32",
            workspace=options.workspace,
            timing_cache=options.timing_cache,
            compute_capabilities=options.compute_capability,
            plugin=not options.no_plugin,
            plugin_library=options.plugin_library,
            alias_residual=options.alias_residual,
            tf32=options.tf32,
            verbose=options.verbose,
            command=recorded([*prog.split(), *arguments]),
            progress=progress,
            **shapes,
        )
    show(result, options.json)
    return EXIT_OK


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
