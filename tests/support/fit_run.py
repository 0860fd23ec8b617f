"""A short training by lccl.train.fit, as a program: killed in the middle, or in two processes.

python fit_run.py kill FOLDER       # ends itself with SIGKILL at step 12
python fit_run.py two FOLDER        # starts a second process; the first writes FOLDER/two.pt
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lccl
from lccl.train import FitResult, fit

KILLED_AT = 12


class Noisy(Dataset[Any]):
    """Images whose transforms draw from all three global generators."""

    def __init__(self, inside: TensorDataset) -> None:
        self.inside = inside

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Return an image with noise, and its class."""
        x, y = self.inside[index]
        return x + 0.01 * torch.randn(()) + 0.01 * random.random() + 0.01 * float(np.random.rand()), y


def network() -> nn.Module:
    """Return a network with two gates."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d
    parts = [nn.Conv2d(3, 6, 3, padding=1), norm(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), norm(6), nn.ReLU()]
    parts += [nn.Conv2d(6, 6, 3, padding=1), norm(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return lccl.nn.convert(nn.Sequential(*parts), where=["3", "6"])


def data(batch: int, *, shuffle: bool) -> DataLoader[Any]:
    """Return 96 images whose class is the brightest channel."""
    x = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1)).relu()
    images = TensorDataset(x, x.mean((2, 3)).argmax(1))
    if not shuffle:
        return DataLoader(images, batch)
    return DataLoader(Noisy(images), batch, shuffle=True, generator=torch.Generator())


def run(model: nn.Module, folder: Path | None = None, killed_at: int | None = None, **options: Any) -> FitResult:
    """Train for three epochs of six steps."""
    calls = 0

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return F.cross_entropy(outputs + 0.01 * torch.randn_like(outputs), labels)  # draws random numbers

    settings = {"epochs": 3, "target": 0.4, "loss": loss, "save_every": 4, "score": lambda m: -float(m[0].weight.sum())}
    return fit(model, data(16, shuffle=True), checkpoint=folder / "state.pt" if folder else None, **settings | options)


def main() -> None:
    """Do what the command line says."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "kill":
        run(network(), folder, killed_at=KILLED_AT)
        return
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    found = {}
    for frozen in (True, False):
        model = network()
        result = fit(
            model,
            data(8, shuffle=False),
            epochs=3,
            target=0.4,
            fabric=fabric,
            lr=0.02,
            freeze_norms=frozen,
            checkpoint=folder / f"{frozen}.pt",
        )
        found[frozen] = (model.state_dict(), dict(result.densities))
    if fabric.is_global_zero:
        torch.save(found, folder / "two.pt")


if __name__ == "__main__":
    main()
