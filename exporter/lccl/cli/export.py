"""``lccl export``: a checkpoint or an ONNX file -> the canonical ONNX file and its variants."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lccl.command_line import EXIT_OK, Parser, parse_shape, recorded, run, show, stdout_kept
from lccl.console.progress import Progress, on_terminal
from lccl.errors import Fix, UserError
from lccl.files import require_file, require_writable

if TYPE_CHECKING:
    from lccl.numerics import Array

EXAMPLES = """\
examples:
  {prog} lccl.pt -o model.onnx
  {prog} weights.pth --factory mynet:build --input-shape 1x3x224x224 -o model.onnx --dense-twin --decomposed
  {prog} any.onnx -o model.onnx --explain
  {prog} program.pt2 -o model.onnx --unsafe-pickle
"""


PROG = "lccl-export"
SUMMARY = "Export a network with gated convolutions (LCCL) to ONNX, checked against its source."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument(
        "source",
        type=Path,
        help="a checkpoint (.pt, .pth, .safetensors), an .onnx file, a torch.export archive (.pt2) or TorchScript; gates are found in any code",
    )
    p.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    p.add_argument(
        "--factory",
        metavar="PKG.MODULE:FACTORY",
        help="builds the network that the checkpoint's weights belong to; the dense one where lccl.nn.convert gated it",
    )
    p.add_argument("--state-dict-key", metavar="KEY", help="which entry of a nested checkpoint is the state dict")
    p.add_argument(
        "--state-dict-prefix",
        metavar="PREFIX",
        help="what the names of the network's weights begin with, where others are beside them, such as model.",
    )
    p.add_argument(
        "--unsafe-pickle",
        action="store_true",
        help="load a pickled module, a .pt2 archive or TorchScript, which RUNS CODE from the file",
    )
    p.add_argument("--input-shape", metavar="NxCxHxW", action="append", help="of an example input; once per input, in order")
    p.add_argument(
        "--data", metavar="FILE.npz|PKG.MODULE:LOADER", help="real inputs: checked too, and they calibrate densities"
    )
    p.add_argument("--dynamic-hw", action="store_true", help="height and width are dynamic, besides the batch")
    p.add_argument("--dense-twin", action="store_true", help="also write OUTPUT.dense.onnx: every gate taken as 1")
    p.add_argument(
        "--decomposed", action="store_true", help="also write OUTPUT.decomposed.onnx: the same maths in standard ops"
    )
    p.add_argument(
        "--tensorrt",
        action="store_true",
        help="also write OUTPUT.tensorrt.onnx: without the function, for trtexec and Polygraphy with the plugin",
    )
    p.add_argument(
        "--no-fuse", action="store_true", help="leave BatchNorm, ReLU and Add behind a recognised layer outside of its node"
    )
    p.add_argument(
        "--explain", action="store_true", help="also print the products that only look like a gated convolution, and why"
    )
    p.add_argument("--tolerance", type=float, help="allowed error, relative to max(0.01, largest output) (default: 1e-4)")
    for old, new in (("--model", "--factory"), ("--inputs", "--data"), ("--dense", "--dense-twin")):
        p.keep_old_spelling(old, new)
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    require_file(options.source)
    require_writable(options.output)
    if options.output.suffix != ".onnx":
        raise UserError(f"{options.output}: the output's name ends with .onnx")
    with on_terminal(not options.quiet) as progress, stdout_kept():
        progress("loading PyTorch")
        result = _explaining(options, [*prog.split(), *arguments], progress)
    show(result, options.json)
    if options.explain and not options.json:
        print(f"\n{result.explain()}")
    return EXIT_OK


def _explaining(options: Namespace, words: Sequence[str], progress: Progress) -> Any:
    """Export; where nothing is gated, print the near misses before the error."""
    from lccl.exporting.gate_search import NothingToGainError, explained

    try:
        return _export(options, words, progress)
    except NothingToGainError as error:
        error.details = {"near_misses": [asdict(miss) for miss in error.near_misses]}
        if options.explain:
            print(explained(error.near_misses), file=sys.stderr)
        elif error.near_misses:
            error.fixes = (Fix("explain", True, "to see the near misses"),)
        raise


def _export(options: Namespace, words: Sequence[str], progress: Progress) -> Any:
    from lccl.exporting import export
    from lccl.files import sha256

    shapes = [parse_shape(text) for text in options.input_shape or ()]
    metadata = {
        "lccl.command": shlex.join(recorded(words)),
        "lccl.source": options.source.name,
        "lccl.source_sha256": sha256(options.source),
    }
    common: dict[str, Any] = {
        "dense_twin": options.dense_twin,
        "decomposed": options.decomposed,
        "tensorrt": options.tensorrt,
        "tolerance": options.tolerance,
        "metadata": metadata,
        "progress": progress,
        "dynamic_hw": options.dynamic_hw,
        "fuse": not options.no_fuse,
    }
    if options.source.suffix == ".onnx":
        return _export_onnx(options, common, shapes, export)
    from lccl.loading.torch_file import load_model

    loaded = load_model(
        options.source,
        options.factory,
        state_dict_key=options.state_dict_key,
        state_dict_prefix=options.state_dict_prefix,
        unsafe_pickle=options.unsafe_pickle,
    )
    if loaded.program is not None:
        return _export_program(options, common, loaded.program, export)
    if not shapes and loaded.input_shape:
        shapes = [(1, *loaded.input_shape)]
    inputs = _real_data(options.data, _input_names(loaded.module, len(shapes)))
    if not shapes and inputs:
        shapes = [(1, *a.shape[1:]) for a in inputs.values()]
    if not shapes:
        raise UserError(
            f"{options.source} does not say its input's shape", (Fix("args", (1, 3, 224, 224)), Fix("data", "FILE.npz"))
        )
    import torch

    dtype = next((p.dtype for p in loaded.module.parameters() if p.is_floating_point()), torch.float32)
    args = [torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype) for shape in shapes]
    for i, given in enumerate((inputs or {}).values()):
        if i and given.dtype.kind in "biu" and not options.input_shape:  # a mask beside an image: random numbers are no mask
            args[i] = torch.as_tensor(given[:1])
    names = None if _input_names(loaded.module, 0) else tuple(inputs or ())  # of forward(*xs), which has none
    return export(loaded.module, args, options.output, data=inputs, input_names=names, **common)


def _export_program(options: Namespace, common: dict[str, Any], program: Any, export: Any) -> Any:
    """Export a torch.export archive, which has its inputs' names and shapes in it."""
    for name in ("factory", "state_dict_key", "state_dict_prefix", "dynamic_hw", "input_shape"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} goes with a checkpoint; a torch.export archive has its network in it")
    names = tuple(s.arg.name for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT")
    return export(program, None, options.output, data=_real_data(options.data, names), **common)


def _export_onnx(options: Namespace, common: dict[str, Any], shapes: list[tuple[int, ...]], export: Any) -> Any:
    for name in ("factory", "state_dict_key", "state_dict_prefix", "unsafe_pickle", "dynamic_hw"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} goes with a checkpoint; an .onnx file has its network in it")
    import numpy as np

    from lccl.graph.feeds import few_samples
    from lccl.graph.inputs import batch_axes
    from lccl.loading.data import load_data
    from lccl.loading.onnx import onnx_structure

    inputs = None
    if options.data:
        structure = onnx_structure(options.source)
        axes = batch_axes(structure).inputs
        inputs = load_data(options.data, axes).feed(tuple(axes))
        shapes = shapes or list(few_samples(structure, inputs).values())
    return export(options.source, [np.empty(shape) for shape in shapes] or None, options.output, data=inputs, **common)


def _real_data(source: str | None, names: tuple[str, ...]) -> dict[str, Array] | None:
    if source is None:
        return None
    from lccl.loading.data import load_data

    data = load_data(source)
    return data.feed(names or tuple(data.inputs))


def _input_names(module: Any, count: int) -> tuple[str, ...]:
    """The first ``count`` parameters of ``forward``; for 0, those without a default."""
    from lccl.torch_calls import forward_parameters

    parameters = forward_parameters(module)
    return tuple(parameters)[:count] if count else tuple(name for name, optional in parameters.items() if not optional)


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
