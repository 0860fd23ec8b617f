"""A loss that keeps each gate near a chosen density.

BatchNorm and ReLU alone leave half of the pixels open, or more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lccl.nn.gate import Gate
from lccl.nn.parts import observes


class DensityLoss:
    """The mean over the gates of (density - target)^2, to be added to the task's loss.

    A gate's density is the fraction of its logits above 0, with the gradient of a sigmoid instead
    of the step's. The sigmoid is as wide as the normalized logits, since under a steep one a gate
    that is all open or all closed has no gradient. The loss penalizes densities on both sides of
    the target, since one that only decreases them can close a gate for good.

    Usage: call the model in training mode, then the loss, once per step::

        density_loss = DensityLoss(model, target=0.3)
        loss = F.cross_entropy(model(x), y) + 2 * density_loss()

    Args:
        model: a network with gates, on which forward hooks are registered.
        target: the density of every gate, between 0 and 1.

    Raises:
        ValueError: the target is out of range, or the model has no gate.
    """

    def __init__(self, model: nn.Module, target: float) -> None:
        if not 0 < target < 1:
            raise ValueError(f"target is a density between 0 and 1, not {target}")
        self.target = target
        self._densities: list[Tensor] = []
        gates = [m for m in model.modules() if isinstance(m, Gate)]
        if not gates:
            raise ValueError("the model has no gate, so there is no density to hold")
        self._handles = [gate.register_forward_hook(self._collect) for gate in gates]

    @observes
    def _collect(self, gate: nn.Module, _inputs: Any, logits: Tensor) -> None:
        if gate.training:
            surrogate = torch.sigmoid(logits).mean()
            density = (logits > 0).to(surrogate.dtype).mean()
            self._densities.append(surrogate + (density - surrogate).detach())

    def __call__(self) -> Tensor:
        """Return the loss of the forward passes since the last call.

        Raises:
            ValueError: there was no forward pass in training mode.
        """
        if not self._densities:
            raise ValueError("no forward pass in training mode since the last call")
        loss = torch.stack([(d - self.target) ** 2 for d in self._densities]).mean()
        self._densities.clear()
        return loss

    def close(self) -> None:
        """Remove the hooks, so that the model can be copied and saved without this object."""
        for handle in self._handles:
            handle.remove()
        self._densities.clear()
