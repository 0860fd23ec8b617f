"""Decisions on recorded times: what a search tries, takes and leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lccl.forms import choosing, search
from lccl.forms.plan import Plan, Planned
from lccl.forms.search import Found, Search, is_faster
from lccl.forms.timing import Setting, Times
from support.graphs.gated_net import residual_net

Cost = Callable[[Plan], float]


@pytest.fixture(scope="module")
def planned() -> Planned:
    return Planned.of(residual_net().canonical())


def quiet(step: str, done: int | None = None, total: int | None = None) -> None:
    """No progress."""


def searched(
    planned: Planned, cost: Cost, monkeypatch: pytest.MonkeyPatch, fixed: dict[str, bool] | None = None, density: float = 0.5
) -> Found:
    """A search in which a plan's network takes what ``cost`` says, with some noise."""
    plans: dict[int, Plan] = {}
    rng = np.random.default_rng(0)

    class Recorded(Planned):
        def model_of(self, plan: Plan) -> Any:
            plans[id(plan)] = plan
            return plan

    def times(models: Sequence[Any], *_: object) -> Times:
        return Times(np.array([[cost(plan) * rng.uniform(0.999, 1.001) for _ in range(20)] for plan in models]))

    monkeypatch.setattr(search, "times_of", times)
    setting = Setting(({},), 1, Path("library"))
    densities = dict.fromkeys(planned.layers.gated, density)
    return Search(Recorded(planned.model, planned.layers), setting, densities, fixed or {}, progress=quiet).run()


def test_nothing_is_taken_that_gains_nothing(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(planned, lambda _: 1.0, monkeypatch)
    assert found.plan == Plan()
    assert not any(trial.taken for trial in found.trials)


def test_layers_that_are_faster_in_standard_ops_are_found_one_by_one(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = set(planned.layers.gated[:2])
    found = searched(planned, lambda plan: 1 - 0.05 * len(slow & plan.standard) + 0.2 * len(plan.standard - slow), monkeypatch)
    assert found.plan == Plan(standard=frozenset(slow))
    taken = [trial for trial in found.trials if trial.taken]
    assert [(trial.layers, trial.form) for trial in taken] == [((name,), "standard ops") for name in planned.layers.gated[:2]]
    assert taken[0].ratio == pytest.approx(0.95, abs=0.01)


def test_a_run_that_gains_only_as_a_whole_is_found(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each joined convolution alone costs a change of layout; all together cost none."""
    every = frozenset(planned.layers.joinable)

    def cost(plan: Plan) -> float:
        return 0.8 if plan.joined == every and plan.channels_last else 1 + 0.1 * len(plan.joined)

    assert searched(planned, cost, monkeypatch).plan == Plan(joined=every, channels_last=True)


def test_one_layer_leaves_a_run(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    stem, head = planned.layers.joinable

    def cost(plan: Plan) -> float:
        return 1 - 0.2 * (head in plan.joined) + 0.1 * (stem in plan.joined)

    found = searched(planned, cost, monkeypatch)
    assert found.plan.joined == {head}
    assert any(trial.layers == (stem,) and trial.form == "dense" and trial.taken for trial in found.trials)


def test_sparse_layers_are_not_tried_one_by_one(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(planned, lambda _: 1.0, monkeypatch, density=0.1)
    assert not any(trial.layers == (name,) for trial in found.trials for name in planned.layers.gated)
    assert any(trial.layers == planned.layers.gated and trial.form == "standard ops" for trial in found.trials)


def test_a_given_form_is_kept(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = planned.layers.gated
    cost = lambda plan: 1 + 0.3 * (first in plan.standard) - 0.3 * (second in plan.standard)  # noqa: E731
    found = searched(planned, cost, monkeypatch, fixed={first: False, second: True})
    assert first in found.plan.standard
    assert second not in found.plan.standard


# ---- times -----------------------------------------------------------------------------------------------------------


def test_faster_means_more_than_noise() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(1, 0.05, (2, 40))
    assert not is_faster(Times(noise), 1, 0)
    assert is_faster(Times(noise * [[1.0], [0.8]]), 1, 0)
    assert not is_faster(Times(noise * [[0.8], [1.0]]), 1, 0)


def test_a_slow_spell_of_the_machine_does_not_decide() -> None:
    """Both models are slower in the same rounds."""
    spell = np.where(np.arange(40) % 10 < 4, 2.0, 1.0)
    times = Times(np.array([spell, 0.95 * spell]))
    assert times.ratio(1, 0) == pytest.approx(0.95)
    assert is_faster(times, 1, 0)
    assert times.spread(0) == (1.0, 2.0)


NAMES = ("chosen", "all gated", "all in standard ops", "the file as it was", "dense twin")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        ((1.0, 1.2, 3.0, 1.3, 0.5), "chosen"),
        ((1.0, 1.005, 3.0, 1.3, 0.5), "all gated"),
        ((1.0, 0.9, 3.0, 0.8, 0.5), "the file as it was"),
        ((1.0, 1.1, 0.7, 1.2, 0.5), "all in standard ops"),
    ],
)
def test_what_is_written(seconds: tuple[float, ...], written: str) -> None:
    """The chosen form where it is clearly faster than the simple ones, and never another network."""
    rng = np.random.default_rng(0)
    times = Times(np.array(seconds)[:, None] * rng.uniform(0.999, 1.001, (len(seconds), 30)))
    assert choosing._written(NAMES, times) == written
