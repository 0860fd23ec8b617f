"""Cases that hypothesis makes, on Triton's interpreter; LCCL_EXAMPLES=1000 makes other ones, and more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="pip install triton")


from lccl.backends.torch.triton.configurations import choose, misfit, refusal
from lccl.backends.torch.triton.launch import layer_of
from lccl.op.contract import grid_hw
from support.cases.made_cases import EXAMPLES, can_be_checked, cases
from support.cases.op_cases import Case
from support.hosts.triton import HOPPER, require_right, tensors

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_triton")]
MADE = settings(
    max_examples=EXAMPLES or 12,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@MADE
@given(cases(boxes=False), st.sampled_from(["rows_64x32", "rows_128x64"]), st.sampled_from([torch.float16, torch.bfloat16]))
def test_any_form_by_rows(case: Case, configuration: str, dtype: torch.dtype) -> None:
    assume(can_be_checked(case))
    require_right(case, dtype, configuration, in_place=case.residual and case.k % 8 == 0)


@MADE
@given(
    cases(boxes=True), st.sampled_from(["boxes_2x64x64", "boxes_2x64x128"]), st.sampled_from([torch.float16, torch.bfloat16])
)
def test_any_form_by_boxes(case: Case, configuration: str, dtype: torch.dtype) -> None:
    assume(can_be_checked(case))
    require_right(case, dtype, configuration, in_place=case.residual and case.k % 8 == 0)


@settings(MADE, max_examples=100)
@given(st.booleans().flatmap(lambda boxes: cases(boxes=boxes)), st.sampled_from([torch.float16, torch.bfloat16]))
def test_every_form_has_tensor_cores_and_every_refusal_a_reason(case: Case, dtype: torch.dtype) -> None:
    """On 9.0; that what is chosen is compiled to tensor-core instructions is for the check of compiled kernels."""
    try:
        layer = layer_of(tensors(case, dtype), case.attributes, HOPPER)
    except (ValueError, IndexError):
        assume(False)
    assert refusal(layer, "rows") == ""
    chosen = choose(layer)
    assert chosen is not None
    assert misfit(chosen, HOPPER, 2) == ""
    assert (chosen.family == "boxes") == (refusal(layer, "boxes") == "")
    assert grid_hw(case.hw, case.grid)  # its cells are counted by the contract's own rule
