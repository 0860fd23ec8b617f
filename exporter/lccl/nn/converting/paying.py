"""The policy that gates a convolution where a table of costs says that it pays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lccl.errors import UserError
from lccl.forms.costs import ConvShape, CostTable, LayerCost, load_costs
from lccl.nn.converting.policies import Choice, Choices, Policy, barred
from lccl.nn.converting.structure import ConvInfo

PREFIX = "pays:"


def policy_by_costs(where: str, kind: str, density: float, *, threads: int, foreign: bool) -> Policy:
    """Return the policy that ``where="pays:costs.json"`` names.

    Args:
        where: it, with the table's file.
        kind: of gate, as the table has it: "1x1", "kxk" or "grid:G".
        density: that the gates will have.
        threads: those that the table has to be of.
        foreign: take a table of another machine or other threads.

    Raises:
        UserError: the file is no table, is of another machine or other threads, or has not this
            kind of gate.
    """
    path = Path(where.removeprefix(PREFIX))
    costs = load_costs(path, foreign=foreign, threads=threads)
    if not any(kind in layer.chained_us for layer in costs.layers):
        raise UserError(f"{path} has no times of {kind} gates: measure them with lccl measure")
    return partial(_choose, costs, kind, density)


def _choose(costs: CostTable, kind: str, density: float, convs: Sequence[ConvInfo]) -> Choices:
    if any(conv.macs is None for conv in convs):
        raise UserError(f'where="{PREFIX}..." needs an example input to find sizes with: args=torch.randn(1, 3, 224, 224)')
    chosen = {conv.name: _choice(costs, kind, density, conv) for conv in convs}
    if all(_cost(costs, conv) is None for conv in convs):
        raise UserError("the table has the costs of no convolution of this network: measure it with lccl measure")
    return chosen


def _cost(costs: CostTable, conv: ConvInfo) -> LayerCost | None:
    shape = ConvShape(conv.kernel_size, conv.in_channels, conv.out_channels, conv.stride, conv.dilation)
    return costs.find(shape, conv.macs or 0)


def _choice(costs: CostTable, kind: str, density: float, conv: ConvInfo) -> Choice:
    why = barred(conv)
    if why is not None:
        return Choice(False, why)
    cost = _cost(costs, conv)
    gated = None if cost is None else cost.at(kind, density)
    if cost is None or gated is None:
        return Choice(False, f"the table has no cost of it with a {kind} gate")
    times = f"dense {cost.dense_us:.0f} us, gated {gated:.0f} us at density {density:g}"
    if cost.pays(kind, density):
        return Choice(True, f"pays: {times}")
    least = cost.break_even(kind)
    return Choice(False, f"{times}; pays {f'below {least:g}' if least else 'at no density'}")
