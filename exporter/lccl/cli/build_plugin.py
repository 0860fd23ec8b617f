"""``lccl build-plugin``: the native sources -> the TensorRT plugin and the kernels for PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lccl.command_line import EXIT_OK, Parser, run, show
from lccl.console.progress import on_terminal
from lccl.errors import UserError

EXAMPLES = """\
examples:
  {prog}
  {prog} --compute-capability 8.6 8.9
  {prog} --compute-capability all -o plugins
"""


PROG = "lccl-build-plugin"
SUMMARY = "Compile the TensorRT plugin, and its kernels for PyTorch. It needs CMake, and nvcc or Triton or both; no GPU."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where the libraries go (default: into this package)")
    p.add_argument(
        "--compute-capability", nargs="+", default=(), metavar="X.Y", help="GPUs to build for, or all (default: those here)"
    )
    p.add_argument("--tensorrt-root", type=Path, metavar="FOLDER", help="NVIDIA's headers, if they are to be used")
    p.add_argument("--jobs", type=int, metavar="N", help="compilers at once (default: one per core)")
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs is a number above 0, not {options.jobs}")
    with on_terminal(not options.quiet) as progress:
        from lccl.backends.tensorrt.compiler import build_plugin

        result = build_plugin(
            options.output,
            compute_capabilities=options.compute_capability,
            tensorrt_root=options.tensorrt_root,
            jobs=options.jobs,
            progress=progress,
        )
    show(result, options.json)
    return EXIT_OK


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
