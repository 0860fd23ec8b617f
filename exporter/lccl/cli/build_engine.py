"""``lccl build-engine``: an exported ONNX file -> an engine and its side-car."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lccl.backends.interface import BACKEND_NAMES, FORMS_BACKEND
from lccl.command_line import EXIT_LIMIT_FAILED, EXIT_OK, Parser, parse_named_shapes, recorded, run, show
from lccl.console.progress import on_terminal
from lccl.errors import UserError
from lccl.files import require_file

EXAMPLES = """\
examples:
  {prog} model.onnx
  {prog} model.onnx --fp16 --min-shapes x:1x3x224x224 --opt-shapes x:8x3x224x224 --max-shapes x:32x3x224x224
  {prog} model.onnx --backend tensorrt-rtx --compute-capability 8.6 8.9
  {prog} model.onnx --backend onnxruntime --data inputs.npz
"""


PROG = "lccl-build-engine"
SUMMARY = "Build an engine from an exported model, with a side-car that says what is in it."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument("model", type=Path, help="the .onnx file that lccl-export wrote")
    p.add_argument("-o", "--output", type=Path, help="the engine to write (default: the model's name with .engine)")
    p.add_argument(
        "--backend",
        choices=(*BACKEND_NAMES, FORMS_BACKEND),
        help="default: the first TensorRT that is installed; onnxruntime writes the model in the forms that are the fastest here",
    )
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
    forms = p.add_argument_group("for --backend onnxruntime")
    forms.add_argument(
        "--data", metavar="FILE.npz|FOLDER|PKG.MODULE:LOADER", help="real inputs, whose densities decide the forms"
    )
    forms.add_argument(
        "--gate",
        action="append",
        metavar="all|none|LAYER=on|off",
        help="all, no or single gated layers by the op, without choosing; may be repeated",
    )
    forms.add_argument("--threads", type=int, default=1, help="threads of one inference (default: 1)")
    forms.add_argument("--batch", type=int, default=1, help="samples of one inference (default: 1)")
    forms.add_argument("--baseline", type=Path, metavar="DENSE.onnx", help="a dense network to time, too")
    forms.add_argument(
        "--require-gain",
        type=float,
        metavar="TIMES",
        help="exit with 2 unless the result is so many times as fast as the baseline, or the dense twin",
    )
    p.keep_old_spelling("--plugin", "--plugin-library")
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    require_file(options.model)
    if options.require_gain is not None and options.backend != FORMS_BACKEND:
        raise UserError(f"--require-gain goes with --backend {FORMS_BACKEND}")
    if options.workspace is not None and options.workspace < 1:
        raise UserError(f"--workspace is a number of MiB above 0, not {options.workspace}")
    shapes = {name: parse_named_shapes(getattr(options, f"{name}_shapes")) for name in ("min", "opt", "max")}
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
            data=options.data,
            gate=_gates(options.gate),
            threads=options.threads,
            batch=options.batch,
            baseline=options.baseline,
            command=recorded([*prog.split(), *arguments]),
            progress=progress,
            min_shapes=shapes["min"],
            opt_shapes=shapes["opt"],
            max_shapes=shapes["max"],
        )
    show(result, options.json)
    gain = result.choice.gain if result.choice is not None else None
    if options.require_gain is None or gain is None or gain >= options.require_gain:
        return EXIT_OK
    print(f"the gain is {gain:.2f}, below {options.require_gain:g}", file=sys.stderr)
    return EXIT_LIMIT_FAILED


def _gates(words: Sequence[str] | None) -> str | dict[str, bool] | None:
    """Return "all" or "none", or True or False by layer."""
    if not words:
        return None
    if len(words) == 1 and words[0] in ("all", "none"):
        return words[0]
    chosen = {}
    for word in words:
        layer, _, form = word.rpartition("=")
        if not layer or form not in ("on", "off"):
            raise UserError(f"--gate takes all, none, or LAYER=on or LAYER=off, not {word}")
        chosen[layer] = form == "on"
    return chosen


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
