"""A budget in microseconds, by the costs that ``lccl measure`` has found on a machine."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lccl.errors import UserError
from lccl.errors.arguments import COUNT, FILE, FLAG, MODULE, NUMBER, takes
from lccl.forms.costs import load_costs
from lccl.forms.network_costs import NetworkCosts
from lccl.nn.conv_shapes import conv_shapes
from lccl.nn.converting.measure import ExampleArgs, inputs_of
from lccl.torch_calls import unwrapped
from lccl.train.budget import Budget
from lccl.train.gates import by_gate, gates_of


@takes(model=MODULE, costs=FILE, fraction=NUMBER, threads=COUNT, foreign_costs=FLAG)
def time_budget(
    model: nn.Module, args: ExampleArgs, costs: str | Path, fraction: float, *, threads: int = 1, foreign_costs: bool = False
) -> Budget:
    """Return the budget of a fraction of the dense network's time, in microseconds.

    The time of a gated layer is taken to grow evenly with its density, from that of the gate to
    that with all pixels open, between dense neighbours. Only convolutions count that the table has.

    Args:
        model: the gated network.
        args: an example input, as for :func:`lccl.nn.convert`; its size has to be that of the
            table.
        costs: the table's file.
        fraction: the time of all convolutions over that of the dense network's.
        threads: of one inference, those that the table has to be of.
        foreign_costs: take a table of another machine or of other threads, with a warning.

    Raises:
        UserError: the fraction is not between 0 and 1, the table is no table, is of another machine
            or other threads, or lacks a gated layer, or the network's other layers and gates
            already take more.
    """
    from lccl.profiling.of_module import profile_module

    if not 0 < fraction <= 1:
        raise UserError(f"a budget is a fraction of the dense network's time between 0 and 1, not {fraction}")
    table = load_costs(costs, foreign=foreign_costs, threads=threads)
    network, gates = unwrapped(model), gates_of(model)
    time = NetworkCosts(table, costs, conv_shapes(network))
    inputs = inputs_of(args, network)
    batch: object = dict(inputs.kwargs) or (inputs.args[0] if len(inputs.args) == 1 else inputs.args)
    dense, fixed, slopes = 0.0, 0.0, {}
    for layer in profile_module(model, [batch]).layers:
        found = time.cost(layer.name, layer.dense_macs)
        dense_us = found.dense_us if found else 0.0
        dense += dense_us
        if layer.name not in gates:
            fixed += dense_us
            continue
        closed, opened = (time.gated_us(layer.name, layer.dense_macs, density) for density in (0.0, 1.0))
        fixed += closed
        slopes[layer.name] = max(opened - closed, 1e-3)
    by_gate(slopes, gates, "the time of a budget")
    budget = Budget(fraction * dense, fixed, slopes)
    _ = budget.density
    return budget
