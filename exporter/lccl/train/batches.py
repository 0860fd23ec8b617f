"""What callers give to functions of this package: batches, a loss, a score; checked and called."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lccl.errors import UserError, first_line, kind_of
from lccl.profiling.of_module import call_model, model_inputs


def batch_list(batches: Iterable[object], wanted: str) -> list[object]:
    """Return the batches as a list.

    Args:
        batches: any iterable; a tensor is one batch by itself, and refused.
        wanted: what cannot be done without a batch, for the message.

    Raises:
        UserError: it is no iterable of batches, or it is empty.
    """
    if isinstance(batches, (str, bytes, Tensor)) or hasattr(batches, "__array__"):
        raise UserError(f"batches are a list, a DataLoader or another iterable of batches, not {kind_of(batches)}")
    try:
        found = list(batches)
    except TypeError:
        raise UserError(f"batches are a list, a DataLoader or another iterable of batches, not {kind_of(batches)}") from None
    if not found:
        raise UserError(f"there is no batch, so {wanted}")
    return found


def pair_list(batches: Iterable[object], wanted: str, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return batches that are pairs of an input and a target, on a device, without empty ones.

    Raises:
        UserError: one is something else, or there is none.
    """
    pairs = []
    for batch in batch_list(batches, wanted):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
            raise UserError(f"batches are pairs of an input and a target here, both tensors, not {kind_of(batch)}")
        x, y = batch
        if not x.dim() or not y.dim() or len(x) != len(y):
            raise UserError(
                f"an input and its target have one first dimension, the batch, not {list(x.shape)} and {list(y.shape)}"
            )
        if len(x):
            pairs.append((x.to(device), y.to(device)))
    if not pairs:
        raise UserError(f"there is no batch, so {wanted}")
    return pairs


def run_batch(model: nn.Module, batch: object) -> object:
    """Return the network's outputs for a batch, which is brought to its device.

    Raises:
        UserError: the batch does not fit it.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    args, kwargs = model_inputs(batch, like.dtype)
    return call_model(model, tuple(a.to(like.device) for a in args), {name: a.to(like.device) for name, a in kwargs.items()})


def loss_of(loss: Callable[..., Tensor], outputs: object, target: Tensor) -> Tensor:
    """Return what a caller's loss gives for a batch.

    Raises:
        UserError: it raises, or gives no scalar tensor.
    """
    try:
        value = loss(outputs, target)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the loss raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UserError(f"a loss returns a tensor with one number, the mean over samples, not {kind_of(value)}")
    return value


def score_of(score: Callable[[nn.Module], float], network: nn.Module) -> float:
    """Return what a caller's score gives for a network.

    Raises:
        UserError: it raises, or gives no number.
    """
    try:
        return float(score(network))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the score raised {type(error).__name__}, or is no number: {first_line(error)}") from error
