"""Checks of a loaded network's weights for NaN, infinity and negative variances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lccl.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def bad_weight(path: Path, name: str, what: str) -> UserError:
    """Make the error for an unsound weight of a file.

    ``what`` says what it holds, such as "NaN".
    """
    return UserError(f"{path}: {name} holds {what}; the training went wrong: use an earlier checkpoint")


def require_no_nan(state: Mapping[str, object], path: Path) -> None:
    """Refuse a state dict with NaN in it.

    Raises:
        UserError: a tensor holds NaN.
    """
    import torch

    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise bad_weight(path, name, "NaN")


def require_sound(module: nn.Module, path: Path) -> None:
    """Refuse a network with unsound weights.

    Raises:
        UserError: a weight holds NaN or infinity, or a variance is below 0.
    """
    from lccl.torch_calls import unsound_weight

    broken = unsound_weight(module)
    if broken is not None:
        raise UserError(f"{path}: {broken}; the training went wrong: use an earlier checkpoint")
