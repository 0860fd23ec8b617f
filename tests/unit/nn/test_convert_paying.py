"""Gates where a table of costs says that they pay, and budgets in microseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lccl
from lccl.forms.costs import CostTable, LayerCost, Machine
from lccl.nn import LCCLConv2d

HERE = Machine("cpu", "a processor", "avx2")
X = torch.zeros(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda *_: HERE))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )  # fmt: skip


def layer(c: int, k: int, stride: int, out: int, dense: float, slope: float, kind: str = "kxk", kernel: int = 3) -> LayerCost:
    times = {kind: {"0.0": 10.0, "1.0": 10.0 + slope}}
    macs = kernel * kernel * c * k * out * out
    shape = {"kernel": (kernel, kernel), "strides": (stride, stride), "dilations": (1, 1), "out_hw": (out, out)}
    return LayerCost(
        f"{c}-{k}", in_channels=c, out_channels=k, macs=macs, dense_us=dense, gated_us=times, chained_us=times, **shape
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """At density 0.3 the second convolution pays and the fourth does not; the third was not measured."""
    layers = (layer(3, 8, 1, 8, 50.0, 60.0), layer(8, 8, 1, 8, 100.0, 100.0), layer(16, 16, 1, 4, 40.0, 120.0))
    path = tmp_path / "costs.json"
    CostTable(HERE, 1, 1, {}, (), layers).save(path)
    return path


def gated(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, LCCLConv2d)]


def test_layers_are_chosen_by_their_cost(table: Path) -> None:
    assert gated(lccl.nn.convert(network(), where=f"pays:{table}", args=X)) == ["2"]
    assert gated(lccl.nn.convert(network(), where=f"pays:{table}", args=X, density=0.2)) == ["2", "6"]


def test_the_reasons(table: Path) -> None:
    plan = lccl.nn.convert(network(), where=f"pays:{table}", args=X, dry_run=True)
    assert [row.choice.why for row in plan.layers] == [
        "the stem",
        "pays: dense 100 us, gated 40 us at density 0.3",
        "the table has no cost of it with a kxk gate",
        "dense 40 us, gated 46 us at density 0.3; pays below 0.24",
        "an output layer",
    ]


def test_what_cannot_be_asked(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(where: str = f"pays:{table}", **options: Any) -> nn.Module:
        return lccl.nn.convert(network(), where=where, **{"args": X} | options)

    with pytest.raises(lccl.UserError, match="has no times of grid:2 gates: measure them with lccl measure"):
        convert(gate="grid", gate_size=2)
    with pytest.raises(lccl.UserError, match="needs an example input to find sizes with"):
        convert(args=None)
    with pytest.raises(lccl.UserError, match="no such file"):
        convert(f"pays:{tmp_path / 'nothing.json'}")
    with pytest.raises(lccl.UserError, match="the table has the costs of no convolution of this network"):
        convert(args=torch.zeros(1, 3, 20, 20))
    with pytest.raises(lccl.UserError, match="costs of 1 thread, not of 2: measure here: pass threads=1"):
        convert(threads=2)
    monkeypatch.setattr(Machine, "here", classmethod(lambda *_: Machine("cpu", "another", "avx2")))
    with pytest.raises(lccl.UserError, match="measure here: pass foreign_costs=True"):
        convert()
    with pytest.warns(UserWarning, match="what pays there need not pay here"):
        assert gated(convert(foreign_costs=True)) == ["2"]


def test_a_budget_in_microseconds(table: Path) -> None:
    model = lccl.nn.convert(network(), where=["2", "6"], args=X)
    budget = lccl.train.time_budget(model, X, table, 0.8)
    assert budget.limit == pytest.approx(0.8 * (50 + 100 + 40))
    assert budget.fixed == 50 + 10 + 10
    assert budget.costs == {"2": 100.0, "6": 120.0}
    assert budget.density == pytest.approx((152 - 70) / 220)
    with pytest.raises(lccl.UserError, match="between 0 and 1, not 2"):
        lccl.train.time_budget(model, X, table, 2)
    with pytest.raises(lccl.UserError, match="costs of 1 thread, not of 2"):
        lccl.train.time_budget(model, X, table, 0.8, threads=2)
    with pytest.raises(lccl.UserError, match="less than what costs"):
        lccl.train.time_budget(model, X, table, 0.1)
    strided = lccl.nn.convert(network(), where=["2", "4"], args=X)
    with pytest.raises(lccl.UserError, match="has no cost of 4 with a kxk gate"):
        lccl.train.time_budget(strided, X, table, 0.8)
