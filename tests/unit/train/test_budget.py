"""Budgets, what layers are worth, and how a budget is divided between them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_schedule import batch, dense, gated

import lccl
from lccl.train import (
    Budget,
    DensitySchedule,
    Sensitivity,
    allocate,
    distillation_loss,
    macs_budget,
    parameter_groups,
    sensitivity,
)
from lccl.train.budget import _pieces

CURVES = Sensitivity(
    1.0,
    {"cheap": {0.75: 1.0, 0.5: 1.0, 0.25: 1.4}, "dear": {0.75: 1.2, 0.5: 1.6, 0.25: 2.5}},
)


def test_macs_of_a_budget_are_those_of_the_profile() -> None:
    model, x = gated(), torch.randn(1, 3, 8, 8)
    budget = macs_budget(model, x, 0.8)
    schedule = DensitySchedule(model, budget, 1)
    profile = lccl.profile(model, x)
    model(x.expand(2, -1, -1, -1))
    schedule.step()
    costs = sum(budget.costs[name] * density for name, density in schedule.targets.items())
    assert budget.fixed + costs == pytest.approx(0.8 * profile.dense_macs)


def test_what_layers_are_worth_is_measured_and_leaves_the_network_alone() -> None:
    model = gated().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = batch(0)
    found = sensitivity(model, [(x, y)], F.cross_entropy, (0.5, 0.1))
    with torch.no_grad():
        assert found.dense == pytest.approx(F.cross_entropy(dense().eval()(x), y).item(), rel=1e-5)
    assert {name: list(curve) for name, curve in found.losses.items()} == {"3": [0.5, 0.1], "9": [0.5, 0.1]}
    assert all(loss != found.dense for curve in found.losses.values() for loss in curve.values())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(model(x), dense().eval()(x))


@pytest.mark.parametrize(
    ("limit", "densities"),
    [
        (20.0, {"cheap": 1.0, "dear": 1.0}),
        (15.0, {"cheap": 0.5, "dear": 1.0}),  # it costs nothing down to a half
        (14.0, {"cheap": 0.5, "dear": 0.9}),  # then the other loses less, down to .75
        (12.5, {"cheap": 0.5, "dear": 0.75}),
    ],
)
def test_layers_that_lose_least_close_first(limit: float, densities: dict[str, float]) -> None:
    assert allocate(Budget(limit, 0.0, {"cheap": 10.0, "dear": 10.0}), CURVES) == pytest.approx(densities)


def test_costs_count() -> None:
    """What closing saves is weighed against what it loses."""
    found = allocate(Budget(96.0, 0.0, {"cheap": 1.0, "dear": 100.0}), CURVES)
    assert found["dear"] < 0.96
    assert found["cheap"] == 0.5


def test_no_layer_goes_below_what_was_measured() -> None:
    costs = {"cheap": 10.0, "dear": 10.0}
    assert allocate(Budget(5.0, 0.0, costs), CURVES) == pytest.approx({"cheap": 0.25, "dear": 0.25})
    with pytest.raises(lccl.UserError, match=r"densities that were measured, from 0\.25: measure"):
        allocate(Budget(4.9, 0.0, costs), CURVES)


@pytest.mark.slow
def test_compiled_networks_are_measured_too() -> None:
    """After a call in eval mode a compiled network calls no hooks; a compiled part is refused."""
    model, data = gated().eval(), [batch(0)]
    expected = sensitivity(model, data, F.cross_entropy, (0.5,))
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(data[0][0])
    assert sensitivity(compiled, data, F.cross_entropy, (0.5,)) == expected  # type: ignore[arg-type]
    with torch.no_grad():
        model[3] = torch.compile(model[3], backend="eager")
        model(data[0][0])
    try:
        assert sensitivity(model, data, F.cross_entropy, (0.5,)).dense == expected.dense
    except lccl.UserError as error:
        assert "the gate of 3 was not seen to run" in str(error)  # noqa: PT017
    torch.compiler.reset()


def test_a_negative_norm_turns_the_ranking_around() -> None:
    model, twin = gated().eval(), gated().eval()
    for sign, network in ((1.0, model), (-1.0, twin)):
        gate = network[3].gate
        torch.nn.init.constant_(gate.norm.weight, sign)
        with torch.no_grad():
            gate.conv.weight.mul_(sign)
    found = [sensitivity(network, [batch(0)], F.cross_entropy, (0.3,)) for network in (model, twin)]
    assert found[0].losses["3"] == pytest.approx(found[1].losses["3"])


def test_a_curve_that_is_not_convex_is_cut_short() -> None:
    assert _pieces({0.75: 3.0, 0.5: 2.0}, 1.0, 0.05, 1.0) == [(2.0, 0.05)]


def test_wrong_use() -> None:
    model, x = gated(), torch.randn(1, 3, 8, 8)
    for call, message in (
        (lambda: macs_budget(model, x, 0.01), "less than what costs"),
        (lambda: macs_budget(model, x, 2.0), "between 0 and 1"),
        (lambda: macs_budget(dense(), x, 0.5), "no gate"),
        (lambda: Budget(1.0, 0.0, {"a": 0.0}), "a cost above 0"),
        (lambda: allocate(Budget(0.1, 0.0, {"cheap": 10.0, "dear": 10.0}), CURVES), "cannot be kept"),
        (lambda: allocate(Budget(9.0, 0.0, {"other": 10.0}), CURVES), "no gated layer"),
        (lambda: sensitivity(model, [], F.cross_entropy), "no batch"),
        (lambda: sensitivity(model, [batch(0)], F.cross_entropy, (1.5,)), "between 0 and 1"),
        (lambda: distillation_loss(x, x[:, :1]), "of one shape"),
        (lambda: distillation_loss(x, x, 0.0), "above 0"),
    ):
        with pytest.raises(lccl.UserError, match=message):
            call()


def test_distillation() -> None:
    """0 from equal outputs, for maps too; its gradient reaches the network alone."""
    own, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
    assert distillation_loss(own, own).item() == pytest.approx(0, abs=1e-6)
    loss = distillation_loss(own, teacher, 3.0)
    loss.backward()
    assert loss.item() > 0
    assert teacher.grad is None
    assert own.grad is not None
    flat = distillation_loss(own.permute(0, 2, 3, 1).reshape(-1, 3), teacher.permute(0, 2, 3, 1).reshape(-1, 3), 3.0)
    assert flat.item() == pytest.approx(loss.item())


def test_groups_of_parameters() -> None:
    model = gated()
    rest, own = parameter_groups(model, 0.5, 1e-4)
    assert len(rest["params"]) + len(own["params"]) == len(list(model.parameters()))  # type: ignore[arg-type]
    assert (own["lr"], own["weight_decay"], rest["lr"], rest["weight_decay"]) == (0.05, 0.0, 0.5, 1e-4)
