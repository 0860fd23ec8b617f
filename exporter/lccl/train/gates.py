"""The gates of a network by the names of their layers, and what training tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lccl.errors import UserError
from lccl.errors.arguments import MODULE, NUMBER, takes
from lccl.nn.conv import LCCLConv2d
from lccl.nn.gate import Gate
from lccl.torch_calls import mean_over_processes, plain_name, unwrapped


def gates_of(model: nn.Module) -> dict[str, Gate]:
    """Return the gates by the name of their layer, as a profile has it.

    Raises:
        UserError: the network has no gate.
    """
    network = unwrapped(model)
    found: dict[str, Gate] = {}
    for path, module in network.named_modules():
        if isinstance(module, Gate):
            parent, _, child = path.rpartition(".")
            inside = path and isinstance(network.get_submodule(parent), LCCLConv2d) and child == "gate"
            found[plain_name(network, parent if inside else path) or "(model)"] = module
    if not found:
        raise UserError(
            "the network has no gate, so it has no density: give it gates with lccl.nn.convert or lccl.nn.LCCLConv2d"
        )
    return found


def by_gate(given: Mapping[str, object], gates: Iterable[str], what: str) -> None:
    """Check that names are those of the gated layers.

    Raises:
        UserError: one is of no gated layer, or a layer is missing.
    """
    names = list(gates)
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if unknown or missing:
        wrong = f"{unknown[0]}, which is no gated layer" if unknown else f"none for {missing[0]}"
        raise UserError(f"{what} is given by the names of all gated layers ({', '.join(names[:3])}, ...), but holds {wrong}")


@takes(model=MODULE, lr=NUMBER, weight_decay=NUMBER, gate_lr=NUMBER)
def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, gate_lr: float = 0.1
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Return an optimizer's two groups of parameters: the network's, and the gates'.

    Gates learn at a rate of their own and without weight decay, which would move them towards a
    density of one half.

    Args:
        model: a network with gates.
        lr: the learning rate of the network.
        weight_decay: that of the network.
        gate_lr: the gates' learning rate, as a fraction of ``lr``.

    Raises:
        UserError: the network has no gate.
    """
    own = [parameter for gate in gates_of(model).values() for parameter in gate.parameters()]
    inside = set(map(id, own))
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [
        {"params": rest, "lr": lr, "weight_decay": weight_decay},
        {"params": own, "lr": lr * gate_lr, "weight_decay": 0.0},
    ]


def frozen_norms(model: nn.Module) -> None:
    """Put every norm into eval mode, so that training leaves the statistics as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def cpu_numbers(sums: list[Tensor]) -> list[list[float]]:
    """Return rows of numbers on the CPU, their means over all processes, by one transfer."""
    rows: list[list[float]] = mean_over_processes(torch.stack([row.to(sums[0].device) for row in sums])).tolist()
    return rows
