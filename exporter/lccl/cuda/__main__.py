"""``python -m lccl.cuda``: the table of configurations, and what each would cost for a layer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from lccl.command_line import EXIT_OK, Parser, Report, run, show
from lccl.errors import UserError

PROG = "python -m lccl.cuda"
EPILOG = """examples:
  python -m lccl.cuda
  python -m lccl.cuda --shape 32x64x56x56 --kernel 3 --density 0.25 --device 9.0x132
  python -m lccl.cuda --shape 8x128x160x160 --out-channels 128 --kernel 3 --grid 8 --density 0.25 --device 8.0x108 --json
devices: 9.0x132 is an H100 (SXM), 8.0x108 an A100. For the first layer a configuration that skips pixels is chosen, for
the second one that skips blocks.
times are a model's predictions, not measurements."""


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(
        prog,
        "Print the configurations of the CUDA kernels and, for a layer, what each would cost and which is chosen.",
        EPILOG,
        progress=False,
    )
    p.add_argument("--library", metavar="PATH", help="liblccl_cuda.so (default: $LCCL_CUDA_LIBRARY, else the package's own)")
    layer = p.add_argument_group("a layer")
    layer.add_argument(
        "--shape", metavar="NxCxHxW", help="input of the layer; without it the table of configurations is printed"
    )
    layer.add_argument("--out-channels", type=int, metavar="K", help="default: C")
    layer.add_argument("--kernel", default="3", metavar="R[xS]", help="default: 3")
    layer.add_argument("--stride", type=int, default=1)
    layer.add_argument("--dilation", type=int, default=1)
    layer.add_argument("--pads", metavar="T,L,B,R", help="default: half the kernel")
    layer.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    layer.add_argument(
        "--grid", type=int, default=1, metavar="G", help="side of the block that shares a gate value (default: 1)"
    )
    layer.add_argument("--gate-kernel", default="1", metavar="R[xS]", help="default: 1")
    layer.add_argument("--external", action="store_true", help="the gate is a map from outside")
    layer.add_argument("--density", type=float, default=-1.0, help="expected fraction of active pixels (default: unknown)")
    layer.add_argument(
        "--device", metavar="CCxSMS", help="compute capability x multiprocessors, such as 9.0x132 (default: CUDA device 0)"
    )
    return p


def _require_shape(p: Parser, options: argparse.Namespace) -> None:
    """Check that options of a layer come with the layer.

    The table of configurations would ignore them.

    Raises:
        UserError: they do not.
    """
    of_layer = set(vars(options)) - {"library", "json", "shape"}
    given = [name for name in vars(options) if name in of_layer and getattr(options, name) != p.get_default(name)]
    if given and not options.shape:
        raise UserError(f"--{given[0].replace('_', '-')} is of a layer: name the layer with --shape NxCxHxW")


def _numbers(text: str, what: str, counts: Sequence[int]) -> tuple[int, ...]:
    parts = text.replace(",", "x").split("x")
    if len(parts) not in counts or not all(part.isdigit() for part in parts):
        raise UserError(f"{what} takes {' or '.join(map(str, counts))} whole numbers with x between, not {text!r}")
    return tuple(map(int, parts))


def _side(text: str, what: str) -> tuple[int, int]:
    numbers = _numbers(text, what, (1, 2))
    return numbers[0], numbers[-1]


def _table(library: Any) -> tuple[dict[str, Any], str]:
    """All configurations as a dict and as text."""
    from lccl.console.text import table

    rows = [
        (
            f"0x{c.id:x}",
            c.name,
            c.family.name.lower(),
            c.math.name.lower(),
            f"{c.tile_m}x{c.tile_n}x{c.tile_k}",
            str(c.stages),
            f"{c.warps_m}x{c.warps_n}",
            f"{c.shared_bytes:,}",
            str(c.max_registers),
        )
        for c in library.configs()
    ]
    head = ("id", "name", "family", "math", "tile", "stages", "warps", "shared bytes", "registers")
    return {"library": str(library.path), "configs": [c.as_dict() for c in library.configs()]}, table(head, rows, right=(7, 8))


def _first_device(library: Any) -> Any:
    try:
        return library.device()
    except UserError as error:
        raise UserError(f"{error.message}; say which GPU to plan for by --device, such as 9.0x132", error.fixes) from None


def _layer(library: Any, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What each configuration says to a layer, as a dict and as text."""
    from lccl.backends.torch.cuda.planning import DTYPES, conv_params, layer_attributes, layer_shapes, parse_device
    from lccl.console.text import table

    kernel, gate_kernel = _side(options.kernel, "--kernel"), _side(options.gate_kernel, "--gate-kernel")
    pads = _numbers(options.pads, "--pads", (4,)) if options.pads else None
    shape = _numbers(options.shape, "--shape", (4,))
    attributes = layer_attributes(
        kernel,
        stride=options.stride,
        pads=pads,  # type: ignore[arg-type]
        dilation=options.dilation,
        grid=options.grid,
        gate_kernel=gate_kernel,
        density=options.density,
        external=options.external,
    )
    channels = shape[1] if options.out_channels is None else options.out_channels
    shapes = layer_shapes(shape, channels, kernel, attributes, gate_kernel, external=options.external)
    params = conv_params(shapes, attributes, DTYPES[options.dtype])
    device = parse_device(options.device) if options.device else _first_device(library)
    chosen = library.choose(params, device)
    if not chosen:
        raise UserError(f"no configuration can run this layer: {library.supported(params, device).reason}")
    results, rows = [], []
    for config in library.configs():
        support = library.supported(params, device, config.id)
        time = library.predict(params, device, config.id)
        space = library.workspace(params, device, config.id) if support else None
        results.append(
            {"id": config.id, "name": config.name, "predicted_us": time, "workspace": space, "reason": support.reason}
        )
        verdict = "chosen" if config.id == chosen else support.reason
        rows.append((config.name, "-" if time is None else f"{time:.2f}", "-" if space is None else f"{space:,}", verdict))
    name = library.config(chosen).name
    said = {"library": str(library.path), "chosen": chosen, "chosen_name": name, "configs": results}
    text = table(("configuration", "predicted us", "workspace", ""), rows, right=(1, 2))
    return said, f"{text}\nchosen: {name}"


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    p = parser(prog)
    options = p.parse_args(arguments)
    from lccl.backends.torch.cuda.library import load

    _require_shape(p, options)
    library = load(options.library)
    said, text = _layer(library, options) if options.shape else _table(library)
    show(Report(said, text), options.json)
    return EXIT_OK


def main() -> NoReturn:
    """Entry point."""
    run(command, PROG)


if __name__ == "__main__":
    main()
