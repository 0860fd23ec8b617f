"""Statistics that are estimated again, and gates that are fitted before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_schedule import TARGET, batch, dense, gated, train
from torch import Tensor, nn

import lccl
from lccl.nn.gate import Gate
from lccl.train import DensitySchedule, fit_gates, recalibrate

BATCHES = [batch(i) for i in range(6)]


@pytest.fixture(scope="module")
def lagging() -> nn.Module:
    """A network whose running statistics lag behind its gates."""
    model = gated()
    for gate in (m for m in model.modules() if isinstance(m, Gate)):
        gate.norm.momentum = 0.01
    schedule = DensitySchedule(model, TARGET, 10)
    train(model, schedule, range(40))
    schedule.close()
    return model.eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("norms", "count"), [("gates", 2), ("all", 6)])
def test_densities_come_back_to_those_of_training(lagging: nn.Module, norms: str, count: int) -> None:
    before = state(lagging)
    modes = [m.training for m in lagging.modules()]
    found = recalibrate(lagging, BATCHES, norms=norms)  # type: ignore[arg-type]
    assert found
    assert found.norms == count
    trained = {"3": 0.0, "9": 0.0} | {
        name.removesuffix(".gate"): m.trained_density for name, m in lagging.named_modules() if isinstance(m, Gate)
    }
    for name, density in found.densities_after.items():
        assert abs(density - trained[name]) < 0.07
    assert max(abs(found.densities_before[name] - trained[name]) for name in trained) > 0.1
    assert modes == [m.training for m in lagging.modules()]
    changed = {name for name, value in lagging.state_dict().items() if not torch.equal(value, before[name])}
    assert all("running" in name or "num_batches" in name for name in changed)
    assert norms == "all" or all(".gate.norm." in name for name in changed)
    measured = lccl.profile(lagging, [x for x, _ in BATCHES])
    assert [layer.density for layer in measured.gated] == pytest.approx(list(found.densities_after.values()))
    assert str(found).endswith("the new statistics are kept.")
    lagging.load_state_dict(before)


def test_what_held_out_data_say_decides(lagging: nn.Module) -> None:
    before, scores = state(lagging), iter([0.9, 0.8, 0.9, 0.9])
    worse = recalibrate(lagging, BATCHES, score=lambda model: next(scores))
    assert not worse
    assert (worse.score_before, worse.score_after) == (0.9, 0.8)
    for name, value in lagging.state_dict().items():
        assert torch.equal(value, before[name]), name
    calls: list[int] = []

    def interrupted(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        recalibrate(lagging, BATCHES, score=interrupted)
    for name, value in lagging.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert recalibrate(lagging, BATCHES, score=lambda model: next(scores))
    lagging.load_state_dict(before)


def test_norms_keep_how_they_were_trained(lagging: nn.Module) -> None:
    before = state(lagging)
    gate = next(m for m in lagging.modules() if isinstance(m, Gate))
    gate.norm.momentum, gate.frozen = 0.3, True  # type: ignore[union-attr]
    recalibrate(lagging, BATCHES[:1])
    assert (gate.norm.momentum, gate.frozen) == (0.3, True)  # type: ignore[union-attr]
    gate.frozen = False
    lagging.load_state_dict(before)


def test_nothing_to_estimate() -> None:
    for model, message in ((dense(), "no gate"), (gated(gate_norm=False), "gates have no norms"), (gated(), "no batch")):
        with pytest.raises(lccl.UserError, match=message):
            recalibrate(model, BATCHES if "batch" not in message else [])
    with pytest.raises(lccl.UserError, match='norms takes "gates" or "all"'):
        recalibrate(gated(), BATCHES, norms="some")  # type: ignore[arg-type]


# ---- densities in checkpoints, and what an export says of them -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_export_warns_of_other_densities_than_those_of_training(lagging: nn.Module, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"gated{suffix}"
    lccl.save_checkpoint(path, lagging, "test_schedule:dense", input_shape=(3, 8, 8))
    loaded = lccl.load_checkpoint(path, dense)
    kept, expected = ([m.trained_density for m in model.modules() if isinstance(m, Gate)] for model in (loaded, lagging))
    assert kept == expected
    assert None not in kept
    if suffix != ".pt":
        return
    result = lccl.export(loaded, BATCHES[0][0], tmp_path / "m.onnx", data=torch.cat([x for x, _ in BATCHES]))
    assert result.warning is not None
    assert " differ from those of training by more than 0.05 (" in result.warning
    assert "recalibrate" in result.warning
    assert result.as_dict()["other_densities"] == dict(result.other_densities)
    recalibrate(loaded, BATCHES)
    again = lccl.export(loaded, BATCHES[0][0], tmp_path / "m.onnx", data=torch.cat([x for x, _ in BATCHES]))
    assert len(again.other_densities) < len(result.other_densities)


# ---- starts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"gate": "grid", "gate_size": 3, "gate_activation": "hardtanh"}, {"gate": "1x1", "order": "released"}],
    ids=str,
)
def test_fitted_gates_stay_open_and_know_what_matters(options: dict[str, object]) -> None:
    """Outputs stay, and gates explain some of the energy, those of one pixel less than those of a window."""
    torch.manual_seed(3)
    model = gated(**options).eval()
    x = BATCHES[0][0]
    before = model(x)
    explained = fit_gates(model, [x for x, _ in BATCHES])
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert set(explained) == {"3", "9"}
    assert all(0.05 < value <= 1 for value in explained.values())


def test_the_regression_is_that_of_the_energy() -> None:
    """Against a plain least-squares fit of the energy behind the ReLU."""
    model = gated().eval()
    layer = model[3]
    fit_gates(model, [x for x, _ in BATCHES], ridge=1e-9)
    x = torch.cat([x for x, _ in BATCHES])
    with torch.no_grad():
        h = model[:3](x)
        energy = F.relu(layer.norm(layer.conv(F.pad(h, (1, 1, 1, 1))))).square().sum(1).sqrt().flatten().double()
        rows = F.unfold(h, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
        logits = F.conv2d(h, layer.gate.conv.weight, padding=1).flatten().double()
        solution = torch.linalg.lstsq(torch.cat([rows, torch.ones_like(rows[:, :1])], 1), energy[:, None]).solution
        best = (rows @ solution[:-1]).flatten()
    assert torch.corrcoef(torch.stack([logits, best]))[0, 1] > 0.9999
    assert logits.std().item() == pytest.approx(1, abs=0.01)
    assert logits.mean().item() == pytest.approx(layer.gate.norm.running_mean.item(), abs=0.01)


def test_importance_for_the_loss() -> None:
    model = gated(gate="grid", gate_size=2).eval()
    before = model(BATCHES[0][0])
    found = fit_gates(model, BATCHES, importance="taylor", loss=F.cross_entropy)
    assert all(0 < value < 1 for value in found.values())
    torch.testing.assert_close(model(BATCHES[0][0]), before)
    assert all(p.grad is None for p in model.parameters())


def _wrong_loss(_outputs: torch.Tensor, _target: torch.Tensor) -> torch.Tensor:
    raise ValueError("no such loss\nsecond line")


def test_wrong_starts() -> None:
    for call, message in (
        (lambda: fit_gates(gated(), BATCHES, importance="taylor"), "needs a loss"),
        (lambda: fit_gates(gated(), [BATCHES[0][0]], importance="taylor", loss=F.cross_entropy), "pairs of an input"),
        (lambda: fit_gates(gated(), BATCHES, ridge=0.0), "above 0"),
        (lambda: fit_gates(gated(), []), "no batch"),
        (lambda: fit_gates(dense(), BATCHES), "nothing to fit"),
        (lambda: fit_gates(gated(), BATCHES[0][0]), "another iterable of batches, not a Tensor"),  # type: ignore[arg-type]
        (lambda: fit_gates(gated(), [()]), "a batch is empty"),
        (lambda: fit_gates(gated(), [torch.zeros(1, 5, 8, 8)]), r"a batch of shape \[1, 5, 8, 8\] does not fit the model"),
        (
            lambda: fit_gates(gated(), BATCHES, importance="taylor", loss=_wrong_loss),
            "the loss raised ValueError: no such loss",
        ),
        (
            lambda: fit_gates(gated(), BATCHES, importance="taylor", loss=lambda a, _: a),
            "a loss returns a tensor with one number",
        ),
        (lambda: recalibrate(gated(), BATCHES, score=lambda _: "good"), "the score raised ValueError, or is no number"),  # type: ignore[arg-type, return-value]
        (lambda: fit_gates(gated(), BATCHES, importance="size"), 'importance takes "energy" or "taylor"'),  # type: ignore[arg-type]
    ):
        with pytest.raises(lccl.UserError, match=message):
            call()
