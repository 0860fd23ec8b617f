"""Train the demo's dense and gated network on scikit-learn's digits and print their accuracy.

    python samples/digits/train.py

It writes ``dense.pt`` and ``lccl.pt`` beside this file, and prints the gated network's density per
layer. The gated network starts from the dense one's weights, learns from its outputs (distillation)
in addition to the labels, and keeps its gates near a chosen density. The files are reproducible on
one machine with one seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lccl
from data import IMAGE_SHAPE, held_out, train_set
from lccl.models.resnet import cifar_resnet
from lccl.train import DensityLoss

FACTORY = "lccl.models.resnet:cifar_resnet"
NETWORK: dict[str, Any] = {"depth": 14, "width": 12, "in_channels": 1, "num_classes": 10}
DENSE = NETWORK | {"gated": "none"}
GATED = NETWORK | {"gated": "first", "gate": "kxk"}
BATCH = 64
DENSITY_WEIGHT = 2.0
TEACHER_WEIGHT, TEMPERATURE = 0.7, 2.0


def augment(images: Tensor) -> Tensor:
    """Shift a batch [N, 1, 16, 16] by up to two pixels."""
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    return F.pad(images, (2, 2, 2, 2), value=-1.0)[:, :, 2 + dy : 18 + dy, 2 + dx : 18 + dx]


def train(model: nn.Module, epochs: int, teacher: nn.Module | None = None, density: float | None = None) -> None:
    """Train a model by SGD with a one-cycle learning rate; it ends in eval mode.

    Args:
        model: the network.
        epochs: passes over the training images.
        teacher: a network in eval mode, whose outputs the model learns in addition to the labels.
        density: the density of every gate to aim at.
    """
    images, labels = (torch.from_numpy(a) for a in train_set())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * -(-len(images) // BATCH))
    density_loss = DensityLoss(model, density) if density is not None else None
    model.train()
    for epoch in range(epochs):
        for batch in torch.split(torch.randperm(len(images)), BATCH):
            x = augment(images[batch])
            logits = model(x)
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            if teacher is not None:
                loss = (1 - TEACHER_WEIGHT) * loss + TEACHER_WEIGHT * distillation(logits, teacher, x)
            if density_loss is not None:
                loss = loss + DENSITY_WEIGHT * density_loss()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        show_progress(f"  epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}", last=epoch + 1 == epochs)
    if density_loss is not None:
        density_loss.close()
    model.eval()


def distillation(logits: Tensor, teacher: nn.Module, x: Tensor) -> Tensor:
    """Return the distillation loss of Hinton et al. (arXiv 1503.02531)."""
    with torch.no_grad():
        target = F.softmax(teacher(x) / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), target, reduction="batchmean")


def start_from(gated: nn.Module, dense: nn.Module) -> None:
    """Load the dense network's weights into the gated one; only the gates keep their own."""
    state = gated.state_dict()
    for name, tensor in dense.state_dict().items():
        # A dense conv1 is a sequence (convolution, norm); a gated one names its parts.
        state[name.replace("conv1.0.", "conv1.conv.").replace("conv1.1.", "conv1.norm.")] = tensor
    gated.load_state_dict(state)


def show_progress(text: str, *, last: bool) -> None:
    """Overwrite one line of progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if last else "", file=sys.stderr)


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the top-1 accuracy on the held-out images, from 0 to 1."""
    images, labels = held_out()
    predictions = model(torch.from_numpy(images)).argmax(1).numpy()
    return float(np.mean(predictions == labels))


def report(name: str, model: nn.Module, seconds: float, path: Path) -> None:
    """Print a network's accuracy, training time and file."""
    images, _ = held_out()
    print(
        f"{name}: top-1 {accuracy(model):.2%} of {len(images)} held-out images, trained in {seconds:.0f} s -> {path}",
        flush=True,
    )


def main() -> None:
    """Train and save both networks, and print the gated one's profile."""
    parser = argparse.ArgumentParser(description="Train the demo's dense and LCCL networks on scikit-learn's digits.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for dense.pt and lccl.pt")
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--density", type=float, default=0.32, help="target of every gate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    started = time.perf_counter()
    dense = cifar_resnet(**DENSE)
    train(dense, options.epochs)
    lccl.save_checkpoint(options.out / "dense.pt", dense, FACTORY, DENSE, IMAGE_SHAPE)
    report("dense", dense, time.perf_counter() - started, options.out / "dense.pt")

    started = time.perf_counter()
    gated = cifar_resnet(**GATED)
    start_from(gated, dense)
    train(gated, options.epochs, teacher=dense, density=options.density)
    lccl.save_checkpoint(options.out / "lccl.pt", gated, FACTORY, GATED, IMAGE_SHAPE)
    report("lccl", gated, time.perf_counter() - started, options.out / "lccl.pt")
    print(lccl.profile(gated, [torch.from_numpy(held_out()[0])]))


if __name__ == "__main__":
    main()
