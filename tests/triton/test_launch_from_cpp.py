"""The Triton kernels launched from C++: a recorded driver reads each parameter where the cubin has it, and runs the source with it."""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton", reason="pip install triton")

from lccl.backends.torch.cuda.interface import ConvParams, Device, Dtype, Layout, Math
from lccl.backends.torch.cuda.planning import conv_params, layer_attributes, layer_shapes
from lccl.backends.torch.triton import ahead
from lccl.backends.torch.triton.configurations import CONFIGURATIONS, Layer, refusal
from lccl.errors import UserError
from lccl.op.reference import lccl_conv
from support.builds.cuda import RECORDED_KERNELS, Disassembler
from support.builds.triton import cubin_of
from support.cases.op_cases import CASES, Case
from support.hosts.emulator import STORAGE, Array
from support.hosts.recorded import H200, Recorded, spoil
from support.share import share

pytestmark = pytest.mark.slow
TOLERANCE = {Dtype.FLOAT32: 1e-5, Dtype.FLOAT16: 4e-3}
ROWS, BOXES = "rows-64x32x32-s3-w4", "boxes-128x64x64-s4-w4"
NAMES = (
    "everything", "leaky", "released", "stride-uneven", "dilated-uneven", "pads-uneven", "one-channel", "one-channel-post",
    "odd-channels", "grid-3-stride-2", "grid-external", "both", "threshold-external", "all-off", "all-on", "nan-kxk",
)  # fmt: skip
"""Of the named cases: each argument of the kernels has a value of its own in one of them."""
NAMED = {case.name: case for case in CASES}
BOXED = (
    Case("odd-boxes", "an odd number of boxes, clipped, K of no alignment, a residual and an affine", n=3, c=8, k=13, hw=(11, 13),
         gate="grid", grid=8, residual=True, post=True, activation_alpha=0.0, post_alpha=0.1),
    Case("boxes-of-16", "cells of 16 cut in four, pads and dilations that differ", c=16, k=8, hw=(17, 20), kernel=(3, 5),
         pads=(2, 5, 0, 3), dilations=(1, 2), gate="grid", grid=16),
)  # fmt: skip


@pytest.fixture(scope="module")
def recorded(recorded_library_path: Path) -> Recorded:
    return Recorded(recorded_library_path)


def require_right(recorded: Recorded, case: Case, dtype: Dtype, config: str, **options: object) -> Array:
    inputs = case.inputs(STORAGE[dtype])
    want = lccl_conv(inputs, case.attributes)
    y, padding = recorded.run(inputs, case.attributes, dtype, recorded.library.config(config).id, **options)  # type: ignore[arg-type]
    scale = max(1.0, float(np.nanmax(np.abs(want), initial=0)))
    np.testing.assert_allclose(y.astype(np.float64), want, rtol=0, atol=TOLERANCE[dtype] * scale, equal_nan=True)
    assert not padding.astype(np.float32).any()
    return y


@pytest.mark.parametrize("name", NAMES)
def test_named_cases_by_rows(recorded: Recorded, name: str) -> None:
    case = NAMED[name]
    family = "pixel" if case.grid == 1 else "block"
    require_right(recorded, case, Dtype.FLOAT16, f"{family}-triton-{ROWS}", in_place=name == "leaky")
    assert [launch.compiled.function for launch in recorded.launches] == ["gate_cells", "conv_rows", "close_pixels"]
    eights = case.c % 8 == 0
    assert [launch.compiled.variant.in_eights for launch in recorded.launches] == [eights, eights, True]


@pytest.mark.parametrize("case", BOXED, ids=lambda case: case.name)
@pytest.mark.parametrize("family", ["block", "dense"])
def test_boxes(recorded: Recorded, case: Case, family: str) -> None:
    require_right(recorded, case, Dtype.FLOAT16, f"{family}-triton-{BOXES}", in_place=case.residual)
    main = recorded.launches[1]
    assert main.compiled.function == "conv_boxes"
    assert main.values["dense_share"] == pytest.approx(-1 if family == "dense" else 0.85)


@pytest.mark.parametrize("name", ["everything", "odd-channels"])
def test_float32_as_tensorrt_has_it(recorded: Recorded, name: str) -> None:
    require_right(recorded, NAMED[name], Dtype.FLOAT32, f"pixel-triton-{ROWS}", layout=Layout.NCHW)
    assert all(launch.compiled.variant.nchw for launch in recorded.launches)


def test_descriptors_have_the_tensors_sizes_strides_and_boxes(recorded: Recorded) -> None:
    case = BOXED[0]
    require_right(recorded, case, Dtype.FLOAT16, f"block-triton-{BOXES}")
    main = recorded.launches[1]
    x, w, residual, y = (main.values[name] for name in ("x", "w", "residual", "y"))
    assert (x.sizes, x.strides_bytes, x.box) == ((3, 11, 13, 8), (11 * 13 * 16, 13 * 16, 16), (1, 8, 8, 64))
    assert (w.sizes, w.strides_bytes, w.box) == ((13, 9, 8), (9 * 16, 16), (64, 1, 64))
    assert (y.sizes, y.strides_bytes, y.box) == ((3, 11, 13, 16), (11 * 13 * 32, 13 * 32, 32), (1, 8, 8, 64))
    assert (residual.sizes, residual.strides_bytes) == ((3, 11, 13, 13), y.strides_bytes)
    for described in (x, w, residual, y):
        assert (described.element_type, described.options) == (6, (0, 3, 2, 0)), "float16, swizzle of 128 bytes, L2 by 128"
        assert set(described.steps) == {1}
    assert main.repeated["y"] == (3, 11, 13, 16, 11 * 13 * 16, 13 * 16, 16, 1)


def test_descriptors_of_small_tensors_are_mended_for_older_drivers(recorded: Recorded) -> None:
    """As CUTLASS and Triton mend them: up to CUDA 13.1, under 128 KiB."""
    wide = dataclasses.replace(BOXED[0], hw=(80, 64), c=8, k=8)
    recorded.runs = False
    try:
        for case, version, mended in ((BOXED[0], 13010, 4), (BOXED[0], 13020, 0), (wide, 13010, 1)):
            recorded.driver.lccl_recorded_device(0, version)
            inputs = case.inputs(np.float16)
            recorded.run(inputs, case.attributes, Dtype.FLOAT16, recorded.library.config(f"block-triton-{BOXES}").id)
            assert len(recorded.mended) == mended
    finally:
        recorded.runs = True
        recorded.driver.lccl_recorded_device(0, 13010)


def test_a_launch_has_the_cubins_own_threads_and_shared_memory(recorded: Recorded) -> None:
    require_right(recorded, BOXED[0], Dtype.FLOAT16, f"block-triton-{BOXES}")
    for launch in recorded.launches:
        assert (launch.threads, launch.shared, launch.stream) == (launch.compiled.warps * 32, launch.compiled.shared, 7)
    assert recorded.cleared == [(recorded.launches[0].values["count"], 4)]


def test_a_cubin_is_loaded_once_and_set_up_on_each_device(recorded: Recorded) -> None:
    case = NAMED["plain"]
    config = f"pixel-triton-{ROWS}"
    require_right(recorded, case, Dtype.FLOAT16, config)
    loads = recorded.loads
    recorded.prepared.clear()
    require_right(recorded, case, Dtype.FLOAT16, config)
    assert (recorded.loads, recorded.prepared) == (loads, [])
    recorded.placed.clear()
    recorded.driver.lccl_recorded_device(1, 13010)
    try:
        require_right(recorded, case, Dtype.FLOAT16, config)
    finally:
        recorded.driver.lccl_recorded_device(0, 13010)
    assert recorded.loads == loads
    shared = [(launch.compiled.function, launch.compiled.shared, 1) for launch in recorded.launches]
    assert recorded.prepared == shared
    assert recorded.placed == [(name, 1) for name, _, _ in shared], "a load that fails has to fail ahead of a launch"


def test_closed_pixels_that_stay_are_not_written(recorded: Recorded) -> None:
    """The kernel leaves channels without an offset alone; it is not started where none has one."""
    case = dataclasses.replace(NAMED["residual"], post_alpha=1.0, post=True, k=8)
    require_right(recorded, case, Dtype.FLOAT16, f"pixel-triton-{ROWS}", in_place=True)
    assert recorded.launches[-1].values["keeps"] == 1
    neutral = dataclasses.replace(case, post=False)
    require_right(recorded, neutral, Dtype.FLOAT16, f"pixel-triton-{ROWS}", in_place=True)
    require_right(recorded, neutral, Dtype.FLOAT16, f"pixel-triton-{ROWS}", in_place=True, without=("post_bias", "post_scale"))
    assert [launch.compiled.function for launch in recorded.launches] == ["gate_cells", "conv_rows"]
    require_right(recorded, NAMED["residual"], Dtype.FLOAT16, f"pixel-triton-{ROWS}", in_place=True)
    assert recorded.launches[-1].values["keeps"] == 0


def test_simulated_gates_are_open_in_about_a_share(recorded: Recorded) -> None:
    case = dataclasses.replace(NAMED["plain"], hw=(40, 40), fill="all-off")
    y, _ = recorded.run(
        case.inputs(np.float16), case.attributes, Dtype.FLOAT16, recorded.library.config(f"pixel-triton-{ROWS}").id,
        given={"simulate_gate": 1, "density": 0.3},
    )  # fmt: skip
    assert 0.15 < float((y != 0).any(axis=1).mean()) < 0.45


@pytest.mark.parametrize("step", ["load", "find", "prepare", "place", "encode", "launch", "clear"])
def test_what_the_driver_refuses_is_said(recorded: Recorded, step: str) -> None:
    recorded.fails = {step: 700}
    recorded.runs = False
    recorded.driver.lccl_recorded_forget()
    unloaded = recorded.driver.lccl_recorded_unloaded()
    try:
        with pytest.raises(UserError, match="could not be started"):
            require_right(recorded, BOXED[0], Dtype.FLOAT16, f"block-triton-{BOXES}")
    finally:
        recorded.fails, recorded.runs = {}, True
    assert recorded.driver.lccl_recorded_unloaded() - unloaded == (step == "find")


def test_predictions_follow_the_constants_of_these_kernels(recorded: Recorded) -> None:
    """Every one that they read moves one; without constants, the device's own apply."""
    library = recorded.library
    calls = []
    for grid, density, dtype in ((8, 0.3, Dtype.FLOAT16), (8, 0.95, Dtype.FLOAT16), (1, 0.3, Dtype.FLOAT32)):
        attributes = layer_attributes((3, 3), grid=grid, density=density)
        calls.append(conv_params(layer_shapes((8, 64, 56, 56), 64, (3, 3), attributes), attributes, dtype))
    chosen = [(p, c.id) for p in calls for c in library.configs() if library.supported(p, H200, c.id)]
    assert {library.config(id_).name.split("-")[2] for _, id_ in chosen} == {"rows", "boxes"}
    rates = library.rates(H200)
    before = [library.predict(p, H200, c) for p, c in chosen]
    assert before == [library.predict(p, H200, c, rates) for p, c in chosen]
    for name in ("rows_flops", "boxes_flops", "cache_bytes", "dram_bytes", "first_launch", "next_launch", "gate_bytes"):
        other = library.rates(H200)
        setattr(other, name, getattr(rates, name) / 100)
        assert [library.predict(p, H200, c, other) for p, c in chosen] != before, name
    for p in calls:
        times = {c: library.predict(p, H200, c) for q, c in chosen if q is p}
        assert times[library.choose(p, H200)] == min(times.values())


# ---- layouts ---------------------------------------------------------------------------------------------------------


def rows_of(recorded: Recorded, number: int, change: dict[str, int]) -> None:
    """Let a parameter of every cubin be another one: an address of x, but for a change."""
    for cubin in range(recorded.driver.lccl_recorded_cubins()):
        row = {"offset": 8 * number, "size": 8, "kind": 0, "argument": 1, "axis": 0} | change
        packed = struct.pack("<HHBBB", *(row[k] for k in ("offset", "size", "kind", "argument", "axis"))) + b"\0"
        spoil(recorded, cubin, number, packed)


def test_simulated_gates_need_no_threshold(recorded: Recorded) -> None:
    case = dataclasses.replace(NAMED["plain"], fill="all-off", gate_threshold=1.5)
    y, _ = recorded.run(
        case.inputs(np.float16), case.attributes, Dtype.FLOAT16, recorded.library.config(f"pixel-triton-{ROWS}").id,
        given={"simulate_gate": 1, "density": 0.5},
    )  # fmt: skip
    assert (y != 0).any()


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (3, {"size": 4}),
        (20, {"size": 4, "kind": 8, "argument": 22}),
        (20, {"argument": 250}),
        (4, {"kind": 3}),
    ],
    ids=["another size", "a number that is taken for a float", "an argument that nobody knows", "a pointer taken for a size"],
)
def test_a_layout_that_is_not_known_starts_nothing(recorded: Recorded, number: int, change: dict[str, int]) -> None:
    recorded.runs = False
    try:
        rows_of(recorded, number, change)
        with pytest.raises(UserError, match="takes parameters that the library does not know"):
            require_right(recorded, NAMED["plain"], Dtype.FLOAT16, f"pixel-triton-{ROWS}")
        assert recorded.launches == []
    finally:
        recorded.runs = True
        spoil(recorded, -1, 0, b"")


def test_a_number_in_the_row_of_another_is_known(recorded: Recorded) -> None:
    """What the rows above lack is right in this one: without it they might be refused for another reason."""
    recorded.runs = False
    try:
        rows_of(recorded, 20, {"size": 4, "kind": 6, "argument": 22})
        recorded.decodes = False
        case = NAMED["plain"]
        recorded.run(
            case.inputs(np.float16), case.attributes, Dtype.FLOAT16, recorded.library.config(f"pixel-triton-{ROWS}").id
        )
        assert len(recorded.launches) == 3
    finally:
        recorded.runs = recorded.decodes = True
        spoil(recorded, -1, 0, b"")


def test_the_places_of_parameters_are_those_that_nvidias_tool_reads(disassembler: Disassembler, tmp_path: Path) -> None:
    for name in ("boxes_2x64x64-float16-eights", "gate-float16-any"):
        made = cubin_of(name)
        path = tmp_path / "kernel.cubin"
        path.write_bytes(made.cubin)
        said = re.findall(r"Ordinal\s*:\s*0x(\w+)\s*Offset\s*:\s*0x(\w+)\s*Size\s*:\s*0x(\w+)", disassembler.run("-elf", path))
        places = {int(o, 16): (int(offset, 16), int(size, 16)) for o, offset, size in said}
        assert places
        assert [places[i] for i in range(len(places))] == ahead.parameter_places(made.cubin, made.function)


def test_a_triton_that_lays_out_otherwise_is_refused() -> None:
    made = cubin_of("rows_64x32-float16-eights")
    known = [(p.kind, p.name, p.axis) for p in made.parameters if p.kind != "scratch"]
    assert ahead.parameters(made.cubin, made.function, known) == made.parameters
    with pytest.raises(RuntimeError, match="takes w in 8 bytes, and a i32 has 4"):
        ahead.parameters(made.cubin, made.function, [known[0], ("i32", "w", 0), *known[2:]])
    with pytest.raises(RuntimeError, match="two of scratch"):
        ahead.parameters(made.cubin, made.function, known[:-2])
    with pytest.raises(RuntimeError, match="takes x in 8 bytes, and a descriptor has 128"):
        ahead.parameters(made.cubin, made.function, [("descriptor", "x", 0), *known[1:]])
    with pytest.raises(RuntimeError, match="of type u16 is not known"):
        list(ahead.kinds_of({"x": "u16"}, True))
    with pytest.raises(RuntimeError, match="no ELF file"):
        ahead.parameter_places(b"something else", made.function)
    with pytest.raises(RuntimeError, match="does not say where the parameters of other are"):
        ahead.parameter_places(made.cubin, "other")


def test_on_8_0_a_descriptor_is_a_pointer_with_sizes_and_strides() -> None:
    made = cubin_of("boxes_2x64x64-float16-eights", 80)
    assert made.boxes == ()
    mine = [p.kind for p in made.parameters if p.name == "w"]
    assert mine == ["pointer", *["long_size"] * 3, *["stride"] * 3, *["flag"] * 2, *["size"] * 3, *["stride"] * 3]
    on_hopper = cubin_of("boxes_2x64x64-float16-eights")
    assert [p.kind for p in on_hopper.parameters if p.name == "w"] == ["descriptor", *["size"] * 3, *["stride"] * 3]
    assert on_hopper.parameters[0].offset % 64 == 48, "so that the descriptor lies at a multiple of 64 among the constants"


VARIANTS = [(v.name, c) for c in (90, 80, 86, 89, 100, 120) for v in ahead.variants(c)]


@pytest.mark.parametrize(("name", "capability"), share(VARIANTS, [(name, 90) for name in RECORDED_KERNELS]))
def test_registers_and_shared_memory_are_within_the_table(recorded: Recorded, name: str, capability: int) -> None:
    """And nothing spills. `make thorough` takes all kernels on all architectures."""
    made = cubin_of(name, capability)
    assert 0 < made.registers <= 255
    assert made.stack == 0
    if made.variant.configuration:
        number = next(c.number for c in CONFIGURATIONS if c.name == made.variant.configuration)
        rows = [row for row in recorded.library.configs() if row.math == Math.TRITON and row.id & 0xFF == number]
        assert rows
        assert all(made.registers <= row.max_registers and made.shared <= row.shared_bytes for row in rows)


def test_cubins_are_those_of_the_gpu_that_a_call_runs_on(recorded: Recorded) -> None:
    """An engine that was planned on another GPU runs where there is code for this one; and only there."""
    case, config = NAMED["plain"], recorded.library.config(f"pixel-triton-{ROWS}").id
    a100 = Device(80, 108, 166912, 167936)
    inputs = case.inputs(np.float16)
    y, _ = recorded.run(inputs, case.attributes, Dtype.FLOAT16, config, planned=a100)
    np.testing.assert_allclose(y.astype(np.float64), lccl_conv(inputs, case.attributes), rtol=0, atol=4e-3 * 8)
    assert [launch.compiled.capability for launch in recorded.launches] == [90] * 3
    recorded.driver.lccl_recorded_capability(80)
    recorded.driver.lccl_recorded_device(2, 13010)
    try:
        with pytest.raises(UserError, match="no kernel for this GPU"):
            recorded.run(inputs, case.attributes, Dtype.FLOAT16, config)
        assert (recorded.launches, recorded.cleared) == ([], [])
    finally:
        recorded.driver.lccl_recorded_capability(90)
        recorded.driver.lccl_recorded_device(0, 13010)


def params_of(case: Case) -> ConvParams:
    return conv_params({name: a.shape for name, a in case.inputs().items()}, case.attributes, Dtype.FLOAT16)


def test_a_driver_that_is_too_old_and_little_shared_memory_are_named(recorded: Recorded) -> None:
    params, config = params_of(NAMED["plain"]), recorded.library.config(f"pixel-triton-{ROWS}").id
    little = Device(90, 132, 4096, 233472)
    assert (
        "bytes of shared memory a block, and the device gives 4096" in recorded.library.supported(params, little, config).reason
    )
    recorded.driver.lccl_recorded_device(0, 12080)
    try:
        reason = recorded.library.supported(params, H200, config).reason
    finally:
        recorded.driver.lccl_recorded_device(0, 13010)
    assert re.search(r"compiled by CUDA 13\.\d, and the driver is for CUDA 12\.8: install a newer driver", reason)


COUNTED = {
    "tiles": ((1 << 22, 8, 1, 1), 4096, 16),
    "output channels": ((1, 8, 1, 1), 65535 * 64 + 1, 1),
    "neither": ((1, 8, 1, 1), 65535 * 64, 1),
}
"""Sizes of x, K, G."""


@pytest.mark.parametrize("what", COUNTED)
def test_what_is_counted_in_32_bits_is_refused_as_in_python(recorded: Recorded, what: str) -> None:
    sizes, filters, grid = COUNTED[what]
    attributes = layer_attributes((1, 1), grid=grid, density=0.9)
    params = conv_params(layer_shapes(sizes, filters, (1, 1), attributes), attributes, Dtype.FLOAT16)
    cells = sizes[0]
    here = refusal(Layer(sizes[1], filters, (1, 1), attributes, cells, 2, 90, sizes[2:]), "rows")
    family = "pixel" if grid == 1 else "block"
    there = recorded.library.supported(params, H200, recorded.library.config(f"{family}-triton-{ROWS}").id).reason
    assert all((what in reason) == (what != "neither") for reason in (here, there)), (here, there)


def test_another_gpu_says_what_is_missing(recorded: Recorded) -> None:
    case = NAMED["plain"]
    params = conv_params({name: a.shape for name, a in case.inputs().items()}, case.attributes, Dtype.FLOAT16)
    config = recorded.library.config(f"pixel-triton-{ROWS}").id
    assert recorded.library.supported(params, H200, config)
    for capability in (80, 100, 103, 121):
        device = type(H200)(capability, 100, 232448, 233472)
        reason = recorded.library.supported(params, device, config).reason
        assert f"no code for compute capability {capability // 10}.{capability % 10}" in reason
        reason = recorded.library.supported(params, device).reason
        assert reason.startswith(f"this library has no code for compute capability {capability // 10}.{capability % 10}")
    plain = recorded.library.config("pixel-mma-64x64-s4-w2x2").id
    assert "built without it" in recorded.library.supported(params, H200, plain).reason
