"""Layers on a GPU without a library of kernels, with the interpreter in the GPU's place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="pip install triton")


import lccl
from lccl.backends.torch.cuda import kernel_op
from lccl.backends.torch.cuda.interface import Device
from lccl.backends.torch.cuda.library import Support
from lccl.backends.torch.triton import launch
from lccl.errors import UserError
from lccl.op.contract import INPUT_NAMES
from lccl.op.torch_op import OP_DEFINITION, TORCH_ATTRIBUTES
from support.cases.box_cases import BOXES
from support.cases.op_cases import CASES, Case
from support.hosts.triton import reference, tensors

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_triton")]


@pytest.fixture(autouse=True)
def without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_op, "_installed", lambda: None)
    monkeypatch.setattr(launch, "_agrees", {})


@pytest.fixture
def on_the_interpreter() -> Iterator[None]:
    """``torch.ops.lccl.conv`` on CPU tensors runs as it would on a GPU."""
    kernel_op.register(device_type="cpu")
    yield
    OP_DEFINITION.register_kernel("cpu", OP_DEFINITION._init_fn)


def call(kernel: kernel_op._Kernel, case: Case) -> tuple[np.ndarray, np.ndarray]:
    inputs = tensors(case, torch.float32)
    arguments = [*(inputs[name] for name in INPUT_NAMES), *(getattr(case.attributes, name) for name in TORCH_ATTRIBUTES)]
    return kernel(*arguments).numpy(), reference(case, inputs)


def test_they_run_by_triton() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        got, want = call(kernel_op._Kernel(None, None), CASES[3])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_what_triton_cannot_do_runs_in_pytorchs_ops() -> None:
    case = Case("kernel-8", "larger than the kernels take", kernel=(8, 8), pads=(4, 4, 4, 4))
    with pytest.warns(UserWarning, match="every pixel in PyTorch's own ops: kernels are 1x1 to 7x7, not 8x8"):
        got, want = call(kernel_op._Kernel(None, None), case)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


class WithoutCode:
    """A library that holds nothing for this GPU."""

    def choose(self, *_: object) -> int:
        return 0

    def supported(self, *_: object) -> Support:
        return Support("this library has no code for compute capability 12.1")


def test_what_a_library_has_no_code_for_runs_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_op, "_installed", WithoutCode)
    monkeypatch.setattr(kernel_op, "device_of", lambda _: Device(121, 48, 101376, 102400))
    with warnings.catch_warnings(), kernel_op.watching() as outcomes:
        warnings.simplefilter("error", UserWarning)
        call(kernel_op._Kernel(None, None), CASES[3])
    assert outcomes == [kernel_op.Outcome("Triton", "")]
    case = Case("kernel-8", "larger than the kernels take", kernel=(8, 8), pads=(4, 4, 4, 4))
    with pytest.warns(UserWarning, match="no code for compute capability 12.1"):
        call(kernel_op._Kernel(None, None), case)


def test_outputs_that_differ_are_found_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that writes wrong values in one in eight channels."""
    right = launch.run

    def wrong(*arguments: object) -> torch.Tensor:
        y = right(*arguments)  # type: ignore[arg-type]
        y[:, ::8] += 1
        return y

    monkeypatch.setattr(launch, "run", wrong)
    kernel = kernel_op._Kernel(None, None)
    with pytest.warns(UserWarning, match="gives other outputs than PyTorch's ops"):
        first, want = call(kernel, BOXES[6])
    second, _ = call(kernel, BOXES[6])
    for got in (first, second):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert list(launch._agrees.values()) == [False]


def network(kernel: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        lccl.nn.LCCLConv2d(3, 8, kernel, padding=kernel // 2), torch.nn.ReLU(), lccl.nn.LCCLConv2d(8, 4, 1)
    )


@pytest.mark.usefixtures("on_the_interpreter")
def test_a_warm_up_calls_each_layer_once_and_says_what_ran() -> None:
    model, x = network().train(), torch.randn(1, 3, 6, 6)
    done = lccl.warm_up(model, x)
    assert done
    assert (done.layers, done.skipping, done.kernels, done.reasons) == (2, 2, "Triton", ())
    assert (
        str(done)
        == f"warmed up in {done.seconds:.1f} s: 2 of 2 gated layers skip closed pixels by kernels that Triton compiled"
    )
    assert done.as_dict()["layers"] == 2
    assert all(module.training for module in model.modules())
    assert launch._agrees
    assert kernel_op._watchers == []


@pytest.mark.usefixtures("on_the_interpreter")
def test_a_warm_up_says_why_layers_compute_every_pixel() -> None:
    with pytest.warns(UserWarning, match="8x8"):
        done = lccl.warm_up(network(8), (torch.randn(1, 3, 6, 6),))
    assert done
    assert (done.layers, done.skipping, done.reasons) == (2, 1, ("kernels are 1x1 to 7x7, not 8x8",))
    assert str(done).endswith("; others compute every pixel: kernels are 1x1 to 7x7, not 8x8")


def test_without_a_gpu_a_warm_up_says_that_there_is_nothing_to_do() -> None:
    done = lccl.warm_up(network(), {"input": torch.randn(1, 3, 6, 6)})
    assert not done
    assert str(done) == "nothing to warm up: no gated layer ran on a GPU, and elsewhere layers compile nothing"


def test_an_example_that_does_not_fit_is_refused() -> None:
    x = torch.randn(1, 3, 6, 6)
    with pytest.raises(UserError, match="X has 5 channels"):
        lccl.warm_up(network(), torch.randn(1, 5, 6, 6))
    with pytest.raises(UserError, match=r"the network cannot be called with this example: .*takes 2 positional arguments"):
        lccl.warm_up(network(), (x, x))
    with pytest.raises(UserError, match=r"model takes a torch.nn.Module"):
        lccl.warm_up(3, x)  # type: ignore[arg-type]
