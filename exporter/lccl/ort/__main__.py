"""``python -m lccl.ort``: the CPU op's library, ONNX Runtime, and whether it takes the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from lccl import __version__
from lccl.command_line import EXIT_FAILED, EXIT_OK, Parser, Report, run, show

PROG = "python -m lccl.ort"


def report(library: str | None = None) -> dict[str, Any]:
    """What is here, as plain values.

    Raises:
        UserError: a library is named and is not there.
    """
    import onnxruntime

    from lccl.backends.onnxruntime.library import asked_isa, check_library, cpu_isa
    from lccl.files import sha256

    found = check_library(library)
    said: dict[str, Any] = {"lccl": __version__, "library": None if found.path is None else str(found.path)}
    if found.path is not None:
        said |= {"sha256": sha256(found.path), "bytes": found.path.stat().st_size}
    said |= {"onnxruntime": onnxruntime.__version__, "takes_library": bool(found), "reason": found.reason}
    variable, asked = asked_isa() or (None, None)
    said |= {"isa": cpu_isa(found.path) if found else None, "isa_asked": asked, "isa_asked_by": variable}
    said |= {"level": said["isa"], "level_asked": asked}  # by their old names, until 0.3
    return said


def _text(said: dict[str, Any]) -> str:
    lines = [f"lccl          {said['lccl']}"]
    lines.append(f"library       {said['library']}, {said['bytes']:,} bytes" if said["library"] else "library       none")
    opens = said["isa"] is not None or not said["isa_asked"]
    verdict = "takes the library: closed pixels are skipped" if opens else "takes the library, but no session opens"
    if not said["takes_library"]:
        verdict = f"every pixel is computed, through the op's function: {said['reason']}"
    lines.append(f"ONNX Runtime  {said['onnxruntime']}: {verdict}")
    if said["takes_library"]:
        lines.append(f"CPU ISA       {_isa(said)}")
    return "\n".join(lines)


def _isa(said: dict[str, Any]) -> str:
    asked, variable = said["isa_asked"], said["isa_asked_by"]
    if said["isa"] is None:
        return f"this machine does not run {variable}={asked}: unset it" if asked else "the library does not tell"
    if asked in (None, said["isa"]):
        return f"{said['isa']}, as {variable} asks" if asked else str(said["isa"])
    return f"{said['isa']}, not {asked}: the library does not know {variable}"


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
    said = report(options.library)
    show(Report(said, _text(said)), options.json)
    return EXIT_OK if said["takes_library"] and said["isa_asked"] in (None, said["isa"]) else EXIT_FAILED


def main() -> NoReturn:
    """Entry point."""
    run(command, PROG)


if __name__ == "__main__":
    main()
