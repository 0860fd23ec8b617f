"""Budgets over a whole network, and the densities of its layers that keep to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.errors import UserError, shown
from lccl.errors.arguments import CALLABLE, MODULE, NUMBER, VALUES_BY_NAME, Kind, require_kind, takes
from lccl.nn.converting.measure import ExampleArgs, inputs_of
from lccl.nn.gate import Gate
from lccl.torch_calls import evaluating, unwrapped
from lccl.train.batches import loss_of, pair_list, run_batch
from lccl.train.gates import by_gate, gates_of

DENSITIES = (0.75, 0.5, 0.25, 0.1)
"""At these, in turn, a layer's sensitivity is measured."""


@dataclass(frozen=True)
class Budget:
    """What a network may cost: fixed + the sum of cost * density over the gated layers <= limit.

    The unit is the caller's: MACs, or measured time.
    """

    limit: float
    fixed: float
    """The cost of all that no density changes: layers without gates, and the gates themselves."""
    costs: Mapping[str, float]
    """The cost of each gated layer's convolution with all pixels open, by name."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: one is no number, or a cost is not above 0.
        """
        require_kind("limit", self.limit, NUMBER)
        require_kind("fixed", self.fixed, NUMBER)
        require_kind("costs", self.costs, VALUES_BY_NAME)
        wrong = next((cost for cost in self.costs.values() if not NUMBER.accepts(cost) or not cost > 0), None)
        if wrong is not None or not self.costs:
            raise UserError(f"a budget has a cost above 0 for each gated layer, not {shown(wrong)}")

    @property
    def density(self) -> float:
        """The density that costs the limit, if all layers have the same.

        Raises:
            UserError: no density does.
        """
        most = sum(self.costs.values())
        if self.limit <= self.fixed:
            raise UserError(
                f"the budget of {self.limit:,.0f} is less than what costs {self.fixed:,.0f} at any density, the layers without "
                "gates and the gates: give gates to more layers, or allow more"
            )
        return min(1.0, (self.limit - self.fixed) / most)


@takes(model=MODULE, fraction=NUMBER)
def macs_budget(model: nn.Module, args: ExampleArgs, fraction: float) -> Budget:
    """Return the budget of a fraction of the dense network's multiply-accumulates (MACs).

    Args:
        model: the gated network.
        args: an example input, as for :func:`lccl.nn.convert`; its size decides the MACs.
        fraction: the MACs of the whole network, gates included, over those without gates and with
            all pixels open.

    Raises:
        UserError: the fraction is not between 0 and 1, the network has no gate or does not run on
            the input, or its other layers and gates already take more.
    """
    from lccl.profiling.of_module import profile_module

    if not 0 < fraction <= 1:
        raise UserError(f"a budget is a fraction of the dense network's MACs between 0 and 1, not {fraction}")
    gates = gates_of(model)
    inputs = inputs_of(args, unwrapped(model))
    if inputs.kwargs or len(inputs.args) != 1:
        batch: object = dict(inputs.kwargs) or inputs.args
    else:
        batch = inputs.args[0]
    profile = profile_module(model, [batch])
    costs = {layer.name: float(layer.dense_macs) for layer in profile.layers if layer.name in gates}
    by_gate(costs, gates, "the MACs of a budget")
    fixed = profile.dense_macs - sum(costs.values()) + sum(layer.gate_macs for layer in profile.layers)
    found = Budget(fraction * profile.dense_macs, fixed, costs)
    _ = found.density
    return found


@dataclass(frozen=True)
class Sensitivity:
    """What the loss is when one layer alone has fewer open pixels, by layer and density."""

    dense: float
    """The loss with all gates open."""
    losses: Mapping[str, Mapping[float, float]] = field(default_factory=lambda: MappingProxyType({}))


@torch.no_grad()
@takes(model=MODULE, loss=CALLABLE)
def sensitivity(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    densities: Sequence[float] = DENSITIES,
) -> Sensitivity:
    """Measure what each layer's open pixels are worth, with nothing trained.

    One layer after another is given each density on these batches, all others stay open, and the
    loss is taken in eval mode. The network is afterwards as it was. Gates that were fitted
    (:func:`fit_gates`) know which pixels to close first; a random gate closes any.

    Args:
        model: a network with gates.
        batches: pairs of an input and a target; a few hundred images are enough.
        loss: called with outputs and targets.
        densities: those to measure.

    Raises:
        UserError: the network has no gate, or one that does not run; there is no batch, or a
            density is not between 0 and 1.
    """
    model = unwrapped(model)  # what torch.compile returns may not call hooks
    gates = gates_of(model)
    if not isinstance(densities, Sequence) or not densities or not all(NUMBER.accepts(d) and 0 < d < 1 for d in densities):
        raise UserError(f"sensitivities are measured at a list of densities between 0 and 1, not {shown(densities)}")
    device = next(gate.conv.weight.device for gate in gates.values())
    data = pair_list(batches, "no sensitivity can be measured", device)
    cuts = {name: _Cut(gate) for name, gate in gates.items()}
    hooks = [gate.register_forward_hook(cuts[name]) for name, gate in gates.items()]
    try:
        with evaluating(model):
            dense = _mean_loss(model, data, loss)
            silent = next((name for name, cut in cuts.items() if not cut.called), None)
            if silent is not None:
                raise UserError(
                    f"the gate of {silent} was not seen to run, so what its layer is worth cannot be measured: give the network "
                    "without parts that torch.compile has compiled, and leave layers that are not used without a gate"
                )
            losses = {}
            for name, cut in cuts.items():
                losses[name] = {density: cut.at(density, lambda: _mean_loss(model, data, loss)) for density in densities}
    finally:
        for hook in hooks:
            hook.remove()
    return Sensitivity(dense, losses)


class _Cut:
    """A hook that opens a gate, or the given fraction of it that has the largest logits."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._density, self.called = gate, 1.0, False
        norm = gate.norm
        self._sign = -1.0 if isinstance(norm, _BatchNorm) and norm.affine and float(norm.weight) < 0 else 1.0

    def at(self, density: float, measured: Callable[[], float]) -> float:
        """Return what is measured with this density."""
        self._density = density
        try:
            return measured()
        finally:
            self._density = 1.0

    def __call__(self, _gate: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        self.called = True
        if self._density >= 1:
            return torch.ones_like(logits)
        top, left, bottom, right = self._gate.pads
        raw: Tensor = self._sign * self._gate.conv(nn.functional.pad(args[0], (left, right, top, bottom)))
        kept = max(1, round(self._density * raw.numel()))
        edge = raw.flatten().kthvalue(raw.numel() - kept + 1).values
        opened: Tensor = raw >= edge
        return opened.to(logits.dtype)


def _mean_loss(model: nn.Module, data: Sequence[tuple[Tensor, Tensor]], loss: Callable[..., Tensor]) -> float:
    return sum(float(loss_of(loss, run_batch(model, (x, y)), y)) * len(x) for x, y in data) / sum(len(x) for x, _ in data)


PAIR = Kind("a pair of numbers", lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(NUMBER.accepts, value)))


@takes(
    budget=Kind("a Budget", lambda value: isinstance(value, Budget)),
    measured=Kind("a Sensitivity", lambda value: isinstance(value, Sensitivity)),
    bounds=PAIR,
)
def allocate(budget: Budget, measured: Sensitivity, bounds: tuple[float, float] = (0.05, 1.0)) -> dict[str, float]:
    """Return the densities of the layers that lose least under a budget.

    Each layer's loss is taken as the convex curve under its measured points. From all open, the
    part of a curve that loses least per cost saved is taken next, until the budget is kept. No
    layer goes below its lowest measured density, since nothing says what it loses there.

    Args:
        budget: the limit.
        measured: of :func:`sensitivity`, on the same network.
        bounds: the lowest and the highest density of a layer.

    Raises:
        UserError: the budget cannot be kept within the bounds, or names differ.
    """
    low, high = bounds
    if not 0 <= low < high <= 1:
        raise UserError(f"bounds are two densities between 0 and 1, the lower one first, not {bounds}")
    by_gate(measured.losses, budget.costs, "a sensitivity")
    found = dict.fromkeys(budget.costs, high)
    spare = budget.limit - budget.fixed
    if sum(budget.costs.values()) * low > spare:
        raise UserError(
            f"the budget of {budget.limit:,.0f} cannot be kept with densities from {low}: allow a lower one, or more"
        )
    least = {name: min(high, max(low, min(curve, default=1.0))) for name, curve in measured.losses.items()}
    if sum(budget.costs[name] * density for name, density in least.items()) > spare:
        raise UserError(
            f"the budget of {budget.limit:,.0f} cannot be kept with the densities that were measured, from "
            f"{min(least.values())}: measure the sensitivity at lower ones too"
        )
    pieces = [
        (slope / budget.costs[name], name, to)
        for name, curve in measured.losses.items()
        for slope, to in _pieces(curve, measured.dense, least[name], high)
    ]
    for _, name, to in sorted(pieces, key=lambda piece: (piece[0], -piece[2])):
        over = sum(budget.costs[n] * d for n, d in found.items()) - spare
        if over <= 0:
            break
        found[name] = max(to, found[name] - over / budget.costs[name])
    return found


def _pieces(curve: Mapping[float, float], dense: float, low: float, high: float) -> list[tuple[float, float]]:
    """Return, from the highest density down, the convex curve's parts: their slopes and ends."""
    points = sorted({**curve, 1.0: dense}.items(), reverse=True)
    hull = [points[0]]
    while hull[-1] != points[-1]:
        d, loss = hull[-1]
        hull.append(min((p for p in points if p[0] < d), key=lambda p: ((p[1] - loss) / (d - p[0]), p[0])))
    ends = [d for d, _ in hull[1:-1]] + [low]
    slopes = [max(0.0, (hull[i + 1][1] - hull[i][1]) / (hull[i][0] - hull[i + 1][0])) for i in range(len(hull) - 1)]
    return [(slope, max(end, low)) for slope, end in zip(slopes, ends, strict=True) if end < high]
