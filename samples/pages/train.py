"""Train the page reader, dense and with gates, and print F1 over the digits of the held-out pages.

    python samples/pages/train.py dense
    python samples/pages/train.py pixel
    python samples/pages/train.py grid

Each writes its checkpoint (``dense.pt``, ``pixel.pt``, ``grid.pt``), a line of results and the
course of its training as JSON beside this file. The gated networks start from ``dense.pt``, learn from its outputs in addition to
the labels (distillation), and their gates close, step by step, until the network keeps to its
budget. Training pages are made as they are needed, from the step's number, so a run that was
stopped goes on where it was: it saves its state every few minutes under ``build/pages``.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import lccl  # noqa: E402
from lccl.errors import UserError  # noqa: E402
from lccl.train import DensitySchedule, fit_gates, macs_budget, parameter_groups  # noqa: E402
from samples.pages.data import held_out, page, scans  # noqa: E402
from samples.pages.network import STRIDE, page_reader  # noqa: E402
from samples.pages.score import f1  # noqa: E402

FACTORY = "samples.pages.network:page_reader"
PAGE = (1, 256, 256)
GATES: dict[str, dict[str, Any]] = {"pixel": {"gate": "kxk"}, "grid": {"gate": "grid", "gate_size": 2}}
FRACTIONS = {"pixel": 0.15, "grid": 0.22}
"""MACs to keep of the dense network's: what each kind of gate can do without losing digits."""
SIDE = 128
"""Training pages are smaller than those that are read: the network is convolutional throughout."""
BATCH = 16
SPREAD = 1.0
"""Standard deviation, in pixels of the output, of the target around a centre."""
TEACHER_WEIGHT = 1.0
SAVE_EVERY = 120.0
"""Seconds."""


class Batch(NamedTuple):
    """Pages [N, 1, SIDE, SIDE] and what their heat maps should be [N, 10, SIDE / 4, SIDE / 4]."""

    pages: Tensor
    target: Tensor


def make_batch(seed: int, step: int) -> Batch:
    """Make the training pages of one step, always the same."""
    rng = np.random.default_rng([seed, 2, step])
    made = [page(rng, scans(held_out=False), SIDE) for _ in range(BATCH)]
    grid = np.arange(SIDE // STRIDE) * STRIDE + STRIDE / 2
    target = np.zeros((BATCH, 10, len(grid), len(grid)), np.float32)
    for heat, (_, labels) in zip(target, made, strict=True):
        for digit, row, column in labels[labels[:, 0] >= 0]:
            here, there = (grid[np.abs(grid - place).argmin()] for place in (row, column))  # so that one pixel has 1
            squares = ((grid - here) ** 2)[:, None] + ((grid - there) ** 2)[None]
            bump = np.exp(-squares / (2 * (SPREAD * STRIDE) ** 2))
            heat[digit] = np.maximum(heat[digit], bump)
    pages = torch.from_numpy(np.stack([image for image, _ in made]))
    return Batch(pages.contiguous(memory_format=torch.channels_last), torch.from_numpy(target))


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return CenterNet's loss (arXiv 1904.07850, equation 1), per centre."""
    probability = logits.sigmoid().clamp(1e-5, 1 - 1e-5)
    centre = target > 0.999
    at_centres = (1 - probability) ** 2 * probability.log()
    elsewhere = (1 - target) ** 4 * probability**2 * (1 - probability).log()
    return -torch.where(centre, at_centres, elsewhere).sum() / centre.sum().clamp(min=1)


def distillation(logits: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance to the teacher's probabilities, per centre.

    The cross-entropy would count the thousands of pixels without a digit more than the digits.
    """
    return (logits.sigmoid() - teacher.sigmoid()).square().sum() / (target > 0.999).sum().clamp(min=1)


class Run:
    """One training: what it changes, and its state in a file."""

    def __init__(self, model: nn.Module, teacher: nn.Module | None, fraction: float, options: argparse.Namespace) -> None:
        self.model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.teacher = teacher
        self.seed, self.steps = options.seed, options.steps
        self.path = options.state / f"{options.network}.pt"
        self.identity = {
            "steps": options.steps,
            "lr": options.lr,
            "fraction": fraction,
            "seed": options.seed,
            "teacher": None if teacher is None else _fingerprint(teacher),
        }
        self.step, self.seconds = 0, 0.0
        self.history: list[list[float]] = []
        """Rows of step, loss, and the mean, lowest and highest density of the gates' last batch."""
        groups = parameter_groups(model, options.lr, 1e-4, gate_lr=0.5) if teacher else model.parameters()
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, weight_decay=1e-4)
        most = [group["lr"] for group in self.optimizer.param_groups]
        self.rate = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, most, total_steps=self.steps, pct_start=0.1)
        self.schedule = None
        if teacher is not None:
            budget = macs_budget(model, (1, *PAGE), fraction)
            self.schedule = DensitySchedule(
                model, budget, self.steps // 2, learned=True, freeze_after=self.steps - self.steps // 10, bounds=(0.03, 1.0)
            )
        if self.path.exists():
            self._load(torch.load(self.path, weights_only=True))

    def train(self) -> None:
        """Take the steps that are left, and save the state every few minutes."""
        saved = time.perf_counter()
        while self.step < self.steps:
            started = time.perf_counter()
            loss = self._take_step()
            self.seconds += time.perf_counter() - started
            if self.step % 20 == 0 or self.step == self.steps:
                self._note(loss)
            if time.perf_counter() - saved > SAVE_EVERY or self.step == self.steps:
                self._save()
                saved = time.perf_counter()
        if self.schedule is not None:
            self.schedule.close()
        self.model.eval()

    def _note(self, loss: float) -> None:
        """Keep, and say, where the training stands."""
        densities = list(self.schedule.densities.values()) if self.schedule else [1.0]
        row = [round(value, 4) for value in (loss, sum(densities) / len(densities), min(densities), max(densities))]
        self.history.append([self.step, *row])
        held = f", density {row[1]:.2f}" if self.schedule else ""
        print(f"  step {self.step}/{self.steps}, loss {loss:.3f}{held}, {self.seconds:.0f} s", file=sys.stderr, flush=True)

    def _take_step(self) -> float:
        batch = make_batch(self.seed, self.step)
        logits = self.model(batch.pages)
        loss = focal_loss(logits, batch.target)
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(batch.pages)
            loss = loss + TEACHER_WEIGHT * distillation(logits, taught, batch.target)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.rate.step()
        if self.schedule is not None:
            self.schedule.step()
        self.step += 1
        return loss.item()

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "rate": self.rate, "schedule": self.schedule}
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self._parts().items()}
        new = self.path.with_suffix(".new")
        known = {"identity": self.identity, "step": self.step, "seconds": self.seconds, "history": self.history}
        torch.save(state | known, new)
        new.replace(self.path)

    def _load(self, state: dict[str, Any]) -> None:
        """Go on where a run with the same options was stopped.

        Raises:
            UserError: the state is of another run.
        """
        other = [name for name, value in self.identity.items() if state["identity"].get(name) != value]
        if other:
            raise UserError(
                f"{self.path} is the state of a run with other options ({', '.join(other)}): remove it, or name --state"
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        print(f"  going on from step {self.step} ({self.path})", file=sys.stderr, flush=True)


def _fingerprint(model: nn.Module) -> float:
    """Return a number that changes with any weight."""
    return float(sum(value.double().abs().sum() for value in model.state_dict().values()))


@torch.no_grad()
def read(model: nn.Module, pages: np.ndarray) -> np.ndarray:
    """Return the logits [N, 10, 64, 64] of pages [N, 1, 256, 256]."""
    return torch.cat([model(part) for part in torch.split(torch.from_numpy(pages), 10)]).numpy()


def with_small_weights(model: nn.Module) -> nn.Module:
    """Return a copy whose convolutions are in float16: half the file, and no digit is read otherwise."""
    small = copy.deepcopy(model)
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            module.half()
    return small


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(description="Train the page reader, dense or gated, and print F1 on held-out pages.")
    p.add_argument("network", choices=["dense", *GATES])
    p.add_argument("--out", type=Path, default=HERE, help="folder of the checkpoints and results (default: this one)")
    p.add_argument("--state", type=Path, default=ROOT / "build" / "pages", help="folder of the states (default: build/pages)")
    p.add_argument("--steps", type=_positive(int), help="(default: 1000; with gates, 800)")
    p.add_argument("--lr", type=_positive(float), help="the largest learning rate (default: 0.002; with gates, 0.0005)")
    p.add_argument(
        "--fraction", type=_positive(float), help="MACs to keep of the dense network's (default: pixel 0.15, grid 0.22)"
    )
    p.add_argument("--seed", type=int, default=0)
    return p


def _positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    def number(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    return number


def gated(kind: str, out: Path, seed: int) -> tuple[nn.Module, nn.Module]:
    """Return the dense network with fitted, open gates, and the dense network as its teacher."""
    teacher = lccl.load_checkpoint(out / "dense.pt", FACTORY).eval()
    model = page_reader()
    model.load_state_dict(teacher.state_dict())
    model = lccl.nn.convert(model, where="all-3x3", gate_activation="binary", args=(1, *PAGE), **GATES[kind])
    batches = [tuple(make_batch(seed, step)) for step in range(16)]
    fitted = fit_gates(model, batches, importance="taylor", loss=focal_loss)
    print(f"  gates explain {min(fitted.values()):.2f} to {max(fitted.values()):.2f} of what matters", file=sys.stderr)
    return model, teacher


def train_network(options: argparse.Namespace) -> None:
    """Train one network, save its checkpoint and its results."""
    is_dense = options.network == "dense"
    options.steps = options.steps or (1000 if is_dense else 800)
    options.lr = options.lr or (2e-3 if is_dense else 5e-4)
    torch.manual_seed(options.seed)
    model, teacher = (page_reader(), None) if is_dense else gated(options.network, options.out, options.seed)
    run = Run(model, teacher, options.fraction or FRACTIONS.get(options.network, 1.0), options)
    run.train()

    file = options.out / f"{options.network}.pt"
    lccl.save_checkpoint(file, with_small_weights(model), FACTORY, {}, PAGE)
    model = lccl.load_checkpoint(file, FACTORY).eval()
    pages, labels = held_out()
    score = f1(read(model, pages), labels)
    profile = lccl.profile(model, [torch.from_numpy(pages)])
    print(f"{options.network}: F1 {score:.2%} over {len(pages)} held-out pages, trained in {run.seconds:.0f} s -> {file}")
    print(profile)
    result = {
        "f1": round(score, 4),
        "macs": profile.dense_macs,
        "macs_computed": round(profile.macs),
        "seconds": round(run.seconds),
        "steps": options.steps,
        "seed": options.seed,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "command": " ".join(["python samples/pages/train.py", *sys.argv[1:]]),
    }
    _keep(options.out / "results.json", options.network, result)
    _keep(options.out / "history.json", options.network, run.history)
    run.path.unlink(missing_ok=True)


def _keep(file: Path, network: str, value: object) -> None:
    """Put the value of one network into a file that has a line for each."""
    known = json.loads(file.read_text()) if file.exists() else {}
    lines = [f" {json.dumps(name)}: {json.dumps(content)}" for name, content in (known | {network: value}).items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    """Run the command."""
    try:
        train_network(parser().parse_args())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
