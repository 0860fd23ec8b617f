"""Named cases of grid gates whose cells are boxes of 8 x 8, and the others in that form."""

from __future__ import annotations

from dataclasses import replace

from support.cases.op_cases import CASES, Case

BOXES = (
    Case("boxes", "two boxes a tile, none cut", c=16, k=24, hw=(16, 24), gate="grid", grid=8),
    Case("boxes-last-alone", "an odd number of open boxes, a residual and clipped edges", n=3, c=8, k=8, hw=(11, 13), gate="external",
         grid=8, residual=True, post=True, activation_alpha=0.0, post_alpha=0.1),
    Case("boxes-one", "a single open box: the second of its tile is not stored", c=8, k=8, hw=(16, 24), gate="external", grid=8,
         fill="one-pixel", residual=True),
    Case("boxes-16", "cells of 16, cut in four; C and K beyond a tile, and of no alignment", c=67, k=70, hw=(10, 18),
         kernel=(1, 3), pads=(0, 1, 0, 1), gate="external", grid=16, fill="all-on"),
    Case("boxes-dilated", "dilation 2 and a kernel of 5 x 3", c=8, k=8, hw=(9, 16), kernel=(5, 3), dilations=(2, 2),
         pads=(4, 2, 4, 2), gate="grid", grid=8),
    Case("boxes-all", "every box open, batch 2", c=8, k=8, hw=(16, 9), gate="external", grid=8, fill="all-on", n=2),
    Case("boxes-none", "no box open", c=8, k=8, hw=(16, 16), gate="external", grid=8, fill="all-off", residual=True),
)  # fmt: skip


def _as_boxes(case: Case) -> Case:
    gate = case.gate if case.gate in ("external", "both") else "grid"
    fill = "random" if gate == "grid" and case.fill == "one-pixel" else case.fill
    return replace(case, name=f"{case.name}-8", gate=gate, grid=8, strides=(1, 1), hw=(9, 7), fill=fill)


FORMS = tuple(_as_boxes(case) for case in CASES if case.grid == 1 and case.strides == (1, 1))
"""What the named cases have, but for strides and other grids, with cells of 8."""
