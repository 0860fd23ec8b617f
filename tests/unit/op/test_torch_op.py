"""The torch op: registration, gradients, and the isolation of inactive pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lccl.errors import ContractError
from lccl.op.contract import INPUT_NAMES
from lccl.op.torch_op import OP, TORCH_ATTRIBUTES, lccl_conv
from support.cases.op_cases import CASES, Case

GRADIENT_CASES = [
    c
    for c in CASES
    if c.name in ("paper", "released", "everything", "grid-3-stride-2", "both", "hardtanh", "threshold-external", "pads-uneven")
]


def arguments(case: Case, dtype: torch.dtype = torch.float32) -> tuple[object, ...]:
    inputs = case.inputs()
    tensors = [torch.from_numpy(inputs[name]).to(dtype) for name in INPUT_NAMES]
    return (*tensors, *(getattr(case.attributes, name) for name in TORCH_ATTRIBUTES))


@pytest.mark.slow
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=lambda c: c.name)
def test_opcheck(case: Case) -> None:
    """torch's own check of schema, fake kernel, autograd registration and dynamic shapes."""
    values = list(arguments(case))
    for i in range(len(INPUT_NAMES)):
        values[i] = values[i].requires_grad_(True)
    torch.library.opcheck(OP, tuple(values))


@pytest.mark.slow
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=lambda c: c.name)
def test_gradients_are_exact(case: Case) -> None:
    """Gradients agree with finite differences in float64, for all nine inputs."""
    small = Case(**{**vars(case), "hw": (5, 6), "c": 3, "k": 2})
    values = list(arguments(small, torch.float64))
    gate = INPUT_NAMES.index("gate")
    values[gate] = values[gate] + 0.05 if values[gate].numel() > 1 else values[gate]  # off the kink at 0
    for i in range(len(INPUT_NAMES)):
        values[i] = values[i].requires_grad_(True)

    def op(*tensors: torch.Tensor) -> torch.Tensor:
        return OP(*tensors, *values[len(INPUT_NAMES) :])

    assert torch.autograd.gradcheck(op, tuple(values[: len(INPUT_NAMES)]), eps=1e-7, atol=1e-4)


def test_no_gradient_through_inactive_pixels() -> None:
    case = next(c for c in CASES if c.name == "one-pixel")
    values = list(arguments(case))
    x = values[0].requires_grad_(True)
    OP(*values).sum().backward()
    touched = x.grad.abs().sum(dim=(0, 1)) > 0
    h, w = case.hw
    assert touched[h // 2 - 1 : h // 2 + 2, w // 2 - 1 : w // 2 + 2].all()
    assert int(touched.sum()) == 9, "only the 3 x 3 window of the active pixel"


def test_a_nan_under_a_closed_gate_harms_no_other_gradient() -> None:
    case = next(c for c in CASES if c.name == "nan-external")
    values = list(arguments(case))
    bias = values[2].requires_grad_(True)
    OP(*values).sum().backward()
    assert torch.isfinite(bias.grad).all()


def test_shapes_are_checked() -> None:
    case = CASES[0]
    inputs = {name: torch.from_numpy(a) for name, a in case.inputs().items()}
    inputs["residual"] = torch.zeros(2, 2, 2, 2)
    with pytest.raises(ContractError, match="residual must be"):
        lccl_conv(inputs, case.attributes)


def test_strided_memory_is_read_right() -> None:
    case = next(c for c in CASES if c.name == "everything")
    inputs = {name: torch.from_numpy(a) for name, a in case.inputs().items()}
    expected = lccl_conv(inputs, case.attributes)
    inputs["X"] = inputs["X"].to(memory_format=torch.channels_last)
    np.testing.assert_allclose(lccl_conv(inputs, case.attributes).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_autocast_does_not_reach_into_the_op() -> None:
    """Autocast would otherwise run the convolution and the gate in bfloat16."""
    case = next(c for c in CASES if c.name == "paper")
    inputs = {name: torch.from_numpy(a) for name, a in case.inputs().items()}
    with torch.autocast("cpu", torch.bfloat16):
        y = lccl_conv(inputs, case.attributes)
    assert y.dtype == torch.float32
    assert torch.equal(y, lccl_conv(inputs, case.attributes))
