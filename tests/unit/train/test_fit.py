"""A whole training: the same numbers after a kill and in two processes, and all that it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lccl
from conftest import ROOT
from lccl.nn.gate import Gate
from lccl.requires import MissingPackageError
from lccl.train import fit
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
    with pytest.raises(lccl.UserError, match="other epochs, batches or seed"):
        run(network(), tmp_path, seed=3)
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
        model = network(frozen)
        result = fit(model, data(16, shuffle=False), epochs=3, target=0.4, lr=0.02)
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
        score=lambda m: 0.5,
        patience=2,
        progress=lambda step, done=None, total=None: steps.append(step),
    )
    assert result.stopped_early
    assert len(result.epochs) < 6
    assert result.score == 0.5
    assert not memory
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert steps[0] == "epoch 1 of 6"
    scalars = next((tmp_path / "log").glob("events.*")).read_bytes()
    assert all(name in scalars for name in (b"density/3", b"density/6", b"score"))
    assert result.as_dict()["stopped_early"] is True


def test_wrong_use() -> None:
    for options, message in (
        ({"patience": 1}, "needs a score"),
        ({"anneal": 0}, "anneal is a fraction"),
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
