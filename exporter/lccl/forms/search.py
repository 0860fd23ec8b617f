"""The search for the fastest forms: whole networks are timed, one change of form after the other.

What a layer costs depends on its neighbours: a change of layout is paid where two forms meet. So no
sum of layers' times is taken. Runs of dense convolutions are tried together first, then each layer
by itself, against the best plan so far, in turn over the same inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lccl.console.progress import Progress
from lccl.forms.plan import Plan, Planned
from lccl.forms.timing import Setting, Times, times_of

LEAST_GAIN = 0.99
"""The most of the time of the best plan so far that a better one may take: less is noise."""
LEAST_WINS = 0.7
"""In so many of the rounds a better plan is faster."""
CONFIRMATIONS = 2
"""So many comparisons, with sessions of their own, have to say that a change is faster."""
LIKELY_DENSE = 0.3
"""Standard ops are tried for gated layers of this density and above; below, the op is known to win
for any layer that is worth a gate."""


@dataclass(frozen=True)
class Trial:
    """A change of form that was timed."""

    layers: tuple[str, ...]
    form: str
    """That was tried for the layers: "gated", "standard ops", "joined", "dense", or "channels
    last"."""
    ratio: float
    """The network's time with the form over that without it."""
    taken: bool


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    plan: Plan
    trials: tuple[Trial, ...]


class Search:
    """A search for the fastest plan of one network.

    Args:
        planned: the network.
        setting: what its models are timed with.
        densities: calibrated density of each gated layer, 0 to 1.
        fixed: gated layers whose form is given: True for the op, False for standard ops.
        rounds: of each comparison.
        most_seconds: of each comparison.
        progress: called with each step.
    """

    def __init__(
        self,
        planned: Planned,
        setting: Setting,
        densities: dict[str, float],
        fixed: dict[str, bool],
        *,
        rounds: int = 24,
        most_seconds: float = 3.0,
        progress: Progress,
    ) -> None:
        self._planned, self._setting, self._densities, self._fixed = planned, setting, densities, fixed
        self._rounds, self._most_seconds, self._progress = rounds, most_seconds, progress
        self._trials: list[Trial] = []

    def run(self) -> Found:
        """Return the fastest plan that was found, and what was tried."""
        layers = self._planned.layers
        given = frozenset(name for name, gated in self._fixed.items() if not gated)
        best = Plan(standard=given)
        best = self._better(best, Plan(given, channels_last=True), layers.gated, "channels last")
        if layers.joinable:
            plan = Plan(given, frozenset(layers.joinable), channels_last=True)
            best = self._better(best, plan, layers.joinable, "joined, channels last")
        open_layers = [name for name in layers.gated if name not in self._fixed]
        if open_layers:
            plan = Plan(given | frozenset(open_layers))
            best = self._better(best, plan, tuple(open_layers), "standard ops")
        steps = list(self._steps())
        for done, (layer, is_gated) in enumerate(steps):
            self._progress(f"choosing the form of {layer}", done, len(steps))
            plan = best.with_flipped(layer, is_gated)
            best = self._better(best, plan, (layer,), _form(plan, layer, is_gated))
        self._planned.forget()
        return Found(best, tuple(self._trials))

    def _steps(self) -> Iterator[tuple[str, bool]]:
        for layer in self._planned.layers.joinable:
            yield layer, False
        for layer in self._planned.layers.gated:
            if layer not in self._fixed and self._densities.get(layer, 1.0) >= LIKELY_DENSE:
                yield layer, True

    def _better(self, best: Plan, plan: Plan, layers: tuple[str, ...], form: str) -> Plan:
        models = [self._planned.model_of(best), self._planned.model_of(plan)]
        ratios = []
        for _ in range(CONFIRMATIONS):  # of many changes, some look faster by chance
            times = times_of(models, self._setting, self._rounds, self._most_seconds)
            ratios.append(times.ratio(1, 0))
            taken = is_faster(times, 1, 0)
            if not taken:
                break
        self._trials.append(Trial(layers, form, max(ratios), taken))
        return plan if taken else best


def is_faster(times: Times, model: int, other: int) -> bool:
    """Return whether a model is faster than another by more than noise."""
    return times.ratio(model, other) <= LEAST_GAIN and times.wins(model, other) >= LEAST_WINS


def _form(plan: Plan, layer: str, is_gated: bool) -> str:
    if is_gated:
        return "standard ops" if layer in plan.standard else "gated"
    return "joined" if layer in plan.joined else "dense"
