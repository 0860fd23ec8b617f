"""Planning a call: which configurations there are, which run, which is chosen, and why the others are not."""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import pytest

from lccl.backends.torch.cuda.interface import ConvParams, Device, Dtype, Family, Layout, Math
from lccl.backends.torch.cuda.library import Library
from lccl.backends.torch.cuda.planning import conv_params, layer_attributes, layer_shapes
from lccl.backends.torch.triton.configurations import CONFIGURATIONS
from lccl.errors import ContractError, UserError
from support.hosts.emulator import aligned

H200 = Device(90, 132, 232448, 233472)
GA102 = Device(86, 84, 101376, 102400)
TURING = Device(75, 40, 65536, 65536)

IDS = {
    **{f"{family}-mma-{tile}": number << 16 | 0x100 | index
       for number, family in enumerate(("dense", "block", "pixel"), 1)
       for index, tile in enumerate(("128x128-s3-w2x4", "128x64-s3-w2x2", "64x64-s4-w2x2", "128x128-s3-w2x2", "128x256-s3-w2x4"), 1)},
    "dense-simt-64x64": 0x10001,
    "block-simt-64x64": 0x20001,
    "pixel-simt-64x64": 0x30001,
    **{f"{family}-triton-rows-{tile}": number << 16 | 0x500 | index
       for number, family in enumerate(("dense", "block", "pixel"), 1)
       for index, tile in ((1, "128x64x64-s4-w4"), (2, "64x64x64-s3-w4"), (3, "64x32x32-s3-w4"), (6, "128x256x64-s3-w8"),
                           (7, "128x128x64-s3-w8"))},
    **{f"{family}-triton-boxes-{tile}": number << 16 | 0x500 | index
       for number, family in enumerate(("dense", "block"), 1)
       for index, tile in ((4, "128x128x64-s4-w8"), (5, "128x64x64-s4-w4"), (8, "128x256x64-s3-w8"), (9, "128x128x64-s3-w8"))},
}  # fmt: skip
"""For ever: engines and timing caches keep these numbers. Only new lines may come."""
RETIRED = (0x20201, 0x30301, 0x30401)
"""Given away once; never used again."""


def layer(
    shape: tuple[int, int, int, int] = (8, 64, 56, 56),
    channels: int = 64,
    *,
    grid: int = 1,
    density: float = 0.3,
    dtype: Dtype = Dtype.FLOAT16,
    stride: int = 1,
) -> ConvParams:
    attributes = layer_attributes((3, 3), grid=grid, density=density, stride=stride)
    return conv_params(layer_shapes(shape, channels, (3, 3), attributes), attributes, dtype)


def test_ids_are_for_ever(emulator_library: Library) -> None:
    assert {c.name: c.id for c in emulator_library.configs()} == IDS


def test_the_table_has_the_configurations_of_the_triton_kernels(emulator_library: Library) -> None:
    rows = [c for c in emulator_library.configs() if c.math == Math.TRITON]
    for c in CONFIGURATIONS:
        mine = [row for row in rows if row.id & 0xFF == c.number]
        assert {row.family for row in mine} == {Family.DENSE, Family.BLOCK} | ({Family.PIXEL} if c.family == "rows" else set())
        tile = f"{c.tile_m}x{c.tile_n}x{c.tile_k}-s{c.stages}-w{c.warps}"
        assert {row.name for row in mine} == {f"{row.family.name.lower()}-triton-{c.family}-{tile}" for row in mine}
        for row in mine:
            assert (row.tile_m, row.tile_n, row.tile_k, row.stages) == (c.tile_m, c.tile_n, c.tile_k, c.stages)
            assert row.warps_m * row.warps_n == c.warps
            assert row.shared_bytes >= c.shared_bytes(max(c.element_bytes))
    assert {row.id & 0xFF for row in rows} == {c.number for c in CONFIGURATIONS}


@pytest.mark.parametrize("id_", RETIRED)
def test_retired_ids_are_refused(emulator_library: Library, id_: int) -> None:
    assert "no configuration with that id" in emulator_library.supported(layer(grid=8), H200, id_).reason


@pytest.mark.parametrize(
    ("name", "params", "device", "words"),
    [
        ("block-mma-64x64-s4-w2x2", layer(), H200, "a value for each pixel"),
        ("pixel-mma-64x64-s4-w2x2", layer(grid=4), H200, "4x4"),
        ("pixel-mma-64x64-s4-w2x2", layer(dtype=Dtype.FLOAT32), H200, "not float32"),
        ("pixel-simt-64x64", layer(), H200, "takes float32"),
        ("dense-simt-64x64", layer(dtype=Dtype.BFLOAT16), H200, "takes float32"),
        ("pixel-mma-64x64-s4-w2x2", layer(), TURING, "needs compute capability 8.0, and the device has 7.5"),
        ("pixel-simt-64x64", layer(dtype=Dtype.FLOAT32), TURING, "pixel-simt-64x64 needs compute capability 8.0"),
        ("pixel-mma-128x256-s3-w2x4", layer(), GA102, "150528 bytes of shared memory"),
        ("pixel-triton-rows-64x32x32-s3-w4", layer(), H200, "no code for compute capability 9.0 in this library"),
        ("pixel-triton-rows-64x64x64-s3-w4", layer(dtype=Dtype.FLOAT32), H200, "not float32"),
        ("pixel-triton-rows-64x64x64-s3-w4", layer((1, 12, 9, 9)), H200, "channels in eights, not 12"),
        ("block-triton-boxes-128x64x64-s4-w4", layer(grid=8), GA102, "needs compute capability 9.0, and the device has 8.6"),
        ("block-triton-boxes-128x64x64-s4-w4", layer(grid=4), H200, "G is a multiple of 8, not 4"),
        ("block-triton-boxes-128x64x64-s4-w4", layer(grid=8, stride=2), H200, "stride 1, not 2x2"),
        ("pixel-triton-rows-64x32x32-s3-w4", layer((1, 8, 46_340, 46_340), stride=2), H200, "an image with its pads are fewer"),
    ],
)
def test_a_configuration_says_why_not(
    emulator_library: Library, name: str, params: ConvParams, device: Device, words: str
) -> None:
    support = emulator_library.supported(params, device, emulator_library.config(name).id)
    assert not support
    assert words in support.reason
    assert emulator_library.predict(params, device, emulator_library.config(name).id) is None
    if "no code" not in words:  # an engine's workspace does not depend on what one library holds
        assert emulator_library.workspace(params, device, emulator_library.config(name).id) == 0


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("abi", 99, "interface 99"),
        ("dtype", 7, "dtype 7"),
        ("layout", 5, "layout 5"),
        ("layout", Layout.NCHW, "NHWC"),
        ("n", -1, "must be positive"),
        ("k", 0, "must be positive"),
        ("r", 8, "1x1 to 7x7, not 8x3"),
        ("grid", 17, "1 to 16, not 17"),
        ("post_scale_size", 3, "1 or 64 elements, not 3"),
        ("gate_r", 3, "54x56"),
        ("kernels", 8, "bits of lccl_kernel"),
        ("h", 1 << 30, "2^29"),
        ("n", 1 << 20, "2^31"),
    ],
)
def test_a_call_says_why_not(emulator_library: Library, field: str, value: int, words: str) -> None:
    params = layer()
    setattr(params, field, value)
    support = emulator_library.supported(params, H200)
    assert not support
    assert words in support.reason
    assert emulator_library.choose(params, H200) == 0


@pytest.mark.parametrize(
    ("field", "words"), [("strides", "at least 1"), ("pads", "negative"), ("gate_dilations", "the gate's")]
)
def test_geometry_says_why_not(emulator_library: Library, field: str, words: str) -> None:
    params = layer()
    getattr(params, field)[1] = -1
    assert words in emulator_library.supported(params, H200).reason


def test_every_device_gets_something(emulator_library: Library) -> None:
    for device in (H200, GA102):
        for dtype in Dtype:
            for grid in (1, 8):
                params = layer(grid=grid, dtype=dtype)
                chosen = emulator_library.config(emulator_library.choose(params, device))
                assert emulator_library.supported(params, device, chosen.id)
                expected = Math.SIMT if dtype == Dtype.FLOAT32 or device is TURING else Math.MMA
                assert chosen.math == expected


def test_the_choice_is_the_smallest_prediction(emulator_library: Library) -> None:
    for shape in ((1, 64, 56, 56), (32, 128, 28, 28), (8, 256, 160, 160)):
        for density in (0.1, 0.5, 1.0):
            for grid in (1, 8):
                params = layer(shape, shape[1], grid=grid, density=density)
                times = {c.id: emulator_library.predict(params, H200, c.id) for c in emulator_library.configs()}
                able = {k: t for k, t in times.items() if t is not None}
                assert able[emulator_library.choose(params, H200)] == min(able.values())


def test_open_gates_are_computed_densely(emulator_library: Library) -> None:
    """A list of all pixels costs its kernel and gains nothing."""
    for grid in (1, 8):
        params = layer((32, 128, 56, 56), 128, grid=grid, density=1.0)
        assert emulator_library.config(emulator_library.choose(params, H200)).family == Family.DENSE
        params = layer((32, 128, 56, 56), 128, grid=grid, density=0.2)
        assert emulator_library.config(emulator_library.choose(params, H200)).family != Family.DENSE


def test_workspace_never_shrinks_as_sizes_grow(emulator_library: Library) -> None:
    for config in emulator_library.configs_for(H200):
        grid = 8 if config.family == Family.BLOCK else 1
        dtype = Dtype.FLOAT32 if config.math == Math.SIMT else Dtype.FLOAT16
        for axis in (0, 2, 3):
            sizes = []
            for size in (1, 2, 7, 8, 31, 64, 200):
                shape = [2, 20, 30, 30]
                shape[axis] = size
                params = layer(tuple(shape), 24, grid=grid, dtype=dtype)  # type: ignore[arg-type]
                sizes.append(emulator_library.workspace(params, H200, config.id))
            assert sizes == sorted(sizes)
            assert sizes[0] > 0


def test_launch_refuses_wrong_pointers(emulator_library: Library) -> None:
    params = layer((1, 8, 4, 4), 8)
    config = emulator_library.choose(params, H200)
    needed = emulator_library.workspace(params, H200, config)
    workspace = aligned((needed,), np.uint8)
    tensor, output = aligned((4096,), np.uint8), aligned((4096,), np.uint8)
    tensor[:] = 0
    absent = ("gate", "residual")
    names = [n for n, t in ConvParams._fields_ if t is ctypes.c_void_p]

    def call(**pointers: int | None) -> None:
        for name in names:
            setattr(params, name, None if name in absent else tensor.ctypes.data)
        for name, address in pointers.items():
            setattr(params, name, address)
        emulator_library.launch(params, H200, config, workspace.ctypes.data, needed)

    call(y=output.ctypes.data)
    call(y=output.ctypes.data, gate_bias=None)
    for name in ("x", "weight", "bias", "y", "gate_weight", "post_scale"):
        with pytest.raises(UserError, match=f"^{name} is null, and the call needs it"):
            call(**{name: None})
    for name in absent:
        with pytest.raises(UserError, match=f"^{name} is given, and the call says that it has none"):
            call(**{name: tensor.ctypes.data})
    for name in ("x", "weight", "gate_weight", "y"):
        with pytest.raises(UserError, match=f"^{name} is not aligned: its address must be a multiple of 16"):
            call(**{name: tensor.ctypes.data + 8})
    call(y=output.ctypes.data)
    for address, size, words in (
        (workspace.ctypes.data, needed - 1, f"the workspace has {needed - 1} bytes, and the call needs {needed}"),
        (workspace.ctypes.data + 8, needed, "the workspace is not aligned"),
        (0, needed, "the workspace is null"),
    ):
        with pytest.raises(UserError, match=words):
            emulator_library.launch(params, H200, config, address, size)
    with pytest.raises(ContractError, match="no configuration with that id"):
        emulator_library.launch(params, H200, 12345, workspace.ctypes.data, needed)


def test_rows_of_the_table_are_whole(emulator_library: Library) -> None:
    for config in emulator_library.configs():
        values = dataclasses.asdict(config)
        assert all(values[n] > 0 for n in ("tile_m", "tile_n", "tile_k", "stages", "shared_bytes", "max_registers"))
        assert config.max_registers * config.warps_m * config.warps_n * 32 * config.blocks_per_sm <= 65536
        assert config.shared_bytes <= H200.shared_per_block
