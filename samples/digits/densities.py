"""Compare ways to train the digits' network to a density: the schedule's forms, and the loss.

    python samples/digits/densities.py

Each starts from ``dense.pt``, whose convolutions it gates by lccl.nn.convert, and is trained with
the same images, seed, learning rate and distillation. It prints a row of a table for each.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import lccl
from data import held_out, train_set
from lccl.train import DensityLoss, DensitySchedule, fit_gates, parameter_groups
from train import BATCH, TEACHER_WEIGHT, accuracy, augment, distillation

LR, WEIGHT_DECAY = 0.05, 5e-4


@dataclass(frozen=True)
class Way:
    """One way to train to a density."""

    name: str
    loss_weight: float | None = None
    """Of DensityLoss; None: a DensitySchedule."""
    activation: Any = "relu"
    fitted: bool = False
    learned: bool = False


WAYS = (
    Way("DensityLoss, weight 2", 2.0),
    Way("DensityLoss, weight 20", 20.0),
    Way("DensitySchedule"),
    Way("DensitySchedule, binary gates", activation="binary"),
    Way("DensitySchedule, fitted start", fitted=True),
    Way("DensitySchedule, shares learned", learned=True),
)


def train(way: Way, target: float, epochs: int, seed: int) -> torch.nn.Module:
    """Gate the dense network and train it; it ends in eval mode."""
    torch.manual_seed(seed)
    dense = lccl.load_checkpoint(Path(__file__).parent / "dense.pt")
    model = lccl.nn.convert(dense, gate_activation=way.activation).train()
    images, labels = (torch.from_numpy(a) for a in train_set())
    per_epoch = -(-len(images) // BATCH)
    if way.fitted:
        fit_gates(model, [images[:500]])
    penalty = DensityLoss(model, target) if way.loss_weight is not None else None
    schedule = None
    if penalty is None:
        last = (epochs - 1) * per_epoch
        schedule = DensitySchedule(model, target, epochs * per_epoch // 2, learned=way.learned, freeze_after=last)
    groups: Any = parameter_groups(model, LR, WEIGHT_DECAY) if schedule else model.parameters()
    optimizer = torch.optim.SGD(groups, LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    rates = [group["lr"] for group in optimizer.param_groups]
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=epochs * per_epoch)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images)), BATCH):
            x = augment(images[batch])
            logits = model(x)
            loss = (1 - TEACHER_WEIGHT) * F.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            loss = loss + TEACHER_WEIGHT * distillation(logits, dense, x)
            if penalty is not None and way.loss_weight is not None:
                loss = loss + way.loss_weight * penalty()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            rate.step()
            if schedule is not None:
                schedule.step()
    return model.eval()


def main() -> None:
    """Train each way and print its row."""
    parser = argparse.ArgumentParser(description="Compare ways to train the digits' network to a density.")
    parser.add_argument("--target", type=float, default=0.15, help="density of every gate (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the ways whose name contains this")
    options = parser.parse_args()
    print("| way | top-1 | mean density | lowest | highest |\n|---|---|---|---|---|")
    for way in WAYS:
        if options.only and options.only not in way.name:
            continue
        model = train(way, options.target, options.epochs, options.seed)
        profile = lccl.profile(model, [torch.from_numpy(held_out()[0])])
        densities = [layer.density for layer in profile.gated if layer.density is not None]
        print(
            f"| {way.name} | {accuracy(model):.2%} | {sum(densities) / len(densities):.3f} | {min(densities):.2f} | {max(densities):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
