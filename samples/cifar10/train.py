"""Gate a published ResNet of CIFAR-10 to a target, fine-tune it without gates, or train by the paper.

    CIFAR10=cifar-10-python.tar.gz python samples/cifar10/train.py gate --from resnet20.th --fewer-macs 1.5 --epochs 30
    python samples/cifar10/train.py dense --from resnet20.th --epochs 30
    python samples/cifar10/train.py paper --depth 32 --epochs 164
    python samples/cifar10/train.py --table

A run that was stopped goes on where it was when it is called again. Its result goes into
``networks.json``: command, seed, hours, machine, epochs, accuracy on the 5,000 held-out and the
10,000 test images (read once, after the last epoch), multiply-accumulates over the test images.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import platform
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import lccl  # noqa: E402
from lccl.console.progress import Progress, on_terminal  # noqa: E402
from lccl.console.text import table  # noqa: E402
from lccl.errors import UserError  # noqa: E402
from lccl.files import atomic_path, require_file, sha256  # noqa: E402
from lccl.train import distillation_loss, fit, fit_gates, macs_budget  # noqa: E402
from samples.cifar10.data import Cifar10, cifar10  # noqa: E402
from samples.cifar10.network import resnet  # noqa: E402
from samples.cifar10.training import BATCH, IMAGE, Batches, accuracy, ready, seeded, trained  # noqa: E402

RESULTS = HERE / "networks.json"
WARM_UP = 0.1
CLOCK_SECONDS = 30
"""Between two notes of how long a run has taken."""
PAPER_STEPS = ((0.03, 0.1), (0.45, 1.0), (0.7, 0.1), (0.9, 0.01), (1.0, 0.001))
"""The paper's learning rate: to this part of the training, this fraction of the largest."""


def by_steps(done: float) -> float:
    """Return the fraction of the largest learning rate by the paper's steps."""
    return next(rate for end, rate in PAPER_STEPS if done <= end)


def gate(options: argparse.Namespace, data: Cifar10, progress: Progress) -> tuple[nn.Module, dict[str, Any]]:
    """Give a pretrained network gates, and train it to its MACs."""
    dense = _pretrained(options)
    seeded(options.seed)
    model: nn.Module = lccl.nn.convert(
        dense, gate=options.gate, where=options.where, gate_activation=options.activation, args=IMAGE
    )
    some = [ready(torch.from_numpy(data.train.images[i : i + 100])) for i in range(0, 500, 100)]
    fit_gates(model, some)
    budget = macs_budget(model, IMAGE, 1 / options.fewer_macs)
    result = fit(
        model,
        Batches(data.train),
        epochs=options.epochs,
        target=budget if options.learned else budget.density,
        learned=options.learned,
        lr=options.lr,
        weight_decay=options.weight_decay,
        warm_up=WARM_UP,
        teacher=copy.deepcopy(dense),
        score=lambda network: accuracy(network, data.held_out),
        checkpoint=options.state / f"{_name(options)}.state",
        save_every=50,
        channels_last=True,
        seed=options.seed,
        progress=progress,
    )
    return model, {"epochs": [asdict(epoch) for epoch in result.epochs]}


def dense(options: argparse.Namespace, data: Cifar10, progress: Progress) -> tuple[nn.Module, dict[str, Any]]:
    """Fine-tune the network without gates as a gated one is: the same steps, rate and teacher."""
    model = _pretrained(options)
    teacher = copy.deepcopy(model)

    def taught(x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(x)
        return distillation_loss(logits, wanted)

    seeded(options.seed)
    optimizer = torch.optim.SGD(model.parameters(), options.lr, 0.9, weight_decay=options.weight_decay, nesterov=True)
    trained(
        model,
        data.train,
        options.epochs,
        optimizer,
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, options.lr, total_steps=options.epochs * len(Batches(data.train)), pct_start=WARM_UP
        ),
        seed=options.seed,
        state=options.state / f"{_name(options)}.state",
        teacher_loss=taught,
        progress=progress,
    )
    return model, {}


def paper(options: argparse.Namespace, data: Cifar10, progress: Progress) -> tuple[nn.Module, dict[str, Any]]:
    """Train a network with the paper's gates from random weights, by the paper's schedule."""
    seeded(options.seed)
    model: nn.Module = lccl.nn.convert(
        resnet(options.depth).eval(), gate="kxk", where="paper", gate_activation="relu", args=IMAGE
    )
    for gated in (m for m in model.modules() if isinstance(m, lccl.nn.Gate)):
        gated.conv.reset_parameters()
        if isinstance(gated.norm, nn.BatchNorm2d):
            gated.norm.reset_parameters()  # the paper's gates do not start open
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), options.lr, 0.9, weight_decay=options.weight_decay, nesterov=True)
    steps = options.epochs * len(Batches(data.train))
    trained(
        model,
        data.train,
        options.epochs,
        optimizer,
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: by_steps(step / steps)),
        seed=options.seed,
        state=options.state / f"{_name(options)}.state",
        progress=progress,
    )
    return model, {}


RECIPES = {"gate": gate, "dense": dense, "paper": paper}


def _pretrained(options: argparse.Namespace) -> nn.Module:
    return resnet(options.depth, options.weights).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def _name(options: argparse.Namespace) -> str:
    """Return what a run's files and its line are called."""
    parts = [options.recipe, f"resnet{options.depth}", f"{options.epochs}epochs"]
    if options.recipe == "gate":
        shares = "learned" if options.learned else "uniform"
        parts += [f"{options.fewer_macs:g}x", options.gate, options.activation, options.where, shares]
    if options.weights is not None:
        parts.append(f"from{sha256(options.weights)[:8]}")
    return "-".join([*parts, f"lr{options.lr:g}", f"wd{options.weight_decay:g}", f"seed{options.seed}"])


def measured(model: nn.Module, data: Cifar10) -> dict[str, Any]:
    """Return accuracies and multiply-accumulates; this reads the test images."""
    batches = [ready(torch.from_numpy(data.test.images[i : i + 500])) for i in range(0, len(data.test.labels), 500)]
    profile = lccl.profile(model, batches)
    return {
        "held_out": accuracy(model, data.held_out),
        "test": accuracy(model, data.test),
        "macs": profile.dense_macs,
        "macs_computed": round(profile.macs),
        "densities": {layer.name: round(layer.density, 4) for layer in profile.gated if layer.density is not None},
    }


def known() -> dict[str, Any]:
    """Return the results that are there, by run."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def keep(name: str, result: dict[str, Any]) -> None:
    """Put a result into the file, the whole file or none of it; another run may do so meanwhile."""
    with RESULTS.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in (known() | {name: result}).items()]
        with atomic_path(RESULTS) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def show() -> str:
    """Return the table of all results."""
    rows = []
    for name, found in known().items():
        fewer = found["macs"] / found["macs_computed"]
        rows.append((name, f"{found['test']:.2%}", f"{found['held_out']:.2%}", f"{fewer:.2f}x", f"{found['hours']:.1f}"))
    return table(("run", "test top-1", "held-out top-1", "fewer MACs", "hours"), rows, right=(1, 2, 3, 4))


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(description="Train a ResNet of CIFAR-10 with gates to a target, or what it is compared with.")
    p.add_argument(
        "recipe", nargs="?", choices=RECIPES, help="gate: to a target; dense: as long, without gates; paper: from scratch"
    )
    p.add_argument("--from", dest="weights", type=Path, metavar="FILE.th", help="pretrained weights of the network")
    p.add_argument("--depth", type=int, default=20, help="layers: 20, 32, 44, 56, 110 (default: 20)")
    p.add_argument(
        "--fewer-macs", type=float, default=1.5, metavar="RATIO", help="of the whole network, gates included (default: 1.5)"
    )
    p.add_argument("--gate", default="kxk", choices=("1x1", "kxk"))
    p.add_argument("--activation", default="binary", choices=("relu", "hardtanh", "binary"))
    p.add_argument("--where", default="first-of-block", choices=("first-of-block", "paper"))
    p.add_argument("--learned", action="store_true", help="layers learn their shares of the budget")
    p.add_argument("--epochs", type=int, default=30)
    p.add_argument("--lr", type=float, help="the largest (default: 0.05, for paper 0.1)")
    p.add_argument("--weight-decay", type=float, default=1e-4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--state", type=Path, default=ROOT / "build" / "cifar10", help="folder of states and checkpoints")
    p.add_argument("--table", action="store_true", help="print the results that are there")
    return p


def run(options: argparse.Namespace, words: list[str]) -> None:
    """Train and keep a result, unless it is there.

    Raises:
        UserError: an argument is missing or out of range, or the weights or images are not there.
    """
    if options.recipe != "paper" and options.weights is None:
        raise UserError(f"{options.recipe} starts from pretrained weights: --from resnet{options.depth}.th")
    if options.fewer_macs <= 1 or options.epochs < 1:
        raise UserError("--fewer-macs is a ratio above 1, and --epochs a number from 1")
    options.lr = options.lr or (0.1 if options.recipe == "paper" else 0.05)
    if options.weights is not None:
        require_file(options.weights)
    name = _name(options)
    if name in known():
        print(f"{name} is there already", file=sys.stderr)
        return
    data = cifar10()
    options.state.mkdir(parents=True, exist_ok=True)
    clock = options.state / f"{name}.hours"
    before = float(clock.read_text()) if clock.exists() else 0.0
    began = written = time.monotonic()

    def timed(progress: Progress) -> Progress:
        def step(step: str, done: int | None = None, total: int | None = None) -> None:
            nonlocal written
            if time.monotonic() - written > CLOCK_SECONDS:
                written = time.monotonic()
                with atomic_path(clock) as temporary:
                    temporary.write_text(f"{before + (written - began) / 3600:.4f}")
            progress(step, done, total)

        return step

    with on_terminal() as progress:
        model, told = RECIPES[options.recipe](options, data, timed(progress))
    result = {
        **told,
        **measured(model.eval(), data),
        "command": shlex.join(["train.py", *words]),
        "seed": options.seed,
        "batch": BATCH,
        "hours": round(before + (time.monotonic() - began) / 3600, 3),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    keep(name, result)
    lccl.save_checkpoint(
        options.state / f"{name}.pt", model, "samples.cifar10.network:resnet", {"depth": options.depth}, IMAGE[1:]
    )
    for file in (clock, options.state / f"{name}.state"):
        file.unlink(missing_ok=True)


def main() -> None:
    """Run the command."""
    options = parser().parse_args()
    try:
        if not options.table:
            if options.recipe is None:
                raise UserError(f"name what to train: {', '.join(RECIPES)}; --table prints what is there")
            run(options, [Path(word).name if "/" in word else word for word in sys.argv[1:]])
    except UserError as error:
        sys.exit(f"error: {error}")
    print(show())


if __name__ == "__main__":
    main()
