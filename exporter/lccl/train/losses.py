"""Losses for training beside the task's own: distillation from the dense network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lccl.errors import UserError, shown
from lccl.errors.arguments import NUMBER, instance_of, takes

_TENSOR = instance_of("torch", "Tensor", "a tensor")


@takes(outputs=_TENSOR, teacher=_TENSOR, temperature=NUMBER)
def distillation_loss(outputs: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the distillation loss of Hinton et al. (arXiv 1503.02531).

    It is the KL divergence of the softened classes, times the temperature's square, so that its
    gradients stay as large as those of cross-entropy.

    Args:
        outputs: the network's logits [N, classes, ...], classes in the second dimension.
        teacher: the dense network's, of the same shape; no gradient goes into them.
        temperature: above 0; higher ones also teach which wrong classes are near.

    Returns:
        The mean over samples and positions, a scalar.

    Raises:
        UserError: shapes differ or have no classes, or the temperature is not above 0.
    """
    if outputs.shape != teacher.shape or outputs.dim() < 2:
        raise UserError(
            f"distillation takes two [N, classes, ...] of one shape, not {list(outputs.shape)} and {list(teacher.shape)}"
        )
    if not 0 < temperature < 1e9:
        raise UserError(f"a temperature is above 0 and below a billion, not {shown(temperature)}")
    own = F.log_softmax(outputs.float() / temperature, dim=1)
    other = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    return temperature**2 * F.kl_div(own, other, reduction="none", log_target=True).sum(1).mean()
