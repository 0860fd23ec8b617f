"""Calling a PyTorch model from outside: in eval mode for a while, its outputs in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree


def flatten(outputs: Any) -> list[Tensor]:
    """A model's outputs in order, whatever they are nested in; bfloat16, which NumPy lacks, as float32."""
    tensors = [t for t in _pytree.tree_leaves(outputs) if isinstance(t, Tensor)]
    return [t.float() if t.dtype == torch.bfloat16 else t for t in tensors]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode within the block, every module back in its own mode after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
