"""The Triton kernels' own source on Triton's interpreter, against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="pip install triton")


from lccl.backends.torch.triton import kernels, launch
from lccl.backends.torch.triton.configurations import CONFIGURATIONS
from lccl.backends.torch.triton.launch import memory_of, run
from lccl.op.reference import lccl_gate
from support.cases.box_cases import BOXES, FORMS
from support.cases.op_cases import CASES, Case
from support.hosts.triton import HOPPER, TYPES, error_of, reference, require_right, tensors

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_triton")]
IN_PLACE = [
    replace(next(c for c in CASES if c.name == name), k=8) for name in ("leaky", "everything", "all-off")
]  # whose residual is in the kernels' memory without a copy
NAMED = {case.name: case for case in (*CASES, *BOXES, *FORMS)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(("dtype", "configuration"), [("float16", "rows_128x64"), ("bfloat16", "rows_64x32")])
def test_named_cases_by_rows(case: Case, dtype: str, configuration: str) -> None:
    require_right(case, TYPES[dtype], configuration)


@pytest.mark.parametrize("case", [*CASES[::3], BOXES[1]], ids=lambda case: case.name)
def test_some_cases_by_rows_in_float32(case: Case) -> None:
    """The source is the same but for the type of the operands; these take every third case."""
    require_right(case, torch.float32, "rows_64x32")


@pytest.mark.parametrize("case", [*BOXES, *FORMS], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_named_cases_by_boxes(case: Case, dtype: str) -> None:
    require_right(case, TYPES[dtype], "boxes_2x64x64")


@pytest.mark.parametrize("configuration", [c.name for c in CONFIGURATIONS if 9 in (c.majors or (9,))])
def test_every_tile(configuration: str) -> None:
    """More channels than the widest tile, and an odd number of boxes."""
    case = replace(NAMED["boxes-last-alone"], k=264 if "256" in configuration else 136, n=1, kernel=(1, 1), pads=(0, 0, 0, 0))
    require_right(case, torch.float16, configuration)


@pytest.mark.parametrize("case", [NAMED["boxes-one"], NAMED["boxes-last-alone"]], ids=lambda case: case.name)
@pytest.mark.parametrize("configuration", ["boxes_2x64x64", "boxes_2x64x256"])
def test_an_odd_number_of_boxes_with_the_residual_in_place(case: Case, configuration: str) -> None:
    """The spare half of the last tile stores nothing; if it did, the residual would be added twice."""
    inputs = {name: t.double().numpy() for name, t in tensors(case, torch.float16).items()}
    open_boxes = int((lccl_gate(inputs, case.attributes)[:, 0, ::8, ::8] > 0).sum())
    assert open_boxes % 2 == 1
    require_right(case, torch.float16, configuration, in_place=True)


@pytest.mark.parametrize("case", IN_PLACE, ids=lambda case: case.name)
def test_the_residual_in_place_by_rows(case: Case) -> None:
    require_right(case, torch.float16, "rows_64x32", in_place=True)


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_batch(n: int) -> None:
    case = CASES[0]
    inputs = tensors(case, torch.float16)
    inputs["X"] = inputs["X"][:n]
    assert run(inputs, case.attributes, capability=HOPPER).shape == (n, 6, 9, 11)


class Tampered:
    """The gate's kernel; its list is overwritten behind it."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch_and_tamper(*arguments: Any, **keywords: Any) -> None:
            kernels.gate_cells[grid](*arguments, **keywords)
            arguments[5].zero_()

        return launch_and_tamper


@pytest.mark.parametrize("configuration", ["rows_64x32", "boxes_2x64x64"])
@pytest.mark.parametrize(("is_open", "needs_list"), [(17, True), (18, False)])
def test_beyond_a_share_of_open_cells_the_list_is_not_read(
    configuration: str, is_open: int, needs_list: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count on the device decides: with 18 of 20 open cells the list may hold anything."""
    case = Case("dense", "most cells open", c=8, k=8, hw=(8, 20 * 8), kernel=(1, 1), pads=(0, 0, 0, 0), gate="external", grid=8)
    inputs = tensors(case, torch.float16)
    inputs["gate"] = (torch.arange(20) < is_open).half().reshape(1, 1, 1, 20)
    want = reference(case, inputs)
    others = {name: getattr(kernels, name) for name in ("conv_rows", "conv_boxes", "close_pixels")}
    monkeypatch.setattr(launch, "kernels", SimpleNamespace(gate_cells=Tampered(), **others))
    y = torch.full((1, 8, 160, 8), torch.nan, dtype=torch.float16)
    got = run(inputs, case.attributes, capability=HOPPER, configuration=configuration, into=y)
    assert (error_of(got, want) < 4e-3) == (not needs_list)


@pytest.mark.parametrize("configuration", ["rows_64x32", "boxes_2x64x64"])
def test_maps_of_one_pixel(configuration: str) -> None:
    """Contiguous, so that their strides as channels_last maps are no multiples of 16 bytes."""
    case = Case("one-pixel", "1x1 maps", n=2, c=16, k=8, hw=(1, 1), gate="external", grid=8, residual=True)
    inputs = tensors(case, torch.float16)
    got = run(inputs, case.attributes, capability=HOPPER, configuration=configuration)
    assert error_of(got, reference(case, inputs)) < 4e-3


def test_simulated_gates_are_open_whatever_the_threshold() -> None:
    """TensorRT times tactics with them."""
    gmap, cells, count = torch.full((64,), torch.nan), torch.zeros(64, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    empty = torch.empty(0)
    kernels.gate_cells[(1,)](
        empty, empty, empty, empty, gmap, cells, count,
        64, 8, 8, 8, 8, 8, 0, 0, *[1] * 6, 0, 8, 1, 1.0, 1.0, 1.5, -1, 0, 0.5, 0,
        FUSED=False, BM=64, BC=64, EIGHTS=True, PDL=False,
    )  # fmt: skip
    assert set(gmap.tolist()) == {0.0, 1.0}
    assert 16 < int(count) == int(gmap.sum()) < 48


def test_channels_last_tensors_are_taken_where_they_lie() -> None:
    x = torch.randn(2, 16, 5, 7).half().contiguous(memory_format=torch.channels_last)
    assert memory_of(x).data_ptr() == x.data_ptr()
    odd = memory_of(x[:, :13])
    assert odd.shape == (2, 5, 7, 16)
    np.testing.assert_array_equal(odd[..., :13].numpy(), x[:, :13].permute(0, 2, 3, 1).numpy())
    assert not odd[..., 13:].any()
    base = torch.randn(1 + 2 * 5 * 7 * 16).half()
    shifted = base[1:].reshape(2, 5, 7, 16).permute(0, 3, 1, 2)
    assert memory_of(shifted).data_ptr() % 16 == 0
