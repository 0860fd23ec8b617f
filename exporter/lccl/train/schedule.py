"""Densities by construction: gates are shifted, step by step, from open to a target density."""

from __future__ import annotations

import itertools
import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.errors import UserError, shown
from lccl.errors.arguments import COUNT, FLAG, MODULE, NONE, NUMBER, VALUES_BY_NAME, Kind, takes
from lccl.nn.gate import Gate
from lccl.train.budget import PAIR, Budget
from lccl.train.gates import by_gate, cpu_numbers, gates_of
from lccl.train.shifts import (
    OPEN,
    Line,
    Range,
    as_range,
    density_of,
    line_of,
    moved_by_cost,
    moved_together,
    shift_of,
    slope_of,
    total_of,
)

BUDGET = Kind("a Budget", lambda value: isinstance(value, Budget))
_GAIN = 0.1
"""How much of a step's error in density is fed back into the shift."""
_MEMORY = 0.1
"""The weight of a step in running means."""
_LARGEST_CORRECTION = 4.0
_MARGIN = 0.03
"""The further shift whose density is measured too, for the slope of the density."""
_TIED = 0.1
"""The fraction of logits within the margin from which on they count as equal: no smooth slope."""
_PATIENCE = 100
"""Steps after which a gate that does not follow is named."""
_RAMP = 0.05
"""The fraction of the steps in which the map of an open gate gives way to the gate's own."""
_UNRESOLVED = 1e-5
"""A deviation of logits below this fraction of their mean is rounding."""
_NUMBERS = itertools.count(1)


@dataclass
class _State:
    """What the schedule knows of one gate; plain numbers."""

    shift: float = math.inf
    correction: float = 0.0
    """Added to the shift, since logits are not normal."""
    density: float = 1.0
    """The running mean of the densities of training."""
    mean: float = 0.0
    """Without a norm: the running mean of the logits without their bias."""
    deviation: float = 0.0
    """Without a norm: their running standard deviation; 0 before they are seen to differ."""
    near: float = 0.0
    """The running mean of the fraction of logits within the margin below the edge."""
    last: float = 1.0
    """The density of the last step."""
    stuck: int = 0
    """The steps for which the gate has not told pixels apart."""


@dataclass(frozen=True)
class _Plan:
    """Where the densities go, with layers in the order of the gates."""

    densities: list[float]
    """The targets; those of a budget are where they start to differ."""
    costs: list[float]
    allowed: Range
    learned: bool
    steps: int
    start: float
    freeze_after: int | None
    state: dict[str, float] = field(default_factory=dict)

    def share(self, step: int) -> float:
        """Return how much of the way is done, from 0 to 1."""
        return min(1.0, step / self.steps)

    def at(self, step: int) -> list[float]:
        """Return the densities at a step, before what layers learn."""
        share = self.share(step)
        return [self.start + (target - self.start) * share for target in self.densities]

    def ramp(self, step: int) -> float:
        """Return the share of a gate's own map, beside that of an open one."""
        return 1.0 if self.start < 1 else min(1.0, step / max(1.0, _RAMP * self.steps))


class DensitySchedule:
    """Give a network's gates their densities while it trains, from open to a target.

    A gate opens where its normalized logit is above 0. The schedule sets what is added to it, by
    the normal distribution's quantile of the density and a running correction, so that the density
    is given and the network learns which pixels to open. No term in the loss is needed.

    With a norm, weight and bias of the norm are set; without one, the convolution's bias, from the
    running mean and deviation of its logits, to which the weights are scaled. Gates start as
    :func:`lccl.nn.convert` leaves them, open, so that training starts from the dense network; in
    the first twentieth of the steps their maps go from the open one's to their own.

    Usage, with :meth:`step` once after each step of the optimizer::

        schedule = DensitySchedule(model.train(), target=0.35, steps=1000)
        for x, y in batches:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

    The network exports, folds and loads as before, at any step. To go on after a break, load the
    network's weights, build the schedule anew, then :meth:`load_state_dict`. In a distributed run
    densities are means over all processes. A schedule for gates that another one holds takes them
    over; that one then ends.

    Args:
        model: a network with gates.
        target: the density of every gate; densities by layer; or a :class:`Budget` for the whole
            network.
        steps: the steps from open to the target; about half of a training.
        bounds: the lowest and the highest density of a layer, or these by layer; None: (0.05, 1)
            where layers share a budget, else (0, 1).
        learned: whether layers learn their shares of the budget (without one, of the mean density):
            the shift is then a parameter that the loss moves, and the sum is held.
        freeze_after: the step after which training takes the running statistics of the gates'
            norms, so that densities in eval mode are those of training; None: never. The last epoch
            is a good place.
        start: the density to start from, below 1 for gates that are trained already.

    Raises:
        UserError: the network has no gate, a number is out of range, names differ from those of
            the layers, or the budget cannot be kept.
    """

    @takes(
        model=MODULE,
        target=NUMBER | VALUES_BY_NAME | BUDGET,
        steps=COUNT,
        bounds=PAIR | VALUES_BY_NAME | NONE,
        learned=FLAG,
        freeze_after=COUNT | NONE,
        start=NUMBER,
    )
    def __init__(
        self,
        model: nn.Module,
        target: float | Mapping[str, float] | Budget,
        steps: int,
        *,
        bounds: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
        learned: bool = False,
        freeze_after: int | None = None,
        start: float = 1.0,
    ) -> None:
        self._gates = gates_of(model)
        self._plan = _plan_of(list(self._gates), target, steps, bounds, learned, freeze_after, start)
        self._states = {name: _State(density=start) for name in self._gates}
        self._step = 0
        self._number, self._frozen = next(_NUMBERS), False
        parameters = {name: _set_parameters(gate) for name, gate in self._gates.items()}
        for name, gate in self._gates.items():
            before = gate.held[1] if gate.held else tuple(p.requires_grad for p in parameters[name])
            gate.held = self._number, before  # one that another schedule holds is taken over
            gate.observed = torch.zeros(7, device=gate.conv.weight.device)
            for parameter in parameters[name]:
                parameter.requires_grad_(learned and parameter is parameters[name][-1])
        for name, shift in zip(self._gates, self._shifts_at(0), strict=True):
            self._states[name].shift = shift
            _prepare(name, self._gates[name])
            self._write(name)
        self._freeze()

    @property
    def targets(self) -> dict[str, float]:
        """The densities that the gates are held at now, by layer."""
        return {name: density_of(state.shift) for name, state in self._states.items()}

    @property
    def densities(self) -> dict[str, float]:
        """The densities that training had of late, by layer: running means over its batches."""
        return {name: state.density for name, state in self._states.items()}

    @property
    def arrived(self) -> bool:
        """Whether the densities are at the target."""
        return self._step >= self._plan.steps

    @torch.no_grad()
    def step(self) -> None:
        """Move the gates on by a step, and name one that stays closed or open by itself.

        Raises:
            UserError: there was no forward pass in training mode since the last step.
        """
        rows = cpu_numbers([self._reset(gate) for gate in self._gates.values()])
        if not any(row[0] for row in rows):
            raise UserError(
                "no forward pass in training mode since the last step of the schedule: call step() once after each step of the "
                "optimizer"
            )
        for (name, gate), (calls, *sums, _) in zip(self._gates.items(), rows, strict=True):
            if calls:
                self._take(name, gate, [value / calls for value in sums])
        self._step += 1
        for name, shift in zip(self._gates, self._shifts_at(self._step), strict=True):
            self._states[name].shift = shift
            self._write(name)
        self._freeze()
        self._watch()

    def state_dict(self) -> dict[str, object]:
        """Return what :meth:`load_state_dict` takes: numbers and tensors, to be saved."""
        first = {name: gate.first for name, gate in self._gates.items() if gate.first is not None}
        return {
            "step": self._step,
            "gates": {name: dict(vars(state)) for name, state in self._states.items()},
            "first": first,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a saved state; load the network's weights before.

        Raises:
            UserError: the state is of another network or none at all.
        """
        step, gates = (state.get(key) for key in ("step", "gates")) if isinstance(state, Mapping) else (None, None)
        known = set(vars(_State()))
        if type(step) is not int or not isinstance(gates, Mapping):
            raise UserError("a schedule goes on from what its state_dict() returned")
        by_gate(gates, self._gates, "the state of a schedule")
        if any(not isinstance(values, Mapping) or set(values) != known for values in gates.values()):
            raise UserError("a schedule goes on from what its state_dict() returned")
        first = state.get("first", {})
        if not isinstance(first, Mapping) or any(
            not isinstance(first.get(name, gate.conv.weight), Tensor)
            or first.get(name, gate.conv.weight).shape != gate.conv.weight.shape
            for name, gate in self._gates.items()
        ):
            raise UserError("a schedule goes on from what its state_dict() returned")
        self._step = step
        self._states = {name: _State(**gates[name]) for name in self._gates}
        for name, gate in self._gates.items():
            self._reset(gate)
            gate.trained_density = self._states[name].density
            if gate.first is not None and name not in first and not gate.conv.weight.any():
                gate.conv.weight.copy_(gate.first)  # which building the schedule has set aside
            gate.first = first[name].to(gate.conv.weight) if name in first else None
            self._write(name)
        self._freeze()

    def freeze(self) -> None:
        """From now on let training take the running statistics of the gates' norms."""
        self._frozen = True
        self._freeze()

    def close(self) -> None:
        """Leave the gates as they are, and let parameters be trained that were before."""
        for gate in self._gates.values():
            if gate.held is not None and gate.held[0] == self._number:
                for parameter, trainable in zip(_set_parameters(gate), gate.held[1], strict=True):
                    parameter.requires_grad_(trainable)
                gate.observed, gate.first, gate.held, gate.frozen = None, None, None, False

    def _reset(self, gate: Gate) -> Tensor:
        """Return what was observed since the last time, and begin anew."""
        sums = gate.observed
        if sums is None or gate.held is None or gate.held[0] != self._number:
            raise UserError("the schedule is closed, or another one has taken over: build a new one")
        found, device = sums.clone(), gate.conv.weight.device
        gate.observed = sums = sums.to(device)
        sums[:-1] = 0
        return found

    def _take(self, name: str, gate: Gate, observed: list[float]) -> None:
        """Learn from a step what the gate's density was, and how far its logits are from normal."""
        state, (density, higher, mean, square, variance) = self._states[name], observed
        state.last, state.density = density, state.density + _MEMORY * (density - state.density)
        state.near += _MEMORY * (higher - density - state.near)
        gate.trained_density = state.density
        line, known = None if state.shift == math.inf else self._line(name), True
        if isinstance(gate.norm, _BatchNorm):
            bias = _number(gate.norm.bias)
        else:
            between = square - mean**2  # of several calls or processes
            between = between if between > 1e-6 * square else 0.0
            deviation = math.sqrt(variance + between)
            assert gate.conv.bias is not None
            bias, known = _number(gate.conv.bias) + state.mean, state.deviation > 0
            if known:
                state.mean += _MEMORY * (mean - state.mean)
                state.deviation += _MEMORY * (deviation - state.deviation)
            elif deviation > max(_UNRESOLVED * abs(mean), 1e-12):
                state.mean, state.deviation = mean, deviation
        if line is None or not known or self._plan.ramp(self._step) < 1:
            return  # the gate is open, or more so by the mixture
        if self._plan.learned:
            state.shift = line.shift_at(bias) - state.correction
        error, near = density_of(state.shift) - density, higher - density
        if near > _TIED and 0 < error < near / 2:
            return  # many equal logits wait at the edge: to open all of them is further off
        slope = max(state.near / _MARGIN, slope_of(state.shift) / 2, _GAIN)
        moved = state.correction + _GAIN * error / slope
        state.correction = max(-_LARGEST_CORRECTION, min(_LARGEST_CORRECTION, moved))

    def _line(self, name: str) -> Line:
        """Return how a gate with a finite shift is set at this step."""
        state = self._states[name]
        return line_of(self._gates[name].activation, state.shift + state.correction, self._plan.ramp(self._step))

    def _shifts_at(self, step: int) -> list[float]:
        plan = self._plan
        planned = [shift_of(density) for density in plan.at(step)]
        if not plan.learned or not plan.share(step):
            return planned
        before = [state.shift for state in self._states.values()]
        if math.inf in before:
            before = planned
        else:
            held = total_of([shift_of(density) for density in plan.at(step - 1)], plan.costs)
            before = moved_by_cost(before, plan.costs, held, plan.allowed)
        return moved_together(before, plan.costs, total_of(planned, plan.costs), plan.allowed)

    def _write(self, name: str) -> None:
        """Set the gate's parameters to its shift."""
        gate, state = self._gates[name], self._states[name]
        normed = isinstance(gate.norm, _BatchNorm)
        if state.shift == math.inf or not (normed or state.deviation):
            _open(gate)
            return
        line = self._line(name)
        assert gate.observed is not None
        gate.observed[-1] = _MARGIN * line.scale
        if isinstance(gate.norm, _BatchNorm):
            gate.norm.weight.fill_(line.scale)
            gate.norm.bias.fill_(line.bias)
        else:
            assert gate.conv.bias is not None
            factor = line.scale / state.deviation
            if gate.first is None:
                gate.conv.weight.mul_(factor)
            else:
                gate.conv.weight.copy_(factor * gate.first)
                gate.first = None
            state.mean, state.deviation = state.mean * factor, line.scale
            gate.conv.bias.fill_(line.bias - state.mean)

    def _freeze(self) -> None:
        after = self._plan.freeze_after
        for gate in self._gates.values():
            gate.frozen = self._frozen or (after is not None and self._step >= after)

    def _watch(self) -> None:
        for name, state in self._states.items():
            wanted = density_of(state.shift)
            flat = state.last <= min(0.002, wanted / 10) or state.last >= max(0.999, wanted + 0.05)
            state.stuck = state.stuck + 1 if flat else 0
            if state.stuck == _PATIENCE:
                what = "is closed at every pixel" if state.density < 0.002 else "is open at every pixel"
                if 0.002 <= state.density <= 0.999:
                    what = "is open or closed at all pixels of a batch alike"
                warnings.warn(
                    f"the gate of {name} {what}, although its density should be {wanted:.2f}: its logits do not differ from "
                    "pixel to pixel; look at its input, or leave this layer without a gate",
                    stacklevel=3,
                )


def _plan_of(
    names: list[str],
    target: float | Mapping[str, float] | Budget,
    steps: int,
    bounds: tuple[float, float] | Mapping[str, tuple[float, float]] | None,
    learned: bool,
    freeze_after: int | None,
    start: float,
) -> _Plan:
    costs = dict.fromkeys(names, 1.0)
    if isinstance(target, Budget):
        by_gate(target.costs, names, "a budget")
        costs, densities = {name: float(target.costs[name]) for name in names}, dict.fromkeys(names, target.density)
    elif isinstance(target, Mapping):
        by_gate(target, names, "a target")
        densities = {name: target[name] for name in names}
    else:
        densities = dict.fromkeys(names, target)
    shared = learned or isinstance(target, Budget)
    given: Mapping[str, object] = (
        bounds if isinstance(bounds, Mapping) else dict.fromkeys(names, bounds or ((0.05, 1.0) if shared else (0.0, 1.0)))
    )
    by_gate(given, names, "bounds")
    ranges: dict[str, tuple[float, float]] = {}
    for name in names:
        pair = given[name]
        if not PAIR.accepts(pair) or not 0 <= pair[0] <= pair[1] <= 1:  # type: ignore[index]
            raise UserError(f"bounds of a density are two numbers between 0 and 1, the lower one first, not {shown(pair)}")
        ranges[name] = (pair[0], pair[1])  # type: ignore[index]
        density = densities[name]
        if not NUMBER.accepts(density) or not 0 < density <= 1:
            raise UserError(f"a target is a density between 0 and 1, not {shown(density)}")
    if not 0 < start <= 1:
        raise UserError(f"start is a density between 0 and 1, not {start}")
    if shared and not isinstance(target, Mapping):
        total = sum(densities[n] * costs[n] for n in names)
        least, most = (sum(ranges[n][i] * costs[n] for n in names) for i in (0, 1))
        if not least <= total <= most:
            raise UserError(
                f"the budget needs a mean density of {total / sum(costs.values()):.3f}, but the bounds allow "
                f"{least / sum(costs.values()):.3f} to {most / sum(costs.values()):.3f}: change one of them"
            )
        allowed = as_range(ranges)
        shifts = moved_together([shift_of(densities[n]) for n in names], [costs[n] for n in names], total, allowed)
        densities = dict(zip(names, map(density_of, shifts), strict=True))
    outside = next((n for n in names if not ranges[n][0] - 1e-6 <= densities[n] <= ranges[n][1] + 1e-6), None)
    if outside is not None:
        raise UserError(f"the target {densities[outside]} of {outside} is outside of its bounds {ranges[outside]}: change one")
    return _Plan(
        [float(densities[n]) for n in names], [costs[n] for n in names], as_range(ranges), learned, steps, start, freeze_after
    )


def _set_parameters(gate: Gate) -> list[nn.Parameter]:
    """Return the parameters that the schedule sets.

    Raises:
        UserError: the gate's norm has none.
    """
    if not isinstance(gate.norm, _BatchNorm):
        return [p for p in (gate.conv.bias,) if isinstance(p, nn.Parameter)]
    found = [p for p in (gate.norm.weight, gate.norm.bias) if isinstance(p, nn.Parameter)]
    if len(found) < 2:
        raise UserError("a gate's norm without weight and bias cannot be shifted: build it with affine=True")
    return found


@torch.no_grad()
def _prepare(name: str, gate: Gate) -> None:
    """Turn a norm's negative weight around, and choose first weights where all are 0.

    The schedule's scales are positive: with the sign in the convolution, the gate opens the same
    pixels as before. Weights of 0 differ nowhere; the first ones depend on the layer's name alone,
    so that they are the same in all processes.
    """
    if isinstance(gate.norm, _BatchNorm):
        if _number(gate.norm.weight) < 0:
            for tensor in (gate.norm.weight, gate.norm.running_mean, gate.conv.weight, gate.conv.bias):
                if tensor is not None:
                    tensor.neg_()
        return
    if not bool(gate.conv.weight.any()):
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        bound = 1 / math.sqrt(gate.conv.weight[0].numel())
        first = torch.empty(gate.conv.weight.shape).uniform_(-bound, bound, generator=generator)
        gate.first = first.to(gate.conv.weight)


@torch.no_grad()
def _open(gate: Gate) -> None:
    """Make the gate's map 1; weights without a norm are set aside for the time when it closes."""
    if isinstance(gate.norm, _BatchNorm):
        gate.norm.weight.zero_()
        gate.norm.bias.fill_(OPEN)
        return
    assert gate.conv.bias is not None
    if gate.first is None:
        gate.first = gate.conv.weight.detach().clone()
    gate.conv.weight.zero_()
    gate.conv.bias.fill_(OPEN)


def _number(parameter: Tensor) -> float:
    return float(parameter.detach())
