"""The Triton kernels' own source on Triton's interpreter, against the float64 reference."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="pip install triton")

from lccl.backends.torch.cuda import kernel_op
from lccl.backends.torch.triton import launch
from lccl.backends.torch.triton.configurations import CONFIGURATIONS, SHARED_KIB, Layer, choose, refusal
from lccl.backends.torch.triton.launch import layer_of, run
from lccl.errors import ContractError
from lccl.op.contract import INPUT_NAMES, Attributes
from lccl.op.reference import lccl_conv
from lccl.op.torch_op import TORCH_ATTRIBUTES
from support.cases.op_cases import CASES, Case

pytestmark = pytest.mark.slow
HOPPER = 90
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
TOLERANCES = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5}
"""Relative to max(1, largest output)."""
BOXES = (
    Case("boxes", "two boxes a tile, none cut", c=16, k=24, hw=(16, 24), gate="grid", grid=8),
    Case("boxes-odd", "an odd number of open boxes, a residual and clipped edges", n=3, c=8, k=8, hw=(11, 13), gate="grid",
         grid=8, residual=True, post=True, activation_alpha=0.0, post_alpha=0.1),
    Case("boxes-one", "a single open box: the second of its tile is not stored", c=8, k=8, hw=(16, 24), gate="external", grid=8,
         fill="one-pixel", residual=True),
    Case("boxes-16", "cells of 16, cut in four", c=72, k=72, hw=(18, 20), gate="grid", grid=16),
    Case("boxes-dilated", "dilation 2 and a kernel of 5 x 3", c=8, k=8, hw=(17, 16), kernel=(5, 3), dilations=(2, 2),
         pads=(4, 2, 4, 2), gate="grid", grid=8),
    Case("boxes-all", "every box open", c=8, k=8, hw=(16, 16), gate="external", grid=8, fill="all-on", n=2),
    Case("boxes-none", "no box open", c=8, k=8, hw=(16, 16), gate="external", grid=8, fill="all-off", residual=True),
)  # fmt: skip


def tensors(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    wide = ("B", "gate_B", "post_scale", "post_bias")
    return {name: torch.from_numpy(a).to(torch.float32 if name in wide else dtype) for name, a in case.inputs().items()}


def require_right(case: Case, dtype: torch.dtype, configuration: str) -> None:
    inputs = tensors(case, dtype)
    want = lccl_conv({name: t.double().numpy() for name, t in inputs.items()}, case.attributes)
    got = run(inputs, case.attributes, capability=HOPPER, configuration=configuration).double().numpy()
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    error = np.nanmax(np.abs(got - want), initial=0)
    assert error <= TOLERANCES[dtype] * max(1.0, np.nanmax(np.abs(want), initial=0))


@pytest.mark.parametrize("case", [*CASES, *BOXES], ids=lambda case: case.name)
def test_named_cases_by_rows(case: Case) -> None:
    require_right(case, torch.float16, "rows_64x32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", [*CASES[::3], *BOXES[1:3]], ids=lambda case: case.name)
def test_some_cases_by_rows_in_other_types(case: Case, dtype: str) -> None:
    """The source is the same but for the type of the operands; these take every third case."""
    require_right(case, TYPES[dtype], "rows_64x32")


@pytest.mark.parametrize("configuration", [c.name for c in CONFIGURATIONS if c.family == "rows"])
def test_every_tile_of_rows(configuration: str) -> None:
    require_right(BOXES[1], torch.float16, configuration)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", BOXES, ids=lambda case: case.name)
@pytest.mark.parametrize("configuration", [c.name for c in CONFIGURATIONS if c.family == "boxes"])
def test_named_cases_by_boxes(case: Case, dtype: str, configuration: str) -> None:
    require_right(case, TYPES[dtype], configuration)


@pytest.mark.parametrize("case", [c for c in CASES if c.grid != 16], ids=lambda case: case.name)
def test_what_boxes_refuse_has_a_reason(case: Case) -> None:
    inputs = tensors(case, torch.float16)
    reason = refusal(layer_of(inputs, case.attributes, HOPPER), "boxes")
    assert reason
    with pytest.raises(ContractError, match="does not take this layer"):
        run(inputs, case.attributes, capability=HOPPER, configuration="boxes_2x64x64")


def test_layers_without_a_library_run_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with the interpreter in its place."""
    monkeypatch.setattr(kernel_op, "_installed", lambda: None)
    case = BOXES[1]
    inputs = tensors(case, torch.float32)
    arguments = [*(inputs[name] for name in INPUT_NAMES), *(getattr(case.attributes, name) for name in TORCH_ATTRIBUTES)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = kernel_op._Kernel(None, None)(*arguments)
    want = lccl_conv({name: t.double().numpy() for name, t in inputs.items()}, case.attributes)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)


def test_what_triton_cannot_do_runs_in_pytorchs_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_op, "_installed", lambda: None)
    case = Case("kernel-8", "larger than the kernels take", kernel=(8, 8), pads=(4, 4, 4, 4))
    inputs = tensors(case, torch.float32)
    arguments = [*(inputs[name] for name in INPUT_NAMES), *(getattr(case.attributes, name) for name in TORCH_ATTRIBUTES)]
    with pytest.warns(UserWarning, match="every pixel in PyTorch's own ops: kernels are 1x1 to 7x7, not 8x8"):
        got = kernel_op._Kernel(None, None)(*arguments)
    want = lccl_conv({name: t.double().numpy() for name, t in inputs.items()}, case.attributes)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [8, 64, 200])
@pytest.mark.parametrize("grid", [1, 4, 8, 16])
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_every_layer_has_a_configuration(channels: int, grid: int, capability: int) -> None:
    attributes = Attributes(gate_strides=(grid, grid), gate_upsample=(1, 1, grid, grid))
    for cells in (1, 100, 100_000):
        chosen = choose(Layer(channels, channels, (3, 3), attributes, cells, 2, capability, (56, 56)))
        assert chosen is not None
        assert (chosen.family == "boxes") == (grid % 8 == 0 and capability >= 90)
        assert chosen.shared_bytes(2) <= SHARED_KIB.get(capability, 99) * 1024


def test_outputs_that_differ_are_found_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that writes wrong values in one in eight channels."""
    monkeypatch.setattr(kernel_op, "_installed", lambda: None)
    monkeypatch.setattr(launch, "_agrees", {})
    right = launch.run

    def wrong(inputs: dict[str, torch.Tensor], attributes: Attributes) -> torch.Tensor:
        y = right(inputs, attributes)
        y[:, ::8] += 1
        return y

    monkeypatch.setattr(launch, "run", wrong)
    case = BOXES[0]
    inputs = tensors(case, torch.float32)
    arguments = [*(inputs[name] for name in INPUT_NAMES), *(getattr(case.attributes, name) for name in TORCH_ATTRIBUTES)]
    kernel = kernel_op._Kernel(None, None)
    with pytest.warns(UserWarning, match="gives other outputs than PyTorch's ops"):
        first = kernel(*arguments)
    second = kernel(*arguments)
    want = lccl_conv({name: t.double().numpy() for name, t in inputs.items()}, case.attributes)
    for got in (first, second):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)
    assert list(launch._agrees.values()) == [False]
