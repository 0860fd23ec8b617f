"""A loss that holds each gate near a chosen density. BatchNorm and ReLU alone leave half and more of the pixels on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lccl.nn.gate import Gate


class DensityLoss:
    """Mean over the gates of (density - target)^2, to be added to the task's loss.

    The density of a gate is the fraction of its logits above 0, with the gradient of a sigmoid in the step's place. That
    sigmoid is wide (its scale is that of the normed logits): a steep one gives a gate that is all open or all closed no
    way back. The loss is two-sided for the same reason: one that only pushes down can close a gate for good.

    Usage: call the model in training mode, then the loss, once per step::

        density_loss = DensityLoss(model, target=0.3)
        loss = F.cross_entropy(model(x), y) + 2 * density_loss()
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

    def _collect(self, gate: nn.Module, _inputs: Any, logits: Tensor) -> None:
        if gate.training:
            soft = torch.sigmoid(logits).mean()
            self._densities.append(soft + ((logits > 0).to(soft.dtype).mean() - soft).detach())

    def __call__(self) -> Tensor:
        """The loss of the forward passes since the last call."""
        if not self._densities:
            raise ValueError("no forward pass in training mode since the last call")
        loss = torch.stack([(d - self.target) ** 2 for d in self._densities]).mean()
        self._densities.clear()
        return loss

    def close(self) -> None:
        """Removes the hooks; the model can then be copied and saved without this object."""
        for handle in self._handles:
            handle.remove()
        self._densities.clear()
