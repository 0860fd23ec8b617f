"""Compare ways to gate and to train: a dozen short trainings of one pretrained ResNet-20.

    CIFAR10=cifar-10-python.tar.gz python samples/cifar10/runs.py --weights resnet20.th
    python samples/cifar10/runs.py --table

Each run gates the same network and trains it for three epochs to 0.7 of the multiply-accumulates of
the whole dense network (the last to half), and differs from the first run in what its name says. Choices are made by 5,000
held-out training images; the test images are read once in each run, after its last epoch. A run
that was stopped goes on where it was (``build/cifar10``); one that is in ``results.json`` is not
repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import lccl  # noqa: E402
from lccl.console.progress import Progress, on_terminal  # noqa: E402
from lccl.console.text import table  # noqa: E402
from lccl.errors import UserError  # noqa: E402
from lccl.files import sha256  # noqa: E402
from lccl.train import allocate, fit, fit_gates, macs_budget, sensitivity  # noqa: E402
from samples.cifar10.data import Split, cifar10  # noqa: E402
from samples.cifar10.network import resnet  # noqa: E402
from samples.cifar10.training import IMAGE, Batches, accuracy, ready  # noqa: E402

RESULTS = HERE / "results.json"
LR, WARM_UP, WEIGHT_DECAY = 0.05, 0.1, 1e-4
"""The largest rate, and the part of the steps in which it is reached."""


@dataclass(frozen=True)
class Run:
    """One way to gate and to train."""

    name: str
    gate: str = "kxk"
    gate_size: int = 1
    activation: str = "binary"
    where: str = "first-of-block"
    start: str = "fitted"
    """"fitted" to what gates would drop, or "random" behind an open gate."""
    teacher: bool = True
    shares: str = "uniform"
    """How layers share the budget: "uniform", "learned" or by "sensitivity"."""
    fraction: float = 0.7
    """MACs of the whole network, gates included, over the dense network's."""


RUNS = (
    Run("k x k gates, binary, first of block, fitted, distilled, uniform"),
    Run("1 x 1 gates", gate="1x1"),
    Run("grid gates of 2", gate="grid", gate_size=2),
    Run("ReLU gates", activation="relu"),
    Run("hard-tanh gates", activation="hardtanh"),
    Run("random start", start="random"),
    Run("not distilled", teacher=False),
    Run("shares learned", shares="learned"),
    Run("shares by sensitivity", shares="sensitivity"),
    Run("both of each block", where="paper"),
    Run("both of each block, shares learned", where="paper", shares="learned"),
    Run("both of each block, half of the MACs", where="paper", fraction=0.5),
)


def gated(run: Run, dense: nn.Module, split: Split) -> tuple[nn.Module, Any]:
    """Return the dense network with the run's gates, and what its training aims at."""
    torch.manual_seed(0)
    options: Any = {"gate": run.gate, "gate_size": run.gate_size, "gate_activation": run.activation}
    model: nn.Module = lccl.nn.convert(dense, where=run.where, args=IMAGE, **options)
    some = [
        (ready(torch.from_numpy(split.images[i : i + 100])), torch.from_numpy(split.labels[i : i + 100]))
        for i in range(0, min(500, len(split.labels)), 100)
    ]
    if run.start == "fitted":
        fit_gates(model, some)
    budget = macs_budget(model, IMAGE, run.fraction)
    if run.shares == "learned":
        return model, budget
    if run.shares == "sensitivity":
        return model, allocate(budget, sensitivity(model, some, F.cross_entropy))
    return model, budget.density


def train(run: Run, dense: nn.Module, epochs: int, state: Path, progress: Progress) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train one run; return the network in eval mode, and its epochs."""
    data = cifar10()
    model, target = gated(run, dense, data.train)
    result = fit(
        model,
        Batches(data.train),
        epochs=epochs,
        target=target,
        learned=run.shares == "learned",
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        warm_up=WARM_UP,
        teacher=copy.deepcopy(dense) if run.teacher else None,
        score=lambda network: accuracy(network, data.held_out),
        checkpoint=state,
        save_every=50,
        channels_last=True,
        progress=progress,
    )
    return model, [asdict(epoch) for epoch in result.epochs]


def measured(run: Run, model: nn.Module, epochs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a run's line of results; this reads the test images."""
    data = cifar10()
    profile = lccl.profile(model, [ready(torch.from_numpy(data.held_out.images[:1000]))])
    densities = {layer.name: round(layer.density, 4) for layer in profile.gated if layer.density is not None}
    return {
        "run": asdict(run),
        "epochs": [{name: round(value, 4) for name, value in epoch.items()} for epoch in epochs],
        "held_out": accuracy(model, data.held_out),
        "test": accuracy(model, data.test),
        "densities": densities,
        "macs": profile.dense_macs,
        "macs_computed": round(profile.macs),
        "seed": 0,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def show(results: dict[str, Any]) -> str:
    """Return the table of results in Markdown."""
    lines = [
        "| run | held-out top-1 | test top-1 | MACs of dense | density | lowest | highest |",
        "|---|---|---|---|---|---|---|",
    ]
    dense = results.get("dense")
    if dense is not None:
        lines.append(f"| the dense network | {dense['held_out']:.2%} | {dense['test']:.2%} | 1 | | | |")
    for run in RUNS:
        found = results.get(run.name)
        if found is not None:
            values = list(found["densities"].values())
            share = found["macs_computed"] / found["macs"]
            lines.append(
                f"| {run.name} | {found['held_out']:.2%} | {found['test']:.2%} | {share:.3f} | {sum(values) / len(values):.3f} "
                f"| {min(values):.2f} | {max(values):.2f} |"
            )
    return "\n".join(lines)


def _known() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return known


def _keep(name: str, found: object) -> None:
    """Put a line into the results, the whole file or none of it: another run may have written meanwhile."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in (_known() | {name: found}).items()]
    new = RESULTS.with_suffix(".new")
    new.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    new.replace(RESULTS)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(description="Compare ways to gate and train a pretrained ResNet-20 on CIFAR-10.")
    p.add_argument("--weights", type=Path, help="a file of pretrained weights of ResNet-20")
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument(
        "--only", type=int, nargs="+", choices=range(len(RUNS)), metavar="N", help="the numbers of runs, as --list shows them"
    )
    p.add_argument("--state", type=Path, default=ROOT / "build" / "cifar10", help="folder of states and checkpoints")
    p.add_argument("--list", action="store_true", help="print the runs")
    p.add_argument("--table", action="store_true", help="print the results that are there")
    return p


def make(options: argparse.Namespace) -> None:
    """Train the runs that have no results yet.

    Raises:
        UserError: the weights or the images are not there, or the results are of other ones.
    """
    dense = resnet(20, options.weights).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    data = cifar10()
    made_with = {"weights": sha256(options.weights)[:16], "epochs": options.epochs}
    if "dense" not in _known():
        _keep("dense", {**made_with, "held_out": accuracy(dense, data.held_out), "test": accuracy(dense, data.test)})
    other = [name for name, value in made_with.items() if _known()["dense"][name] != value]
    if other:
        raise UserError(f"{RESULTS} is of other {' and '.join(other)}: move it away")
    options.state.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(RUNS):
        if run.name in _known() or (options.only and number not in options.only):
            continue
        print(f"{number}: {run.name}", file=sys.stderr, flush=True)
        with on_terminal() as progress:
            model, epochs = train(run, dense, options.epochs, options.state / f"{number}.state", progress)
        _keep(run.name, measured(run, model, epochs))
        lccl.save_checkpoint(options.state / f"{number}.pt", model, "samples.cifar10.network:resnet", {}, IMAGE[1:])
        (options.state / f"{number}.state").unlink(missing_ok=True)


def main() -> None:
    """Run the command."""
    options = parser().parse_args()
    if options.list:
        rows = [(str(i), run.name, "yes" if run.name in _known() else "") for i, run in enumerate(RUNS)]
        print(table(("number", "run", "done"), rows))
        return
    try:
        if not options.table:
            if options.weights is None:
                raise UserError("--weights names the pretrained weights of ResNet-20")
            make(options)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(show(_known()))


if __name__ == "__main__":
    main()
