"""Runs of a network on an example input: MACs, outputs and their comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lccl.console.text import count
from lccl.errors import UserError, first_line, kind_of
from lccl.torch_calls import evaluating, flatten, layer_macs

ExampleArgs = Tensor | Sequence[object] | Mapping[str, object]
"""An example input as a caller gives it; see :func:`inputs_of`."""
TOLERANCE = 1e-4
"""Allowed error of a converted network's outputs in float32, relative to max(0.01, largest
output)."""
TOLERANCE_LOW_PRECISION = 2e-2
"""The same in float16 and bfloat16."""
LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Work:
    """What one pass over the example input computes, per image."""

    macs: Mapping[str, int]
    """Multiply-accumulates by layer name, for every convolution and linear layer."""
    output_hw: Mapping[str, tuple[tuple[int, int], ...]]
    """Height and width of the output by the convolution's name, one pair per call."""
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a network."""

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)


def inputs_of(args: ExampleArgs, model: nn.Module) -> Inputs:
    """Turn an example input, as a caller gives it, into the arguments of a call.

    Args:
        args: one input with its batch, the shape of one (random values are drawn), a list of
            positional inputs or a dict of named ones.
        model: gives the device and the type of random values.

    Raises:
        UserError: the example has another form.
    """
    if isinstance(args, Mapping):
        return Inputs(kwargs={str(name): _tensor(value) for name, value in args.items()})
    if hasattr(args, "__array__"):
        return Inputs((_tensor(args),))
    if not isinstance(args, Sequence) or isinstance(args, (str, bytes)):
        raise UserError(
            f"an example is an input with its batch or the shape of one, a list of inputs or a dict, not {kind_of(args)}"
        )
    shape = [size for size in args if type(size) is int]
    if not args or len(shape) < len(args):
        return Inputs(tuple(map(_tensor, args)))
    if min(shape) < 1:
        raise UserError(f"the shape of an example has numbers above 0, such as (1, 3, 224, 224), not {tuple(shape)}")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return Inputs((torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype),))


def _tensor(value: object) -> object:
    """Turn an array into a tensor; leave anything else to the network.

    Raises:
        UserError: an array without numbers in it.
    """
    if not hasattr(value, "__array__"):
        return value
    try:
        tensor = torch.as_tensor(value)
    except Exception as error:
        raise UserError(f"an example is a tensor or an array of numbers: {first_line(error)}") from None
    if tensor.is_meta:
        raise UserError("an example has values, which a meta tensor has not: give torch.randn of its shape")
    return tensor


def run(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Run the network in eval mode and return its output tensors in order.

    Random numbers are seeded, so that two runs give the same outputs.

    Raises:
        UserError: the network does not run on the inputs.
    """
    try:
        with evaluating(model), torch.no_grad(), _same_random_numbers():
            return tuple(flatten(model(*inputs.args, **inputs.kwargs)))
    except UserError:
        raise
    except Exception as error:  # whatever the network's code raises
        raise UserError(f"the network does not run on args: {first_line(error)}") from error


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Seed the random number generators within the block, and restore them after it."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = [*range(torch.cuda.device_count())] if used else []
    with torch.random.fork_rng(devices=devices):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in devices)):
            generator.manual_seed(0)
        yield


def measure(model: nn.Module, inputs: Inputs) -> Work:
    """Run the network once in eval mode and count its multiply-accumulates.

    Raises:
        UserError: the network does not run on the inputs.
    """
    macs: dict[str, int] = {}
    output_hw: dict[str, tuple[tuple[int, int], ...]] = {}

    def counting(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            macs[name] = macs.get(name, 0) + layer_macs(module, args, output)
            if output.dim() == 4:
                output_hw[name] = (*output_hw.get(name, ()), (output.shape[2], output.shape[3]))

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, (_ConvNd, nn.Linear))]
    handles = [module.register_forward_hook(counting(name)) for name, module in layers]
    try:
        outputs = run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Work(macs, output_hw, outputs)


@contextmanager
def calls(layers: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """Collect the names of those layers that are called within the block."""
    called: set[str] = set()
    handles = [layer.register_forward_hook(lambda *_, name=name: called.add(name)) for name, layer in layers.items()]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def require_same_outputs(expected: Sequence[Tensor], got: Sequence[Tensor], tolerance: float) -> None:
    """Compare a converted network's outputs with the dense network's.

    Args:
        expected: the dense network's outputs.
        got: the converted network's outputs.
        tolerance: the allowed error, relative to max(0.01, largest output).

    Raises:
        UserError: the outputs differ or cannot be compared.
    """
    if not expected:
        raise UserError("the network's output holds no tensor to compare: return tensors, in tuples, lists or dicts")
    if len(expected) != len(got):
        raise UserError(
            f"the network gave {count(len(expected), 'output')} before the conversion and {len(got)} after it, for the same "
            "example: convert it without the example, or fix its code"
        )
    for before, after in zip(expected, got, strict=True):
        if before.is_floating_point() and before.numel():
            if bool(before.isnan().any()):
                raise UserError("the network gives NaN for the example, so its outputs cannot be compared: use another example")
            error = float(_difference(before, after).max()) if before.shape == after.shape else float("inf")
            finite = before[before.isfinite()].abs()
            if not error <= tolerance * max(0.01, float(finite.max()) if finite.numel() else 0.0):
                raise UserError(
                    f"the converted network's outputs differ from the dense network's by {error:.2g}: its code uses a "
                    "convolution or norm in another way than by calling it; give where as a list of those to convert"
                )


def _difference(before: Tensor, after: Tensor) -> Tensor:
    """Return |before - after|, which is 0 where both are the same infinity, as in masked scores."""
    return torch.where(before == after, 0, (before - after).abs())
