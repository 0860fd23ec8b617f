"""The unfolded maths of a network's layers, which folded forms are held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lccl.nn.conv import LCCLConv2d
from lccl.nn.gate import GateMode


@contextmanager
def plain_maths(model: nn.Module, gates: GateMode) -> Iterator[None]:
    """Make every LCCLConv2d compute unfolded, in PyTorch's own layers, within the block.

    Checks use it as the reference for the folded form.

    Args:
        gates: how the gates are evaluated; see :data:`GateMode`.
    """
    layers = [m for m in model.modules() if isinstance(m, LCCLConv2d)]
    before = [layer.plain_gates for layer in layers]
    for layer in layers:
        layer.plain_gates = gates
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.plain_gates = value
