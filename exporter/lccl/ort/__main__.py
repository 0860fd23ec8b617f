"""``python -m lccl.ort``: the CPU op's library, ONNX Runtime, and whether it takes the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from lccl.backends.diagnosis.onnxruntime_library import isa_in_words, library_report, skips_pixels
from lccl.command_line import EXIT_FAILED, EXIT_OK, Parser, Report, run, show, warn_renamed

PROG = "python -m lccl.ort"


def _text(said: dict[str, Any]) -> str:
    lines = [f"lccl          {said['lccl']}"]
    lines.append(f"library       {said['library']}, {said['bytes']:,} bytes" if said["library"] else "library       none")
    opens = said["isa"] is not None or not said["isa_asked"]
    verdict = "takes the library: closed pixels are skipped" if opens else "takes the library, but no session opens"
    if not said["takes_library"]:
        verdict = f"every pixel is computed, through the op's function: {said['reason']}"
    lines.append(f"ONNX Runtime  {said['onnxruntime']}: {verdict}")
    if said["takes_library"]:
        lines.append(f"CPU ISA       {isa_in_words(said)}")
    return "\n".join(lines)


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(
        prog,
        "Print the CPU op's library, ONNX Runtime's version, whether it takes the library, and the CPU instruction set.",
        "exit code: 0 if there is a library, ONNX Runtime takes it and the instruction set that LCCL_CPU_ISA asks for runs, else 1",
        progress=False,
    )
    p.add_argument("--library", metavar="PATH", help="the op's library (default: $LCCL_ORT_LIBRARY, else the package's own)")
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command.

    Returns:
        0 if closed pixels are skipped with the instruction set that is asked for, else 1.
    """
    options = parser(prog).parse_args(arguments)
    said = library_report(options.library)
    said |= {"level": said["isa"], "level_asked": said["isa_asked"]}  # by their old names, until 0.3
    show(Report(said, _text(said)), options.json)
    warn_renamed(PROG, "lccl doctor")
    return EXIT_OK if skips_pixels(said) else EXIT_FAILED


def main() -> NoReturn:
    """Entry point."""
    run(command, PROG)


if __name__ == "__main__":
    main()
