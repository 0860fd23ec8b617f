"""``python -m lccl.plugin``: the plugin's library, and what each TensorRT here says to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from lccl.backends.diagnosis.tensorrt_plugin import plugin_report
from lccl.command_line import EXIT_FAILED, EXIT_OK, Parser, Report, run, show, warn_renamed

PROG = "python -m lccl.plugin"


def _text(said: dict[str, Any]) -> str:
    lines = [f"lccl      {said['lccl']}"]
    lines.append(f"library   {said['library']}, {said['bytes']:,} bytes" if said["library"] else f"library   {said['missing']}")
    for registry in said["registries"]:
        verdict = "its registry holds LCCLConv" if registry["holds_plugin"] else f"without the plugin: {registry['reason']}"
        lines.append(f"TensorRT  {registry['module']} {registry['version'] or '?'}: {verdict}")
    if not said["registries"]:
        lines.append(f"TensorRT  none is installed: {said['how_to_install']}")
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
    said = plugin_report(options.library)
    show(Report(said, _text(said)), options.json)
    warn_renamed(PROG, "lccl doctor")
    return EXIT_OK if said["library"] and all(r["holds_plugin"] for r in said["registries"]) else EXIT_FAILED


def main() -> NoReturn:
    """Entry point."""
    run(command, PROG)


if __name__ == "__main__":
    main()
