"""Multiply-accumulates of a network on an example input, and its outputs to hold a conversion against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lccl.errors import UserError, first_line
from lccl.text import count
from lccl.torch_calls import evaluating, flatten, layer_macs

Example = Tensor | Sequence[Any] | Mapping[str, Any]
_TOLERANCE = 1e-4
"""Allowed error of a converted network's outputs, relative to max(0.01, largest output), in float32."""
_TOLERANCE_LOW_PRECISION = 2e-2


@dataclass(frozen=True)
class Work:
    """What one pass over the example does, per image."""

    macs: Mapping[str, int]
    """Layer name -> multiply-accumulates, of every layer that multiplies."""
    output_hw: Mapping[str, tuple[tuple[int, int], ...]]
    """Convolution's name -> height and width of its output, once per call."""
    outputs: tuple[Tensor, ...]


def run(model: nn.Module, example: Example) -> tuple[Tensor, ...]:
    """The outputs in eval mode, in order.

    Args:
        example: the one input, a list of positional ones, or a dict of named ones.

    Raises:
        UserError: the network does not run on it.
    """
    args: tuple[Any, ...] = () if isinstance(example, Mapping) else (example,) if isinstance(example, Tensor) else (*example,)
    kwargs = dict(example) if isinstance(example, Mapping) else {}
    try:
        with evaluating(model), torch.no_grad():
            return tuple(flatten(model(*args, **kwargs)))
    except UserError:
        raise
    except Exception as error:  # whatever the network's code raises
        raise UserError(f"the network does not run on the example: {first_line(error)}") from error


def measure(model: nn.Module, example: Example) -> Work:
    """Runs the network once in eval mode and counts.

    Raises:
        UserError: the network does not run on the example.
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
        outputs = run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return Work(macs, output_hw, outputs)


@contextmanager
def calls(layers: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """The names of those layers that are called within the block."""
    called: set[str] = set()
    handles = [layer.register_forward_hook(lambda *_, name=name: called.add(name)) for name, layer in layers.items()]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def hold(expected: Sequence[Tensor], got: Sequence[Tensor]) -> None:
    """Holds a converted network's outputs against the dense network's.

    Raises:
        UserError: they differ.
    """
    if len(expected) != len(got):
        raise UserError(
            f"the network gave {count(len(expected), 'output')} before the conversion and {len(got)} after it, for the same "
            "example: convert it without the example, or mend its code"
        )
    for before, after in zip(expected, got, strict=True):
        if before.is_floating_point() and before.numel():
            allowed = _TOLERANCE if before.dtype in (torch.float32, torch.float64) else _TOLERANCE_LOW_PRECISION
            error = float((before - after).abs().max()) if before.shape == after.shape else float("inf")
            if not error <= allowed * max(0.01, float(before.abs().max())):
                raise UserError(
                    f"the converted network's outputs differ from the dense network's by {error:.2g}: its code uses a "
                    "convolution or norm in another way than by calling it; name those to convert in a list as where"
                )
