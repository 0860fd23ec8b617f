"""``lccl doctor``: what is here, what works with it, and the command that gets the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from lccl.command_line import EXIT_FAILED, EXIT_OK, Parser, run, show, stdout_kept

EXAMPLES = """\
examples:
  {prog}
  {prog} --require onnxruntime-lccl,tensorrt
"""
EXIT_CODES = "exit code: 0 if all that is required works, else 1"

PROG = "lccl-doctor"
SUMMARY = "Print what is installed here, what works with it, and for the rest the command that gets it."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, f"{EXAMPLES.format(prog=prog)}\n{EXIT_CODES}", progress=False)
    p.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME[,NAME...]",
        help="what has to work, by the names in the table's first column",
    )
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_args(arguments)
    names = [name.strip() for words in options.require for name in words.split(",") if name.strip()]
    with stdout_kept():
        from lccl.backends.diagnosis.diagnosis import diagnose

        found = diagnose()
        missing = found.missing(names)
    show(found, options.json)
    for ability in missing:
        print(f"error: {ability.name} is required: {ability.detail}: {ability.fix}", file=sys.stderr)
    return EXIT_FAILED if missing else EXIT_OK


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
