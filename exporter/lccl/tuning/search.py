"""The order in which layers are cut: what loses least per cost saved comes first. Numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lccl.tuning.cuts import AS_BUILT, Setting


@dataclass(frozen=True)
class Level:
    """One setting of a layer, measured with all other layers as built."""

    setting: Setting
    cost: float
    """Of the whole network."""
    lost: float
    """How much worse the score is than as built; below 0 where it is better."""
    tie: float = 0.0
    """The same of a smoother score, which decides between equal ones."""


def path(curves: Mapping[str, Sequence[Level]]) -> Iterator[dict[str, Setting]]:
    """Yield the settings of all layers, one step after another, from the most costly.

    It begins with layers open that are better open, and moves one layer at a time to one of its
    cheaper settings: the one that loses least for what it saves, as measured alone.

    Args:
        curves: by layer, the measured settings.
    """
    orders = {name: _order(levels) for name, levels in curves.items()}
    at = dict.fromkeys(orders, 0)
    yield {name: order[0].setting for name, order in orders.items()}
    while True:
        moves = [
            (*_worth(order[at[name]], order[after]), name, after)
            for name, order in orders.items()
            for after in range(at[name] + 1, len(order))
        ]
        if not moves:
            return
        *_, name, after = min(moves)
        at[name] = after
        yield {name: order[at[name]].setting for name, order in orders.items()}


def _order(levels: Sequence[Level]) -> list[Level]:
    """Return the levels that are worth trying, each cheaper than the one before."""
    built = next(level for level in levels if level.setting == AS_BUILT)
    kept = [level for level in levels if level is built or level.cost < built.cost or (level.lost, level.tie) < (0, 0)]
    ordered = sorted(kept, key=lambda level: (-level.cost, level.lost, level.tie))
    return [level for i, level in enumerate(ordered) if i == 0 or level.cost < ordered[i - 1].cost or level is built]


def _worth(now: Level, after: Level) -> tuple[float, float]:
    """Return what a move loses per cost saved, in the score and in the smoother one."""
    saved = max(now.cost - after.cost, 1e-12)
    return (after.lost - now.lost) / saved, (after.tie - now.tie) / saved


def chosen_steps(count: int, most: int) -> list[int]:
    """Return at most so many of ``range(count)``, evenly, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
