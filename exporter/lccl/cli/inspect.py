"""``lccl inspect``: a network as the exporter sees it, layer by layer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lccl.command_line import EXIT_OK, Parser, parse_shape, run, show, stdout_kept
from lccl.console.progress import on_terminal
from lccl.errors import UserError
from lccl.files import require_file, sha256
from lccl.files.pictures import require_picture

EXAMPLES = """\
examples:
  {prog} model.onnx
  {prog} lccl.pt --data mydata:calibration --picture network.png
  {prog} dense.pt --factory mynet:build --input-shape 1x3x224x224 --costs costs.json
  {prog} model.engine
"""

PROG = "lccl-inspect"
ENGINE = ".engine"
SUMMARY = "Print a network's convolutions as the exporter sees them: gated, gateable or why not, MACs, density, cost."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument(
        "network", type=Path, help="a checkpoint (.pt, .pth, .safetensors), an .onnx file, or an engine with its side-car"
    )
    p.add_argument(
        "--data",
        metavar="FILE.npz|FOLDER|PKG.MODULE:LOADER",
        help="inputs to measure densities on (default: what the file says)",
    )
    p.add_argument("--input-shape", metavar="NxCxHxW", help="of the input, where the file does not say it")
    p.add_argument("--factory", metavar="PKG.MODULE:FACTORY", help="builds the network that the checkpoint's weights belong to")
    p.add_argument("--unsafe-pickle", action="store_true", help="load a pickled module, which RUNS CODE from the file")
    p.add_argument("--costs", type=Path, metavar="COSTS.json", help="what layers cost here, as lccl measure wrote it")
    p.add_argument("--threads", type=int, default=1, help="those that the table has to be of (default: %(default)s)")
    p.add_argument(
        "--foreign-costs", action="store_true", help="take a table of another machine or of other threads, with a warning"
    )
    p.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the network with its gated layers marked (.png, .svg, .pdf)"
    )
    return p


def model_of(engine: Path) -> Path | None:
    """Return the model that an engine was built of, if it lies beside it; None if it does not.

    Raises:
        UserError: the engine has no side-car, or that of another engine.
    """
    from lccl.engine.sidecar import read_sidecar

    source = read_sidecar(engine).get("source")
    if not isinstance(source, Mapping):
        return None
    beside = engine.with_name(Path(str(source.get("file", ""))).name)
    return beside if beside.is_file() and sha256(beside) == source.get("sha256") else None


def _paths_of(sidecar: Mapping[str, Any]) -> dict[str, str]:
    """Return how each convolution went into an engine."""
    layers = sidecar["layers"] if isinstance(sidecar["layers"], list) else []
    return {str(row["name"]): str(row["path"]) for row in layers if isinstance(row, Mapping) and _is_conv(row)}


def _is_conv(row: Mapping[str, Any]) -> bool:
    return {"name", "path"} <= set(row) and row.get("op") in ("LCCLConv", "Conv", "ConvTranspose")


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    require_file(options.network)
    if options.threads < 1:
        raise UserError(f"--threads is at least 1, not {options.threads}")
    if options.picture is not None:
        require_picture(options.picture)
    shape = parse_shape(options.input_shape) if options.input_shape else None
    with on_terminal(not options.quiet) as progress, stdout_kept():
        progress("loading the runtimes")
        from lccl.engine.sidecar import read_sidecar
        from lccl.exporting.inspection import Inspection, inspect, with_engine

        network, engine = options.network, None
        if network.suffix == ENGINE:
            engine, network = network, model_of(network)
            of_model = [name for name in ("data", "costs", "factory", "input_shape") if getattr(options, name) is not None]
            if network is None and of_model:
                raise UserError(
                    f"{engine.name} is inspected by its side-car, since its model does not lie beside it: leave out "
                    f"--{of_model[0].replace('_', '-')}, or put the model there"
                )
        found = (
            Inspection(str(options.network), (), {}, 0)
            if network is None
            else inspect(
                network,
                options.data,
                args=shape,
                factory=options.factory,
                unsafe_pickle=options.unsafe_pickle,
                costs=options.costs,
                threads=options.threads,
                foreign_costs=options.foreign_costs,
                progress=progress,
            )
        )
        if engine is not None:
            sidecar = read_sidecar(engine)
            found = with_engine(found, engine, str(sidecar["backend"]), _paths_of(sidecar))
        if options.picture is not None:
            from lccl.exporting.inspection_picture import draw

            draw(found, options.picture)
    show(found, options.json)
    return EXIT_OK


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
