"""A whole training: the same numbers after a kill and in two processes, and all that it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lccl
from conftest import ROOT
from lccl.errors.requires import MissingPackageError
from lccl.nn.gate import Gate
from lccl.train import fit
from lccl.train.loop import _shuffled
from support.fit_run import data, network, run

PROGRAM = ROOT / "tests" / "support" / "fit_run.py"
pytest.importorskip("lightning_fabric", reason="needs the extra fit")


def started(*words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def whole() -> tuple[nn.Module, Any]:
    model = network()
    return model, run(model)


@pytest.mark.slow
def test_a_run_that_was_killed_gives_the_numbers_of_one_that_was_not(whole: tuple[nn.Module, Any], tmp_path: Path) -> None:
    killed = started("kill", tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    model = network()
    again = run(model, tmp_path)
    assert again.resumed_at == 8  # within the second epoch
    assert again.epochs == whole[1].epochs
    assert same(model, whole[0])
    finished = network()
    assert run(finished, tmp_path).epochs == again.epochs  # nothing is left to do
    assert same(finished, model)
    for other in (
        {"seed": 3},
        {"lr": 0.1},
        {"target": 0.5},
        {"anneal": 0.2},
        {"learned": True},
        {"weight_decay": 0.0},
        {"warm_up": 0.2},
    ):
        with pytest.raises(lccl.UserError, match=rf"with other arguments \({next(iter(other))}\)"):
            run(network(), tmp_path, **other)
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(lccl.UserError, match="is not the state of a training"):
        run(network(), tmp_path)


@pytest.mark.slow
def test_the_seed_decides(whole: tuple[nn.Module, Any]) -> None:
    model, result = whole
    again, other = network(), network()
    assert run(again).epochs == result.epochs
    assert same(again, model)
    assert run(other, seed=1).epochs != result.epochs
    assert not model.training
    assert [m.observed for m in model.modules() if isinstance(m, Gate)] == [None, None]
    assert abs(result.epochs[-1].density - 0.4) < 0.15
    assert "density" in str(result)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    """With frozen statistics the same weights; else densities within .02."""
    done = started("two", tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "two.pt", weights_only=True)
    for frozen in (True, False):
        model = network()
        result = fit(model, data(16, shuffle=False), epochs=3, target=0.4, lr=0.02, freeze_norms=frozen)
        state = torch.load(tmp_path / f"{frozen}.pt", weights_only=True)
        assert (len(state["random"]), state["identity"]["processes"]) == (2, 2)
        weights, densities = found[frozen]
        assert dict(result.densities) == pytest.approx(densities, abs=1e-3 if frozen else 0.02)
        if frozen:
            for name, value in model.state_dict().items():
                torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_what_else_it_does(tmp_path: Path) -> None:
    """Distillation, scalars, bfloat16, channels_last, torch.compile, a bar, and an early end."""
    from lightning_fabric import Fabric

    steps: list[str] = []
    gate_statistics: list[list[torch.Tensor]] = []

    def score(trained: nn.Module) -> float:
        gate_statistics.append([m.norm.running_mean.clone() for m in trained.modules() if isinstance(m, Gate)])  # type: ignore[union-attr, operator]
        return 0.5

    model, teacher = network(), network()
    memory = model[0].weight.is_contiguous(memory_format=torch.channels_last)
    result = run(
        model,
        fabric=Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"),
        epochs=6,
        anneal=0.1,
        teacher=teacher,
        log_folder=tmp_path / "log",
        channels_last=True,
        score=score,
        patience=2,
        progress=lambda step, done=None, total=None: steps.append(step),
    )
    assert result.stopped_early
    assert len(result.epochs) == 4  # the best one, two without a better score, and one with frozen statistics
    assert all(torch.equal(a, b) for a, b in zip(gate_statistics[-2], gate_statistics[-1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(gate_statistics[-3], gate_statistics[-2], strict=True))
    assert result.score == 0.5
    assert not memory
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert steps[0] == "epoch 1 of 6"
    scalars = next((tmp_path / "log").glob("events.*")).read_bytes()
    assert all(name in scalars for name in (b"density/3", b"density/6", b"score"))
    assert result.as_dict()["stopped_early"] is True


def test_a_new_process_goes_on_with_the_order_of_its_epoch() -> None:
    """Fabric's loader counts epochs from 0, and a generator of the loader's own has a state."""
    from lightning_fabric import Fabric

    images = TensorDataset(torch.arange(12))
    for options in (
        {"sampler": DistributedSampler(images, 2, 0, shuffle=True)},
        {"shuffle": True, "generator": torch.Generator()},
    ):
        orders = []
        for epochs in ((0, 1), (1,)):
            loader: Any = Fabric(accelerator="cpu", devices=1).setup_dataloaders(DataLoader(images, 2, **options))
            for epoch in epochs:
                orders.append([x.tolist() for _, (x,) in _shuffled(loader, 0, epoch, 0, SimpleNamespace(random=None))])  # type: ignore[arg-type]
        assert orders[0] != orders[1] == orders[2]


def test_the_scale_of_gradients_is_saved(tmp_path: Path) -> None:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision

    scales = []
    for _ in range(2):  # the second run is finished, and loads the state
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0 if not scales else 2.0, growth_interval=2)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        fit(
            network(),
            data(32, shuffle=False),
            epochs=1,
            target=0.4,
            fabric=Fabric(accelerator="cpu", devices=1, plugins=plugin),
            checkpoint=tmp_path / "state.pt",
        )
        scales.append(scaler.get_scale())
    assert scales[0] == scales[1] > 1024


def test_an_interrupted_training_leaves_no_schedule_open() -> None:
    model, teacher = network(), network().train()

    def interrupted(_model: nn.Module) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, data(48, shuffle=False), epochs=2, target=0.4, score=interrupted, teacher=teacher)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m.observed is not None or m.frozen for m in model.modules() if isinstance(m, Gate))
    assert teacher.training


def test_wrong_use() -> None:
    workers: Any = DataLoader(TensorDataset(torch.zeros(2)), num_workers=1, persistent_workers=True)
    with pytest.raises(lccl.UserError, match="persistent_workers=False"):
        fit(network(), workers, epochs=1, target=0.4)
    for options, message in (
        ({"patience": 1}, "needs a score"),
        ({"anneal": 0}, "anneal is a fraction"),
        ({"warm_up": 1}, "warm_up is a fraction"),
        ({"epochs": 0}, "epochs takes a whole number from 1"),
    ):
        with pytest.raises(lccl.UserError, match=message):
            fit(network(), data(16, shuffle=False), **{"epochs": 1, "target": 0.4} | options)
    with pytest.raises(lccl.UserError, match="no batch"):
        fit(network(), [], epochs=1, target=0.4)


def test_without_fabric_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingPackageError, match=r"lccl\.train\.fit needs Lightning Fabric: pip install 'lccl\[fit\]'"):
        fit(network(), data(16, shuffle=False), epochs=1, target=0.4)
