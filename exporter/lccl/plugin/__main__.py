"""``python -m lccl.plugin``: the plugin's library, and what each TensorRT here says to it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lccl import __version__
from lccl.command_line import EXIT_FAILED, EXIT_OK, Parser, Report, option, run, show
from lccl.errors import UserError, first_line, spelled
from lccl.errors.requires import how_to_install

PROG = "python -m lccl.plugin"
MODULES = ("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings")
"""TensorRT, and its runtime without a builder."""


def report(library: str | None = None) -> dict[str, Any]:
    """What is here, as plain values.

    Raises:
        UserError: a library is named and is not there.
    """
    from lccl.backends.tensorrt.library import HOW_TO_GET, LIBRARY, find_plugin
    from lccl.files import sha256

    path = find_plugin(library)
    said: dict[str, Any] = {"lccl": __version__, "library": str(path) if path else None}
    if path is None:
        said["missing"] = f"there is no {LIBRARY}: {HOW_TO_GET}"
    else:
        said |= {"sha256": sha256(path), "bytes": path.stat().st_size}
    said["registries"] = [_registry(name, path) for name in MODULES if _is_installed(name)]
    return said


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _registry(name: str, library: Path | None) -> dict[str, Any]:
    """What one TensorRT says to the plugin."""
    from lccl.backends.tensorrt.library import load_plugin

    try:
        trt = importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises
        return {"module": name, "version": None, "holds_plugin": False, "reason": first_line(error)}
    said: dict[str, Any] = {"module": name, "version": trt.__version__, "holds_plugin": False, "reason": "no library"}
    if library is not None:
        try:
            load_plugin(library, tensorrt=trt)
            said |= {"holds_plugin": True, "reason": ""}
        except UserError as error:
            said["reason"] = spelled(error.message, error.fixes, option)
    return said


def _text(said: dict[str, Any]) -> str:
    lines = [f"lccl      {said['lccl']}"]
    lines.append(f"library   {said['library']}, {said['bytes']:,} bytes" if said["library"] else f"library   {said['missing']}")
    for registry in said["registries"]:
        verdict = "its registry holds LCCLConv" if registry["holds_plugin"] else f"without the plugin: {registry['reason']}"
        lines.append(f"TensorRT  {registry['module']} {registry['version'] or '?'}: {verdict}")
    if not said["registries"]:
        lines.append(f"TensorRT  none is installed: {how_to_install('tensorrt')}")
    return "\n".join(lines)


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(
        prog,
        "Print the plugin's library, the TensorRT versions here, and whether their registries hold the plugin.",
        "exit code: 0 if there is a library and each TensorRT here takes it (none being here is no fault), else 1",
        progress=False,
    )
    p.add_argument("--library", metavar="PATH", help="the plugin (default: $LCCL_TRT_PLUGIN, else the package's own)")
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; 0 if there is a library and each TensorRT here takes it, else 1."""
    options = parser(prog).parse_args(arguments)
    said = report(options.library)
    show(Report(said, _text(said)), options.json)
    return EXIT_OK if said["library"] and all(r["holds_plugin"] for r in said["registries"]) else EXIT_FAILED


def main() -> NoReturn:
    """Entry point."""
    run(command, PROG)


if __name__ == "__main__":
    main()
