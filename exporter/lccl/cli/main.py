"""``lccl``: one command with a subcommand for each of the others."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from lccl import __version__
from lccl.command_line import EXIT_OK, execute, handle_signals
from lccl.errors import UserError, shown


@dataclass(frozen=True)
class Subcommand:
    """A command under ``lccl``; its module is imported when it runs."""

    module: str
    summary: str


SUBCOMMANDS = {
    "export": Subcommand("lccl.cli.export", "export a network with gated convolutions to ONNX, checked against its source"),
    "build-engine": Subcommand("lccl.cli.build_engine", "build an engine from an exported model"),
    "compare": Subcommand("lccl.cli.compare", "compare a gated network with dense ones: accuracy, latency, density, MACs"),
    "inspect": Subcommand("lccl.cli.inspect", "print a network's layers: gated, gateable or why not, MACs, density, cost"),
    "tune": Subcommand("lccl.cli.tune", "move the cuts of a trained network's gates to meet a limit, without training"),
    "measure": Subcommand("lccl.cli.measure", "time every layer of a network here, dense and gated: where does a gate pay?"),
    "doctor": Subcommand("lccl.cli.doctor", "print what is installed here, what works with it, and how to get the rest"),
    "build-plugin": Subcommand("lccl.cli.build_plugin", "compile the TensorRT plugin, and its kernels for PyTorch"),
}


def usage() -> str:
    """What ``lccl --help`` prints."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {subcommand.summary}" for name, subcommand in SUBCOMMANDS.items()]
    return "\n".join(
        (
            "usage: lccl COMMAND [OPTION ...]",
            "",
            "Gated convolutions (LCCL) from PyTorch to ONNX and TensorRT engines.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  -h, --help  show this help message and exit",
            "  --version   show the version and exit",
            "",
            "lccl COMMAND --help says what a command takes.",
        )
    )


def dispatch(arguments: Sequence[str]) -> int:
    """Run ``lccl`` with these arguments; the exit code."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", ())
    if name in SUBCOMMANDS:
        prog = f"lccl {name}"

        def command(words: Sequence[str], prog: str = prog) -> int:
            return int(import_module(SUBCOMMANDS[name].module).command(words, prog))

        return execute(command, rest, prog)
    return execute(_about, arguments)


def _about(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"lccl {__version__}")
    else:
        raise UserError(f"there is no command {shown(name)}: {_nearest(name)} (see lccl --help)")
    return EXIT_OK


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.removeprefix("lccl-").replace("_", "-"), SUBCOMMANDS, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(SUBCOMMANDS)}"


def main() -> NoReturn:
    """Entry point."""
    handle_signals()
    raise SystemExit(dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
