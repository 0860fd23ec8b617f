"""The op on torch tensors: memory layouts, neutral inputs, ``torch.ops.lccl.conv``.

The emulator's library runs it on CPU tensors here; ``tests/gpu`` runs the same on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lccl.backends.torch.cuda import calls, kernel_op
from lccl.backends.torch.cuda import library as library_module
from lccl.backends.torch.cuda.calls import as_image, empty_image, image_view, launch, new_workspace, prepare
from lccl.backends.torch.cuda.interface import Device, Dtype, Family, Layout
from lccl.backends.torch.cuda.kernel_op import register, run
from lccl.backends.torch.cuda.library import ENVIRONMENT, Library
from lccl.backends.torch.cuda.planning import padded
from lccl.errors import ContractError, UserError
from lccl.nn import LCCLConv2d, fold
from lccl.op.contract import INPUT_NAMES, INPUTS, Attributes
from lccl.op.reference import lccl_conv as reference
from lccl.op.torch_op import OP, OP_DEFINITION, TORCH_ATTRIBUTES, lccl_conv
from support.cases.op_cases import CASES, Case

H200 = Device(90, 132, 232448, 233472)
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative to max(1, largest |Y|): one rounding to T."""
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
formats = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def tensors(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the case's inputs with T = dtype."""
    values = {name: torch.from_numpy(value) for name, value in case.inputs().items()}
    return {spec.name: values[spec.name].to(dtype) if spec.is_tensor_type else values[spec.name] for spec in INPUTS}


def expected(inputs: dict[str, torch.Tensor], attributes: Attributes) -> np.ndarray:
    return reference({name: t.double().numpy() for name, t in inputs.items()}, attributes)


def assert_close(y: torch.Tensor, want: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(y.double().numpy(), want, rtol=0, atol=TOLERANCE[y.dtype] * scale)


# ---- run -----------------------------------------------------------------------------------------


@dtypes
@formats
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_named_cases(emulator_library: Library, case: Case, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """X and residual in either memory format, in the chosen configuration."""
    inputs = tensors(case, dtype)
    want = expected(inputs, case.attributes)
    for name in ("X", "residual"):
        inputs[name] = inputs[name].to(memory_format=memory_format)
    y = run(emulator_library, H200, inputs, case.attributes)
    assert y.dtype == dtype
    assert_close(y, want)


@dtypes
def test_every_configuration_or_its_reason(emulator_library: Library, dtype: torch.dtype) -> None:
    case = named("everything")
    inputs = tensors(case, dtype)
    ran = []
    for config in emulator_library.configs():
        params = prepare(inputs, case.attributes).params
        if emulator_library.supported(params, H200, config.id):
            assert_close(
                run(emulator_library, H200, inputs, case.attributes, config=config.id), expected(inputs, case.attributes)
            )
            ran.append(config.family)
        else:
            with pytest.raises(ContractError, match=config.name):
                run(emulator_library, H200, inputs, case.attributes, config=config.id)
    assert set(ran) == {Family.DENSE, Family.PIXEL}


def test_a_call_that_none_can_run(emulator_library: Library) -> None:
    case = Case("kernel-8", "larger than the kernels take", kernel=(8, 8), pads=(4, 4, 4, 4))
    with pytest.raises(ContractError, match="kernels are 1x1 to 7x7, not 8x8"):
        run(emulator_library, H200, tensors(case, torch.float16), case.attributes)


def test_types_of_the_contract(emulator_library: Library) -> None:
    case = CASES[0]
    with pytest.raises(ContractError, match="float32, float16 and bfloat16, not float64"):
        run(emulator_library, H200, tensors(case, torch.float64), case.attributes)
    inputs = tensors(case, torch.float16)
    for name, wrong in (("W", torch.float32), ("B", torch.float16)):
        right = inputs[name].dtype
        said = f"{name} must be {str(right).removeprefix('torch.')} .*, not {str(wrong).removeprefix('torch.')}"
        with pytest.raises(ContractError, match=said):
            run(emulator_library, H200, inputs | {name: inputs[name].to(wrong)}, case.attributes)
    with pytest.raises(ContractError, match="B is on meta and X on cpu"):
        run(emulator_library, H200, inputs | {"B": inputs["B"].to("meta")}, case.attributes)


def test_a_workspace_of_the_caller(emulator_library: Library) -> None:
    case = named("paper")
    inputs = tensors(case, torch.float16)
    params = prepare(inputs, case.attributes).params
    config = emulator_library.choose(params, H200)
    size = emulator_library.workspace(params, H200, config)
    workspace = torch.full((size,), 0xFF, dtype=torch.uint8)
    y = run(emulator_library, H200, inputs, case.attributes, config=config, workspace=workspace)
    assert_close(y, expected(inputs, case.attributes))
    assert (workspace != 0xFF).any()
    with pytest.raises(UserError, match="the workspace has 16 bytes, and the call needs"):
        run(emulator_library, H200, inputs, case.attributes, config=config, workspace=workspace[:16])


def test_an_empty_batch(emulator_library: Library) -> None:
    inputs = tensors(CASES[0], torch.float16)
    inputs["X"] = inputs["X"][:0]
    assert run(emulator_library, H200, inputs, CASES[0].attributes).shape == (0, CASES[0].k, *CASES[0].hw)


# ---- memory --------------------------------------------------------------------------------------


def test_channels_last_memory_is_used_where_it_is() -> None:
    x = torch.randn(2, 16, 5, 7, dtype=torch.float16).to(memory_format=torch.channels_last)
    assert as_image(x, Layout.NHWC) is x
    plain = torch.randn(2, 3, 5, 7)
    assert as_image(plain, Layout.NCHW) is plain


@pytest.mark.parametrize("channels", [1, 3, 8, 13])
@formats
def test_other_memory_is_copied_and_padded(channels: int, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, channels, 5, 7, dtype=torch.float16).to(memory_format=memory_format)
    image = as_image(x, Layout.NHWC)
    pitch = padded(channels)
    assert torch.equal(image, x)
    assert image.stride() == (5 * 7 * pitch, 1, 7 * pitch, pitch)
    assert image.untyped_storage().nbytes() == 2 * 5 * 7 * pitch * 2
    assert (image is x) == (channels == 8 and memory_format == torch.channels_last)


def test_memory_that_is_not_aligned_is_copied(emulator_library: Library) -> None:
    case = named("everything")
    inputs = tensors(case, torch.float16)
    want = expected(inputs, case.attributes)
    for name, tensor in inputs.items():
        moved = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape)
        inputs[name] = moved.copy_(tensor)
        assert inputs[name].data_ptr() % 16 != 0
    inputs["W"] = inputs["W"].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not inputs["W"].is_contiguous()
    call = prepare(inputs, case.attributes)
    assert all(t.data_ptr() % 16 == 0 for t in call.inputs.values())
    assert_close(run(emulator_library, H200, inputs, case.attributes), want)


def test_a_slice_of_channels_is_copied() -> None:
    x = torch.randn(2, 32, 5, 7, dtype=torch.float16).to(memory_format=torch.channels_last)[:, 8:16]
    image = as_image(x, Layout.NHWC)
    assert torch.equal(image, x)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert not x.is_contiguous(memory_format=torch.channels_last)


def test_the_padding_of_y_is_zero_and_that_of_x_does_not_matter(emulator_library: Library) -> None:
    case = named("odd-channels")
    inputs = tensors(case, torch.float16)
    want = expected(inputs, case.attributes)
    memory = empty_image(tuple(inputs["X"].shape), Layout.NHWC, inputs["X"]).fill_(torch.nan)
    call = prepare(
        inputs | {"X": image_view(memory, tuple(inputs["X"].shape), Layout.NHWC).copy_(inputs["X"])}, case.attributes
    )
    source = call.inputs["X"]
    torch.as_strided(source, (*memory.shape,), memory.stride())[..., case.c :] = torch.nan
    call.memory.view(torch.uint8).fill_(0xFF)
    config = emulator_library.choose(call.params, H200)
    y = launch(
        emulator_library, H200, call, config, new_workspace(emulator_library.workspace(call.params, H200, config), source)
    )
    assert_close(y, want)
    assert y.stride(1) == 1
    assert call.memory.shape[-1] == padded(case.k) > case.k
    assert (call.memory[..., case.k :] == 0).all()


def test_float32_lies_as_x_does(emulator_library: Library) -> None:
    inputs = tensors(named("odd-channels"), torch.float32)
    attributes = named("odd-channels").attributes
    for memory_format, layout in ((torch.contiguous_format, Layout.NCHW), (torch.channels_last, Layout.NHWC)):
        inputs["X"] = inputs["X"].to(memory_format=memory_format)
        call = prepare(inputs, attributes)
        assert call.params.layout == layout
        assert call.params.dtype == Dtype.FLOAT32
    for layout in Layout:
        assert_close(run(emulator_library, H200, inputs, attributes, layout=layout), expected(inputs, attributes))


def test_the_residuals_memory_may_be_the_outputs(emulator_library: Library) -> None:
    """An addition in place, with a multiple of 8 channels so that the residual is not copied."""
    case = Case("in-place", "y += ...", c=8, k=16, residual=True, post_alpha=0.0)
    inputs = tensors(case, torch.float16)
    want = expected(inputs, case.attributes)
    inputs["residual"] = inputs["residual"].to(memory_format=torch.channels_last)
    memory = inputs["residual"].permute(0, 2, 3, 1)
    call = prepare(inputs, case.attributes, memory=memory)
    assert call.params.residual == call.params.y == inputs["residual"].data_ptr()
    config = emulator_library.choose(call.params, H200)
    size = emulator_library.workspace(call.params, H200, config)
    assert_close(launch(emulator_library, H200, call, config, new_workspace(size, memory)), want)
    assert_close(inputs["residual"], want)


# ---- neutral inputs ------------------------------------------------------------------------------


@dtypes
def test_an_affine_of_one_element_serves_all_channels(emulator_library: Library, dtype: torch.dtype) -> None:
    """With K = 1 an affine of one element is the layer's own, not neutral."""
    for name in ("plain", "one-channel"):
        case = named(name)
        inputs = tensors(case, dtype) | {"post_scale": torch.tensor([2.5]), "post_bias": torch.tensor([-1.25])}
        assert_close(run(emulator_library, H200, inputs, case.attributes), expected(inputs, case.attributes))


@dtypes
def test_a_full_shape_of_one_element_is_read(emulator_library: Library, dtype: torch.dtype) -> None:
    case = Case("one", "N = K = Ho = Wo = 1", c=3, k=1, hw=(1, 1), kernel=(1, 1), pads=(0, 0, 0, 0), fill="all-on")
    full = torch.full((1, 1, 1, 1), 0.5, dtype=dtype)
    inputs = tensors(case, dtype) | {"gate": full, "residual": full}
    y = run(emulator_library, H200, inputs, case.attributes)
    assert_close(y, expected(inputs, case.attributes))
    without = run(emulator_library, H200, inputs | {"gate": torch.ones_like(full)}, case.attributes)
    assert (y != without).all()


def test_an_external_gate_takes_gate_b_and_no_gate_w(emulator_library: Library) -> None:
    case = named("external")
    inputs = tensors(case, torch.float16)
    inputs["gate_W"] = torch.full_like(inputs["gate_W"], torch.nan)
    inputs["gate_B"] = torch.full((1,), 2.0)
    want = expected(inputs | {"gate_W": torch.zeros_like(inputs["gate_W"])}, case.attributes)
    assert_close(run(emulator_library, H200, inputs, case.attributes), want)


# ---- torch.ops.lccl.conv -------------------------------------------------------------------------


class Counting:
    """A library that counts its launches."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.launches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def launch(self, *arguments: Any) -> None:
        self.launches += 1
        self._library.launch(*arguments)


@pytest.fixture
def on_cpu(emulator_library: Library) -> Iterator[Counting]:
    """The kernels as the op's implementation for CPU tensors."""
    counting = Counting(emulator_library)
    register(counting, "cpu", H200)  # type: ignore[arg-type]
    yield counting
    OP_DEFINITION.register_kernel("cpu", OP_DEFINITION._init_fn)


def arguments(inputs: dict[str, torch.Tensor], attributes: Attributes) -> tuple[Any, ...]:
    return (*(inputs[name] for name in INPUT_NAMES), *(getattr(attributes, name) for name in TORCH_ATTRIBUTES))


@pytest.mark.parametrize("name", ["everything", "one-channel-post", "odd-channels", "grid-4", "both", "one-pixel-map"])
@formats
@dtypes
def test_the_op_calls_the_kernels(on_cpu: Counting, name: str, memory_format: torch.memory_format, dtype: torch.dtype) -> None:
    case = named(name)
    inputs = tensors(case, dtype)
    want = expected(inputs, case.attributes)
    inputs["X"] = inputs["X"].to(memory_format=memory_format)
    y = lccl_conv(inputs, case.attributes)
    assert on_cpu.launches == 1
    assert_close(y, want)
    if case.c > 1:
        assert y.is_contiguous(memory_format=memory_format)
    torch.library.opcheck(OP, arguments(inputs, case.attributes))


def strides(tensor: torch.Tensor) -> list[int]:
    """Return the strides of the axes with more than one element; the others have no meaning."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@formats
def test_strides_do_not_depend_on_who_computes(on_cpu: Counting, memory_format: torch.memory_format) -> None:
    """The kernels and PyTorch's own ops give the strides that the fake kernel promises."""
    for name in ("plain", "one-channel", "odd-channels", "one-pixel-map", "kernel-1"):
        for dtype in TOLERANCE:
            inputs = tensors(named(name), dtype)
            inputs["X"] = inputs["X"].to(memory_format=memory_format)
            by_kernels = lccl_conv(inputs, named(name).attributes)
            with OP_DEFINITION.set_kernel_enabled("cpu", enabled=False):
                by_torch = lccl_conv(inputs, named(name).attributes)
            assert strides(by_kernels) == strides(by_torch), (name, dtype)
    assert on_cpu.launches == 15


def test_a_layer_in_eval_mode_calls_the_kernels(on_cpu: Counting) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(LCCLConv2d(8, 16, 3, padding=1), LCCLConv2d(16, 8, 3, padding=1, gate="1x1", order="released"))
    x = torch.randn(2, 8, 9, 11)
    for _ in range(3):
        model(x)
    assert on_cpu.launches == 0, "in training mode every pixel is computed in PyTorch's own ops"
    model.eval()
    with torch.no_grad():
        y = model(x)
        assert on_cpu.launches == 2
        torch.testing.assert_close(fold(model)(x), y)
        assert on_cpu.launches == 4
        with OP_DEFINITION.set_kernel_enabled("cpu", enabled=False):
            torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)
    assert on_cpu.launches == 4


def test_a_channels_last_network_makes_no_copies(on_cpu: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fold(torch.nn.Sequential(LCCLConv2d(8, 16, 3, padding=1), LCCLConv2d(16, 8, 3, padding=1)).eval()).half()
    x = torch.randn(1, 8, 9, 11).half().to(memory_format=torch.channels_last)
    made = []
    original = calls.empty_image
    monkeypatch.setattr(calls, "empty_image", lambda shape, *rest: made.append(shape) or original(shape, *rest))
    y = model(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert made == [(1, 16, 9, 11), (1, 8, 9, 11)], "only the two outputs"
    assert on_cpu.launches == 2


def test_gradients_are_those_of_pytorchs_own_ops(on_cpu: Counting) -> None:
    case = named("paper")
    grads = []
    for enabled in (True, False):
        inputs = tensors(case, torch.float32)
        for t in inputs.values():
            t.requires_grad_(True)
        if enabled:
            lccl_conv(inputs, case.attributes).square().sum().backward()
        else:
            with OP_DEFINITION.set_kernel_enabled("cpu", enabled=False):
                lccl_conv(inputs, case.attributes).square().sum().backward()
        grads.append([inputs[name].grad for name in INPUT_NAMES])
    assert on_cpu.launches == 1
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_gradients_of_gradients_and_transforms_are_those_of_pytorchs_own_ops(on_cpu: Counting) -> None:
    case = named("released")

    def second(inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        x = inputs["X"].requires_grad_(True)
        y = lccl_conv(inputs, case.attributes)
        (by_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        by_func = torch.func.grad(lambda x: lccl_conv(inputs | {"X": x}, case.attributes).square().sum())(x)
        torch.testing.assert_close(by_func, by_x, rtol=1e-4, atol=1e-4)
        return [by_x, *torch.autograd.grad(by_x.square().sum(), x)]

    got = second(tensors(case, torch.float32))
    assert on_cpu.launches == 1
    with OP_DEFINITION.set_kernel_enabled("cpu", enabled=False):
        want = second(tensors(case, torch.float32))
    assert want[1].abs().max() > 0
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_unsupported_calls_run_in_pytorchs_own_ops(on_cpu: Counting) -> None:
    """A warning gives the reason once."""
    case = CASES[0]
    inputs = tensors(case, torch.float64)
    with pytest.warns(UserWarning, match="compute every pixel in PyTorch's own ops: the kernels take float32"):
        y = lccl_conv(inputs, case.attributes)
    np.testing.assert_allclose(y.numpy(), expected(inputs, case.attributes), rtol=1e-6)
    large = Case("kernel-8", "larger than the kernels take", kernel=(8, 8), pads=(4, 4, 4, 4))
    with pytest.warns(UserWarning, match="kernels are 1x1 to 7x7"):
        lccl_conv(tensors(large, torch.float16), large.attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lccl_conv(inputs, case.attributes)
        lccl_conv(tensors(large, torch.float16), large.attributes)
    assert on_cpu.launches == 0


def test_shapes_are_checked_before_the_kernels(on_cpu: Counting) -> None:
    inputs = tensors(CASES[0], torch.float32) | {"residual": torch.zeros(2, 2, 2, 2)}
    with pytest.raises(ContractError, match="residual must be"):
        lccl_conv(inputs, CASES[0].attributes)


@pytest.fixture
def looked_up() -> Iterator[None]:
    """Register the op for CPU tensors with a library that is looked for at the first call."""
    kernel_op._installed.cache_clear()
    register(None, "cpu", H200)
    yield
    OP_DEFINITION.register_kernel("cpu", OP_DEFINITION._init_fn)
    kernel_op._installed.cache_clear()


@pytest.mark.slow
def test_without_a_library_the_op_says_so_once(looked_up: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(library_module, "PACKAGED", tmp_path / "none.so")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(kernel_op, "find_spec", lambda _: None)
    inputs = tensors(CASES[0], torch.float32)
    with pytest.warns(
        UserWarning, match=r"Triton, .*, is not installed, and there is no kernel library at .*none\.so: build it"
    ):
        y = lccl_conv(inputs, CASES[0].attributes)
    assert_close(y, expected(inputs, CASES[0].attributes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lccl_conv(inputs, CASES[0].attributes)


def test_a_library_that_was_named_must_be_there(looked_up: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "mistyped.so"))
    with pytest.raises(UserError, match=r"there is no kernel library at .*mistyped\.so"):
        lccl_conv(tensors(CASES[0], torch.float32), CASES[0].attributes)


def test_the_library_is_looked_for_at_the_first_call(
    looked_up: None, emulator_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(emulator_library.path))
    inputs = tensors(CASES[0], torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(lccl_conv(inputs, CASES[0].attributes), expected(inputs, CASES[0].attributes))
    assert kernel_op._installed() is not None
