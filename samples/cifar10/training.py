"""What every training on CIFAR-10 shares: batches, accuracy, and a loop for networks without a target."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lccl.console.progress import Progress, silent
from lccl.files import atomic_path
from samples.cifar10.data import Split, normalized

IMAGE = (1, 3, 32, 32)
BATCH = 128
SAVE_EVERY = 50
"""Steps after which the state is saved."""


class Batches:
    """Augmented batches of the training images, in another order in each epoch."""

    def __init__(self, split: Split) -> None:
        self._images, self._labels = (torch.from_numpy(a) for a in split)

    def __len__(self) -> int:
        return len(self._labels) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give pairs of images [128, 3, 32, 32] and classes [128]."""
        return self.after(0)

    def after(self, skipped: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches behind the first ones, in the order that the generator draws."""
        order = torch.randperm(len(self._labels))  # now, not with the first batch
        return (self._batch(order[i * BATCH : (i + 1) * BATCH]) for i in range(skipped, len(self)))

    def _batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return ready(augmented(self._images[chosen])), self._labels[chosen]


def augmented(images: Tensor) -> Tensor:
    """Mirror half of the images, and shift each by up to four pixels."""
    count = len(images)
    mirrored = torch.where((torch.rand(count) < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    padded = F.pad(mirrored, (4, 4, 4, 4))
    rows, columns = (torch.randint(0, 9, (count, 1)) + torch.arange(32) for _ in range(2))
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def ready(images: Tensor) -> Tensor:
    """Turn images [N, 3, 32, 32] of 0 to 255 into what the networks take."""
    return torch.from_numpy(normalized(images.numpy())).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Return top-1 from 0 to 1."""
    right = 0
    for i in range(0, len(split.labels), 500):
        logits = model(ready(torch.from_numpy(split.images[i : i + 500])))
        right += int((logits.argmax(1).numpy() == split.labels[i : i + 500]).sum())
    return right / len(split.labels)


def trained(
    model: nn.Module,
    split: Split,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    rates: torch.optim.lr_scheduler.LRScheduler,
    *,
    seed: int,
    state: Path,
    teacher_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: Progress = silent,
) -> float:
    """Train a network whose density nobody sets: a dense one, or one with the paper's gates.

    It goes on where it was stopped, with the same random numbers.

    Args:
        model: in place, left in eval mode.
        split: images and classes.
        epochs: passes over them.
        optimizer: of its parameters.
        rates: of the optimizer, which take a step after each of its steps.
        seed: of the order of images and their augmentation.
        state: the file of the state, which is there at the end too, until its caller is done.
        teacher_loss: of images and logits, added to the cross-entropy.
        progress: called with each step.

    Returns:
        The seconds of the training, those before a stop included.
    """
    batches = Batches(split)
    done, before = 0, 0.0
    drawn: dict[str, Any] | None = None
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        rates.load_state_dict(saved["rates"])
        done, before, drawn = saved["done"], saved["seconds"], saved
    began, end = time.monotonic(), epochs * len(batches)
    model.train()
    while done < end:
        epoch, skipped = divmod(done, len(batches))
        torch.manual_seed(seed + 1_000_003 * (epoch + 1))
        given = batches.after(skipped)
        if drawn is not None and skipped:
            torch.set_rng_state(drawn["random"])
        drawn = None
        for x, y in given:
            progress(f"epoch {epoch + 1} of {epochs}", done % len(batches), len(batches))
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            if teacher_loss is not None:
                loss = loss + teacher_loss(x, logits)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
            done += 1
            if done % SAVE_EVERY == 0 or done == end:
                parts = {"model": model, "optimizer": optimizer, "rates": rates}
                _save(state, parts, done, before + time.monotonic() - began)
    model.eval()
    return before + time.monotonic() - began


def _save(state: Path, parts: Mapping[str, Any], done: int, seconds: float) -> None:
    content = {name: part.state_dict() for name, part in parts.items()}
    with atomic_path(state) as temporary:
        torch.save({**content, "done": done, "seconds": seconds, "random": torch.get_rng_state()}, temporary)


def seeded(seed: int) -> None:
    """Set every generator of random numbers."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
