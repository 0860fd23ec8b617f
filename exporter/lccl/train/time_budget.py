"""A budget in microseconds, by the costs that ``lccl measure`` has found on a machine."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lccl.errors import UserError
from lccl.errors.arguments import FILE, FLAG, MODULE, NUMBER, takes
from lccl.forms.costs import CostTable, LayerCost, load_costs
from lccl.nn.conv import LCCLConv2d
from lccl.nn.converting.measure import ExampleArgs, inputs_of
from lccl.torch_calls import unwrapped
from lccl.train.budget import Budget
from lccl.train.gates import by_gate, gates_of


@takes(model=MODULE, costs=FILE, fraction=NUMBER, foreign_costs=FLAG)
def time_budget(
    model: nn.Module, args: ExampleArgs, costs: str | Path, fraction: float, *, foreign_costs: bool = False
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
        foreign_costs: take a table of another machine, with a warning.

    Raises:
        UserError: the fraction is not between 0 and 1, the table is no table, is of another machine
            or lacks a gated layer, or the network's other layers and gates already take more.
    """
    from lccl.profiling.of_module import profile_module

    if not 0 < fraction <= 1:
        raise UserError(f"a budget is a fraction of the dense network's time between 0 and 1, not {fraction}")
    table = load_costs(costs, foreign=foreign_costs)
    network, gates = unwrapped(model), gates_of(model)
    inputs = inputs_of(args, network)
    batch: object = dict(inputs.kwargs) or (inputs.args[0] if len(inputs.args) == 1 else inputs.args)
    dense, fixed, slopes = 0.0, 0.0, {}
    for layer in profile_module(model, [batch]).layers:
        module = network.get_submodule(layer.name)
        found = _find(table, module, layer.dense_macs)
        if layer.name not in gates:
            dense, fixed = dense + (found.dense_us if found else 0.0), fixed + (found.dense_us if found else 0.0)
            continue
        assert isinstance(module, LCCLConv2d)
        kind = f"grid:{module.gate_size}" if module.gate_kind == "grid" else module.gate_kind
        closed, opened = (None if found is None else found.at(kind, density) for density in (0.0, 1.0))
        if found is None or closed is None or opened is None:
            raise UserError(f"{costs} has no cost of {layer.name} with a {kind} gate: measure this network with lccl measure")
        dense, fixed = dense + found.dense_us, fixed + closed
        slopes[layer.name] = max(opened - closed, 1e-3)
    by_gate(slopes, gates, "the time of a budget")
    budget = Budget(fraction * dense, fixed, slopes)
    _ = budget.density
    return budget


def _find(table: CostTable, module: nn.Module, macs: int) -> LayerCost | None:
    conv = module.conv if isinstance(module, LCCLConv2d) else module
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
        return None
    kernel, strides, dilations = ((a, b) for a, b in (conv.kernel_size, conv.stride, conv.dilation))
    return table.find(kernel, conv.in_channels, conv.out_channels, strides, dilations, macs)
