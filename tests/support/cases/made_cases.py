"""Cases that hypothesis makes: any form of the op on maps that the interpreter takes in a second."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from lccl.errors import ContractError
from lccl.op.contract import BINARY_SLOPE, FLT_MAX, conv_hw
from support.cases.op_cases import Case
from support.hosts.cpu import is_decided
from support.share import ALL

EXAMPLES = int(os.environ.get("LCCL_EXAMPLES", "500" if ALL else "0"))
"""How many to make, others in each run; 0: the fixed share of every run."""
MOST_WORK = 40
"""Tiles times taps: what a second is enough for."""
CHANNELS = (1, 2, 3, 7, 8, 13, 16, 24, 33, 40, 70)


@st.composite
def cases(draw: st.DrawFn, *, boxes: bool) -> Case:
    """Any form; with ``boxes`` one that boxes take, else any other."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    side = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    grid = pick(8, 8, 16) if boxes else pick(1, 1, 1, 2, 3, 4, 7)
    kernel = pick((3, 3), (1, 1), (side(1, 4), side(1, 4)), (side(1, 7), side(1, 7)))
    fill = pick("random", "random", "random", "all-off", "all-on", "one-pixel")
    gate = pick("external", "both") if fill == "one-pixel" else pick("external", "both", "grid" if grid > 1 else "kxk", "1x1")
    case = Case(
        name=f"made {draw(st.integers(0, 9999))}",
        why="made by hypothesis",
        n=pick(1, 1, 2, 3),
        c=pick(*CHANNELS),
        k=pick(*CHANNELS),
        hw=(side(1, 13), side(1, 17)),
        kernel=kernel,
        strides=(1, 1) if boxes else pick((1, 1), (1, 1), (2, 2), (side(1, 3), side(1, 3))),
        pads=pick((kernel[0] // 2, kernel[1] // 2) * 2, (side(0, 3), side(0, 3), side(0, 3), side(0, 3))),
        dilations=pick((1, 1), (1, 1), (side(1, 3), side(1, 3))),
        gate="grid" if gate == "1x1" and grid > 1 else gate,
        grid=grid,
        activation_alpha=pick(1.0, 0.0, 0.1),
        gate_threshold=pick(0.0, 0.0, 0.3),
        gate_slope=pick(1.0, 1.0, 2.5, BINARY_SLOPE),
        gate_max=pick(FLT_MAX, 1.0),
        post=draw(st.booleans()),
        residual=draw(st.booleans()),
        post_alpha=pick(1.0, 0.0, 0.2),
        fill=fill,
    )
    return case


def can_be_checked(case: Case) -> bool:
    """Whether its sizes fit together, its gates are decided, and it takes no more than a second."""
    if case.gate_slope == BINARY_SLOPE and case.gate_max != 1.0:
        return False
    try:
        ho, wo = conv_hw(case.hw, case.kernel, case.strides, case.pads, case.dilations)
        cells = case.n * -(-ho // case.grid) * -(-wo // case.grid)
        steps = -(-cells * case.grid**2 // 128) * case.kernel[0] * case.kernel[1] * -(-case.c // 64) * -(-case.k // 64)
        return min(ho, wo) > 0 and steps <= MOST_WORK and is_decided(case.inputs(), case.attributes)
    except (ContractError, ValueError, IndexError):
        return False
