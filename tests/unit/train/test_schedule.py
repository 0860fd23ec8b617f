"""Densities by construction: what gates open in training and afterwards, and that nothing else changes."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lccl
import lccl.train.schedule as schedule_module
from lccl.nn import LCCLConv2d
from lccl.nn.gate import Gate
from lccl.train import DensitySchedule, macs_budget, parameter_groups
from lccl.train.gates import frozen_norms
from lccl.train.shifts import Range, density_of, moved_by_cost, moved_together, scale_of, shift_of, total_of

TARGET = 0.3


def dense() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    parts += [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    parts += [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    parts += [nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*parts)


def gated(**options: Any) -> nn.Module:
    torch.manual_seed(1)
    return lccl.nn.convert(dense(), where=["3", "9"], **options).train()


def batch(i: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(i)).relu()
    return x, x.mean((2, 3)).argmax(1)


def train(model: nn.Module, schedule: DensitySchedule, steps: range, optimizer: torch.optim.Optimizer | None = None) -> None:
    optimizer = optimizer or torch.optim.SGD(parameter_groups(model, 0.05), momentum=0.9)
    for i in steps:
        x, y = batch(i)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def gates(model: nn.Module) -> list[Gate]:
    return [m for m in model.modules() if isinstance(m, Gate)]


FORMS = (
    {},
    {"gate": "1x1", "gate_activation": "binary"},
    {"gate": "grid", "gate_size": 2, "gate_activation": "hardtanh"},
    {"gate": "1x1", "gate_activation": "hardtanh", "gate_norm": True},
    {"gate": "grid", "gate_size": 2, "gate_activation": "binary"},
    {"gate_norm": False},
)


@pytest.mark.slow
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_density_is_given(options: dict[str, Any]) -> None:
    """From the dense network's outputs to the target, in training and, with all statistics frozen, after it."""
    model, x = gated(**options), batch(0)[0]
    before = dense().train()
    schedule = DensitySchedule(model, TARGET, 20, freeze_after=25)
    torch.testing.assert_close(model(x), before(x), rtol=0, atol=1e-6)
    train(model, schedule, range(25))
    frozen_norms(model)
    train(model, schedule, range(25, 75), torch.optim.SGD(model.parameters(), 0.01))
    assert schedule.targets == pytest.approx(dict.fromkeys(("3", "9"), TARGET))
    assert schedule.densities == pytest.approx(schedule.targets, abs=0.06)  # those of the last few batches
    schedule.close()
    held = lccl.profile(model.eval(), [batch(i)[0] for i in range(100, 108)])
    assert [layer.density for layer in held.gated] == pytest.approx([TARGET] * 2, abs=0.1)
    folded = lccl.nn.fold(model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"gate_norm": False}], ids=str)
@pytest.mark.parametrize("target", [0.1, 0.5])
def test_densities_are_not_biased(options: dict[str, Any], target: float) -> None:
    model = gated(**options)
    schedule = DensitySchedule(model, target, 5)
    with torch.no_grad():
        seen = [steps(model, schedule, i) for i in range(75)][30:]
    assert torch.tensor(seen).mean(0).tolist() == pytest.approx([target] * 2, abs=0.005)


def steps(model: nn.Module, schedule: DensitySchedule, i: int) -> list[float]:
    """Take a step without training; return its densities."""
    model(batch(i)[0])
    found = [float(gate.observed[1]) for gate in gates(model)]  # type: ignore[index]
    schedule.step()
    return found


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_autocast_leaves_gates_their_weights(options: dict[str, Any]) -> None:
    """The small first logits of a gate without a norm are not lost in bfloat16 beside the bias."""
    model = gated(**options)
    schedule = DensitySchedule(model, 0.5, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = [steps(model, schedule, i) for i in range(20)][5:]
    assert torch.tensor(seen).mean(0).tolist() == pytest.approx([0.5] * 2, abs=0.05)
    assert all(gate.conv.weight.abs().max() < 10 for gate in gates(model))


@pytest.mark.parametrize("options", [{}, {"gate_activation": "hardtanh"}, {"gate_norm": False}], ids=str)
def test_maps_leave_that_of_an_open_gate_slowly(options: dict[str, Any]) -> None:
    """Whatever the size of the inputs."""
    model, x = gated(**options), 255 * batch(0)[0]
    schedule = DensitySchedule(model, TARGET, 10_000)
    before = model(x)
    schedule.step()
    after = model(x)
    assert 0 < (after - before).abs().max() < 2e-3 * before.abs().max()


def test_a_gate_whose_norm_is_negative_opens_the_same_pixels() -> None:
    model = gated()
    for gate in gates(model):
        nn.init.constant_(gate.norm.weight, -0.5)  # type: ignore[arg-type]
        nn.init.constant_(gate.norm.bias, 0.0)  # type: ignore[arg-type]
        gate.norm.running_mean.fill_(0.3)  # type: ignore[union-attr]
    twin = copy.deepcopy(model)
    schedule = DensitySchedule(twin, 0.5, 3, start=0.5)
    x = torch.randn(4, 6, 8, 8)
    torch.testing.assert_close(gates(model)[0].eval()(x) > 0, gates(twin)[0].eval()(x) > 0)
    assert schedule.targets == pytest.approx({"3": 0.5, "9": 0.5})


def test_first_weights_are_the_same_in_all_processes() -> None:
    found = []
    for seed in (0, 1):
        model = gated(gate_norm=False)
        torch.manual_seed(seed)
        schedule, before = DensitySchedule(model, TARGET, 3), torch.get_rng_state()
        steps(model, schedule, 0)
        found.append([gate.conv.weight.clone() for gate in gates(model)])
        assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, *found))


def test_fitted_weights_are_set_aside_while_a_gate_is_open() -> None:
    """And come back, from a state of the first step too."""
    model = gated(gate_norm=False)
    lccl.train.fit_gates(model, [batch(0)[0]])
    fitted = gates(model)[0].conv.weight.clone()
    schedule = DensitySchedule(model, TARGET, 3)
    assert not gates(model)[0].conv.weight.any()
    again = gated(gate_norm=False)
    resumed = DensitySchedule(again, TARGET, 3)
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for network, plan in ((model, schedule), (again, resumed)):
        steps(network, plan, 0)
        own = gates(network)[0].conv.weight
        assert F.cosine_similarity(own.flatten(), fitted.flatten(), dim=0) > 0.9999
        assert own.abs().max() > 0.05


def test_a_schedule_takes_over_what_another_left_open() -> None:
    model = gated()
    first = DensitySchedule(model, TARGET, 3)
    second = DensitySchedule(model, TARGET, 3)
    first.close()
    model(batch(0)[0])
    with pytest.raises(lccl.UserError, match="another one has taken over"):
        first.step()
    second.step()
    second.close()
    assert all(p.requires_grad for p in model.parameters())


def test_on_the_way() -> None:
    model = gated()
    schedule = DensitySchedule(model, {"3": 0.2, "9": 0.6}, 20)
    train(model, schedule, range(10))
    assert schedule.targets == pytest.approx({"3": 0.6, "9": 0.8})
    assert [m.trained_density for m in gates(model)] == list(schedule.densities.values())


@pytest.mark.parametrize("options", [{}, {"gate_activation": "hardtanh"}], ids=str)
def test_layers_learn_their_shares(options: dict[str, Any]) -> None:
    """The shift moves with the loss; costs times densities stay at the budget; bounds hold."""
    model = gated(**options)
    budget = macs_budget(model, torch.randn(1, 3, 8, 8), 0.8)
    schedule = DensitySchedule(model, budget, 10, learned=True, bounds={"3": (0.1, 1.0), "9": (0.1, 0.8)})
    gate = gates(model)[0]
    parameter = gate.norm.bias if isinstance(gate.norm, nn.BatchNorm2d) else gate.conv.bias
    assert parameter is not None
    assert parameter.requires_grad
    train(model, schedule, range(15), torch.optim.SGD(model.parameters(), 0.3))
    found = schedule.targets
    assert sum(budget.costs[name] * density for name, density in found.items()) == pytest.approx(budget.limit - budget.fixed)
    assert abs(found["3"] - found["9"]) > 0.01
    assert 0.1 - 1e-9 <= found["9"] <= 0.8 + 1e-9


@pytest.mark.parametrize("options", [{}, {"gate_norm": False, "gate_activation": "hardtanh"}], ids=str)
def test_it_goes_on_after_a_break(options: dict[str, Any], tmp_path: Path) -> None:
    """The same numbers as without the break, to the last bit."""
    whole, parts = gated(**options), gated(**options)
    schedules = [DensitySchedule(model, TARGET, 6, learned=True) for model in (whole, parts)]
    train(whole, schedules[0], range(4), torch.optim.SGD(whole.parameters(), 0.05))
    train(parts, schedules[1], range(4), torch.optim.SGD(parts.parameters(), 0.05))
    torch.save([parts.state_dict(), schedules[1].state_dict()], tmp_path / "state.pt")
    again = gated(**options)
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(weights)
    resumed = DensitySchedule(again, TARGET, 6, learned=True)
    resumed.load_state_dict(state)
    assert resumed.targets == schedules[0].targets
    assert [m.trained_density for m in gates(again)] == list(schedules[0].densities.values())
    train(whole, schedules[0], range(4, 9), torch.optim.SGD(whole.parameters(), 0.05))
    train(again, resumed, range(4, 9), torch.optim.SGD(again.parameters(), 0.05))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


class Checkpointed(nn.Module):
    """A network whose gated part is computed again in the backward pass."""

    def __init__(self, model: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, x: Tensor) -> Tensor:
        """Run the first part plainly and the rest from a checkpoint."""
        stem, rest = self.model[:3], self.model[3:]
        return checkpoint(rest, stem(x), use_reentrant=self.reentrant)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reentrant", "not reentrant", "compiled before", "compiled after"])
def test_other_ways_to_run_a_step(how: str) -> None:
    """Checkpoints and compiled networks are given and report the densities of the plain one."""
    plain, other = gated(), gated()
    wrapped: Any = other
    if how == "compiled before":
        wrapped = torch.compile(other, backend="eager")
        wrapped(batch(0)[0])
    schedule = DensitySchedule(wrapped, TARGET, 3)
    reference = DensitySchedule(plain, TARGET, 3)
    if how == "compiled after":
        wrapped = torch.compile(other, backend="eager")
    elif "reentrant" in how:
        for norm in (m for model in (plain, other) for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 0.0  # what a pass that is repeated changes twice is not under test
        wrapped = Checkpointed(other, how == "reentrant")
    train(plain, reference, range(5), torch.optim.SGD(plain.parameters(), 0.05))
    train(wrapped, schedule, range(5), torch.optim.SGD(other.parameters(), 0.05))
    assert schedule.densities == pytest.approx(reference.densities, abs=1e-6)
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_a_copy_with_an_open_schedule_is_a_network_of_its_own() -> None:
    model = gated()
    schedule = DensitySchedule(model, TARGET, 3)
    train(model, schedule, range(4))
    copied = copy.deepcopy(model)
    copied(batch(0)[0])
    assert [gate.observed[0].item() for gate in gates(model)] == [0, 0]  # type: ignore[index]
    assert not any("observed" in name for name in model.state_dict())
    train(model, schedule, range(4, 5))


def test_a_gate_that_cannot_follow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_module, "_PATIENCE", 5)
    model = gated()
    first = gates(model)[0]
    nn.init.zeros_(first.conv.weight)
    first.conv.weight.requires_grad_(False)
    schedule = DensitySchedule(model, TARGET, 1)

    def steps() -> None:
        for i in range(8):
            model(batch(i % 2)[0])
            schedule.step()

    with pytest.warns(
        UserWarning, match=r"^the gate of 3 is .* although its density should be 0\.30: its logits do not differ"
    ):
        steps()


def test_closing_frees_what_it_held() -> None:
    model = gated()
    norm = gates(model)[0].norm
    schedule = DensitySchedule(model, TARGET, 3, freeze_after=1)
    assert not norm.weight.requires_grad  # type: ignore[union-attr]
    schedule.close()
    assert norm.weight.requires_grad  # type: ignore[union-attr]
    with pytest.raises(lccl.UserError, match="closed"):
        schedule.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0.0}, "a target is a density between 0 and 1, not 0.0"),
        ({"target": "half"}, "target takes a number, a dict of values by name or a Budget, not 'half'"),
        ({"target": {"3": 0.1}}, "holds none for 9"),
        ({"target": {"3": 0.1, "9": 0.1, "6": 0.1}}, "6, which is no gated layer"),
        ({"steps": 0}, "steps takes a whole number from 1"),
        ({"bounds": (0.5, 0.1)}, "the lower one first"),
        ({"bounds": (0.5, 0.9)}, "outside of its bounds"),
        ({"bounds": (0.5, 0.9), "learned": True}, "needs a mean density of 0.300, but the bounds allow 0.500 to 0.900"),
        ({"start": 2}, "start is a density"),
        ({"model": nn.Conv2d(1, 1, 1)}, "the network has no gate"),
        ({"model": 3}, "model takes a torch.nn.Module, not 3"),
    ],
    ids=str,
)
def test_wrong_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(lccl.UserError) as raised:
        DensitySchedule(**{"model": gated(), "target": TARGET, "steps": 3} | options)
    assert message in str(raised.value)


def test_steps_without_passes_and_states_of_others() -> None:
    schedule = DensitySchedule(gated(), TARGET, 3)
    with pytest.raises(lccl.UserError, match="no forward pass in training mode"):
        schedule.step()
    for wrong in ({}, {"step": 1, "gates": {"3": {}}}, {"step": 1, "gates": {"3": {}, "9": {}}}, 3):
        with pytest.raises(lccl.UserError, match=r"state_dict\(\) returned|state of a schedule"):
            schedule.load_state_dict(wrong)  # type: ignore[arg-type]


# ---- numbers -------------------------------------------------------------------------------------------------------------


def test_shifts_are_the_normal_quantiles() -> None:
    for density in (0.01, 0.3, 0.5, 0.99, 1.0):
        assert density_of(shift_of(density)) == pytest.approx(density)


def test_open_relu_gates_are_1_in_the_mean() -> None:
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for density in (0.2, 0.7, 0.999):
        gate = scale_of("relu", shift_of(density)) * (z + shift_of(density))
        assert gate[gate > 0].mean().item() == pytest.approx(1, abs=0.01)


def test_a_budget_is_kept_by_either_move() -> None:
    allowed = Range([shift_of(0.1)] * 3, [math.inf, shift_of(0.9), math.inf])
    costs = [1.0, 5.0, 2.0]
    for move, share in itertools.product((moved_together, moved_by_cost), (0.2, 0.6, 0.9)):
        found = move([0.5, -1.0, 2.0], costs, 8 * share, allowed)
        assert total_of(found, costs) == pytest.approx(8 * share, rel=1e-6)
        assert all(low <= s <= high for low, s, high in zip(allowed.low, found, allowed.high, strict=True))


@pytest.mark.parametrize("frozen", ["by the schedule", "all norms"])
def test_a_frozen_gate_that_is_missed_everywhere_keeps_its_density(frozen: str) -> None:
    """Each closed pixel costs the loss, step after step: only which ones are closed may change, not how many."""
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 8, 3, padding=1, gate_activation="binary")
    model = nn.Sequential(layer, nn.ReLU())
    schedule = DensitySchedule(model.train(), 0.3, 20, freeze_after=25 if frozen == "by the schedule" else None)
    assert layer.gate is not None
    optimizer = torch.optim.SGD(layer.gate.parameters(), 0.5, momentum=0.9)
    for i in range(225):
        if frozen == "all norms" and i >= 25:
            frozen_norms(model)
        optimizer.zero_grad()
        (-model(torch.rand(16, 3, 8, 8)).mean()).backward()  # the more is open, the better; weights can move the inputs' mean
        optimizer.step()
        schedule.step()
    assert schedule.densities["0"] == pytest.approx(0.3, abs=0.06)
    assert abs(schedule._states["0"].correction) < 1
