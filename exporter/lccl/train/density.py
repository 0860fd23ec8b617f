"""A loss that keeps each gate near a chosen density.

BatchNorm and ReLU alone leave half of the pixels open, or more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lccl.errors import UserError
from lccl.errors.arguments import MODULE, NUMBER, takes
from lccl.nn.gate import Gate
from lccl.torch_calls import unwrapped


class DensityLossError(UserError, ValueError):
    """A density loss for what has no density, or without a forward pass."""


class DensityLoss:
    """The mean over the gates of (density - target)^2, to be added to the task's loss.

    A :class:`DensitySchedule` gives densities instead of asking for them, and needs no weight: it
    is the one to start with. This loss moves only gates that are near their edge, so that gates
    that start open may stay so.

    A gate's density is the fraction of its logits above 0, with the gradient of a sigmoid instead
    of the step's. The sigmoid is as wide as the normalized logits, since under a steep one a gate
    that is all open or all closed has no gradient. The loss penalizes densities on both sides of
    the target, since one that only decreases them can close a gate for good.

    Usage: call the model in training mode, then the loss, once per step::

        density_loss = DensityLoss(model, target=0.3)
        loss = F.cross_entropy(model(x), y) + 2 * density_loss()

    A pass that activation checkpointing repeats does not count again; checkpoints with
    ``use_reentrant=True`` are refused, since their first pass has no gradient. A copy of the model
    does not belong to the loss. With ``torch.compile``, make the loss before the model's first
    call.

    Args:
        model: a network with gates, on which forward hooks are registered.
        target: the density of every gate, between 0 and 1.

    Raises:
        DensityLossError: the target is out of range, or the model has no gate. It is a ValueError.
    """

    @takes(model=MODULE, target=NUMBER)
    def __init__(self, model: nn.Module, target: float) -> None:
        if not 0 < target < 1:
            raise DensityLossError(f"target is a density between 0 and 1, not {target}")
        self.target = target
        gates = [m for m in unwrapped(model).modules() if isinstance(m, Gate)]
        if not gates:
            raise DensityLossError("the model has no gate, so there is no density to hold")
        self._collector = _Collector()
        self._handles = [gate.register_forward_hook(self._collector) for gate in gates]

    def __call__(self) -> Tensor:
        """Return the loss of the forward passes since the last call.

        Raises:
            DensityLossError: there was no forward pass in training mode, or one without gradients
                within a step that has them. It is a ValueError.
        """
        found, self._collector.densities = self._collector.densities, []
        if not found:
            raise DensityLossError(
                "no forward pass in training mode since the last call; a model that torch.compile had compiled before the loss "
                "was made does not tell it: make the loss before the model's first call"
            )
        if torch.is_grad_enabled() and not all(with_gradient for _, with_gradient in found):
            raise DensityLossError(
                "a forward pass ran without gradients, so the loss would not reach its gates: within torch.utils.checkpoint, "
                "take use_reentrant=False"
            )
        return torch.stack([(d - self.target) ** 2 for d, _ in found]).mean()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._collector.densities = []


class _Collector:
    """The hook on every gate. A copy of the network gets one that collects nothing."""

    observes = True

    def __init__(self, active: bool = True) -> None:
        self.densities: list[tuple[Tensor, bool]] = []
        """Each with whether its pass had gradients."""
        self._active = active

    def __call__(self, gate: nn.Module, _inputs: Any, logits: Tensor) -> None:
        if not self._active or not gate.training:
            return
        surrogate = torch.sigmoid(logits).mean()
        density = (logits > 0).to(surrogate.dtype).mean()
        if _in_backward_pass():
            return  # and not before: a checkpoint compares what both passes save
        self.densities.append((surrogate + (density - surrogate).detach(), torch.is_grad_enabled()))

    def __deepcopy__(self, _memo: object) -> _Collector:
        return _Collector(active=False)

    def __reduce__(self) -> tuple[type[_Collector], tuple[bool]]:
        return _Collector, (False,)


def _in_backward_pass() -> bool:
    """Return whether autograd is running, which calls a network where it computes it again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined]
