"""What a source is exported with where its file says little: example inputs, real data, names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lccl.errors import Fix, UserError
from lccl.graph.feeds import few_samples
from lccl.graph.inputs import batch_axes
from lccl.loading.data import load_data
from lccl.loading.onnx import onnx_structure
from lccl.loading.types import SupportsArray
from lccl.numerics import Array
from lccl.torch_calls import forward_parameters

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Example:
    """Arguments of :func:`lccl.export` that a command makes."""

    args: list[SupportsArray] | None
    """Example inputs in order."""
    data: dict[str, Array] | None
    """Real inputs by name; None where none are given."""
    input_names: tuple[str, ...] | None = None


def example_of_module(
    module: nn.Module, source: Path, shapes: Shapes, own_shape: tuple[int, ...] | None, data: str | None
) -> Example:
    """Return random inputs for a module, in the type of its weights.

    Args:
        module: the network.
        source: its file, for the message.
        shapes: of the inputs, batch first, as the user gave them; may be empty.
        own_shape: that of one sample as the file says it.
        data: where real inputs are: "FILE.npz" or "pkg.module:loader". A mask beside an image is
            taken from there, since random numbers are no mask.

    Raises:
        UserError: nothing says the input's shape, or the data cannot be read.
    """
    import torch

    known = list(shapes) or ([(1, *own_shape)] if own_shape else [])
    inputs = _real_data(data, _input_names(module, len(known)))
    known = known or [(1, *values.shape[1:]) for values in (inputs or {}).values()]
    if not known:
        raise UserError(f"{source} does not say its input's shape", (Fix("args", (1, 3, 224, 224)), Fix("data", "FILE.npz")))
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    args: list[SupportsArray] = [torch.randn(s, generator=torch.Generator().manual_seed(0)).to(dtype) for s in known]
    for i, values in enumerate((inputs or {}).values()):
        if i and values.dtype.kind in "biu" and not shapes:
            args[i] = torch.as_tensor(values[:1])
    has_names = bool(_input_names(module, 0))  # forward(*xs) has none
    return Example(args, inputs, None if has_names else tuple(inputs or ()))


def example_of_program(program: ExportedProgram, data: str | None) -> Example:
    """Return the real inputs of a torch.export archive, which has its inputs' shapes in it.

    Raises:
        UserError: the data cannot be read.
    """
    specs = program.graph_signature.input_specs
    return Example(None, _real_data(data, tuple(s.arg.name for s in specs if s.kind.name == "USER_INPUT")))


def example_of_onnx(path: Path, shapes: Shapes, data: str | None) -> Example:
    """Return inputs of the given shapes, else of those of a few real samples.

    Raises:
        UserError: the model or the data cannot be read.
    """
    inputs = None
    if data:
        structure = onnx_structure(path)
        axes = batch_axes(structure).inputs
        inputs = load_data(data, axes).feed(tuple(axes))
        shapes = shapes or list(few_samples(structure, inputs).values())
    return Example([np.empty(shape) for shape in shapes] or None, inputs)


def _real_data(source: str | None, names: tuple[str, ...]) -> dict[str, Array] | None:
    if source is None:
        return None
    data = load_data(source)
    return data.feed(names or tuple(data.inputs))


def _input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Return the first ``count`` parameters of ``forward``; for 0, those without a default."""
    parameters = forward_parameters(module)
    return tuple(parameters)[:count] if count else tuple(name for name, optional in parameters.items() if not optional)
