"""The torch op: registration, gradients, and the isolation of inactive pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from lccl.errors import ContractError
from lccl.op.contract import INPUT_NAMES, Attributes
from lccl.op.torch_op import OP, TORCH_ATTRIBUTES, compute, lccl_conv, unpack
from support.cases.op_cases import CASES, Case
from support.share import ALL

GRADIENT_CASES = [
    c
    for c in CASES
    if c.name in ("paper", "released", "everything", "grid-3-stride-2", "both", "hardtanh", "threshold-external", "pads-uneven")
]


def arguments(case: Case, dtype: torch.dtype = torch.float32) -> tuple[object, ...]:
    inputs = case.inputs()
    tensors = [torch.from_numpy(inputs[name]).to(dtype) for name in INPUT_NAMES]
    return (*tensors, *(getattr(case.attributes, name) for name in TORCH_ATTRIBUTES))


def small_arguments(case: Case) -> list[Any]:
    """Return the arguments of a small call in float64, with external gates off the kink at 0."""
    small = Case(**{**vars(case), "hw": (5, 6), "c": 3, "k": 2})
    values = list(arguments(small, torch.float64))
    gate = INPUT_NAMES.index("gate")
    values[gate] = values[gate] + 0.05 if values[gate].numel() > 1 else values[gate]
    return values


def unpacked(values: Sequence[object]) -> tuple[dict[str, torch.Tensor], Attributes]:
    return unpack(dict(zip((*INPUT_NAMES, *TORCH_ATTRIBUTES), values, strict=True)))


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
    values = small_arguments(case)
    for i in range(len(INPUT_NAMES)):
        values[i] = values[i].requires_grad_(True)

    def op(*tensors: torch.Tensor) -> torch.Tensor:
        return OP(*tensors, *values[len(INPUT_NAMES) :])

    assert torch.autograd.gradcheck(op, tuple(values[: len(INPUT_NAMES)]), eps=1e-7, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=lambda c: c.name)
def test_gradients_of_gradients_are_exact(case: Case) -> None:
    """Second derivatives agree with finite differences in float64, in a random direction of all nine inputs."""
    values = small_arguments(case)
    tensors = tuple(t.requires_grad_(True) for t in values[: len(INPUT_NAMES)])

    def op(*inputs: torch.Tensor) -> torch.Tensor:
        return OP(*inputs, *values[len(INPUT_NAMES) :])

    torch.manual_seed(0)
    assert torch.autograd.gradgradcheck(op, tensors, eps=1e-6, atol=1e-4, fast_mode=not ALL)


SECOND = [c for c in CASES if c.name in ("paper", "everything", "both", "hardtanh")]


@pytest.mark.parametrize("case", SECOND, ids=lambda c: c.name)
def test_a_penalty_on_gradients_is_that_of_pytorchs_own_ops(case: Case) -> None:
    """W may depend on X: no path counts twice."""
    values = small_arguments(case)

    def penalty(run: Callable[..., torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
        x = values[0] * scale
        y = run(x, values[1] * (1 + x.mean()), *values[2:])
        (by_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return y.sum() + by_x.square().sum()

    grads = []
    for run in (OP, lambda *arguments: compute(*unpacked(arguments))):
        scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        grads.append(torch.autograd.grad(penalty(run, scale), scale)[0])
    assert grads[1] != 0
    torch.testing.assert_close(*grads)


TRANSFORMS: dict[str, Callable[..., object]] = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).square().sum())(x),
    "grad of grad": lambda f, x: torch.func.grad(lambda x: torch.func.grad(lambda x: f(x).square().sum())(x).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](f(x))[0],
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),)),
    "jacrev": lambda f, x: torch.func.jacrev(lambda x: f(x).sum((2, 3)))(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(lambda x: f(x).sum((2, 3)))(x[:, :, :3, :3]),
    "vmap": lambda f, x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
    "gradients per sample": lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x[None]).square().sum()))(x),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_torch_func(name: str) -> None:
    """They equal those of PyTorch's own ops, of the op that is called and of the op by its name."""
    case = next(c for c in CASES if c.name == "paper")
    values = small_arguments(case)
    transform = TRANSFORMS[name]
    expected = transform(lambda x: compute(*unpacked((x, *values[1:]))), values[0])
    torch.testing.assert_close(transform(lambda x: OP(x, *values[1:]), values[0]), expected)
    torch.testing.assert_close(transform(lambda x: lccl_conv(*unpacked((x, *values[1:]))), values[0]), expected)


def test_forward_mode() -> None:
    values = small_arguments(next(c for c in CASES if c.name == "everything"))
    x, direction = values[0], values[0].cos()
    expected = torch.func.jvp(lambda x: compute(*unpacked((x, *values[1:]))), (x,), (direction,))
    with forward_ad.dual_level():
        y = lccl_conv(*unpacked((forward_ad.make_dual(x, direction), *values[1:])))
        torch.testing.assert_close(tuple(forward_ad.unpack_dual(y)), expected)
    linear = torch.func.linearize(lambda x: lccl_conv(*unpacked((x, *values[1:]))), x)[1]
    torch.testing.assert_close(linear(direction), expected[1])


def test_a_transform_checks_shapes_too() -> None:
    values = small_arguments(CASES[0])
    values[INPUT_NAMES.index("residual")] = torch.zeros(2, 2, 2, 2)
    with pytest.raises(ContractError, match="residual must be"):
        torch.func.grad(lambda x: OP(x, *values[1:]).sum())(values[0])


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
