"""The CUDA kernels' own source, lane by lane on the emulated machine, against the float64 reference."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from lccl.backends.torch.cuda.interface import Device, Dtype, Family, Kernels, Layout, Math
from lccl.backends.torch.cuda.library import Config, Library
from lccl.errors import ContractError
from lccl.op.contract import FLT_MAX
from lccl.op.reference import lccl_conv, lccl_gate
from support.cases.op_cases import CASES, Case
from support.hosts.emulator import STORAGE, Array, Emulated, Emulator
from support.share import ALL

BIG = Device(90, 132, 232448, 233472)
SMALL = Device(80, 3, 166912, 167936)
"""Few multiprocessors: blocks take several tiles each."""
TOLERANCE = {Dtype.FLOAT32: 2e-6, Dtype.FLOAT16: 1e-3, Dtype.BFLOAT16: 8e-3}
"""Relative to max(1, largest |Y|): half a unit in the last place of T, and the order of float32 sums."""
SWEEPS = 6
CASES_PER_SWEEP = 400 if ALL else 150


@pytest.fixture(scope="module")
def emulator(emulator_library: Library) -> Emulator:
    return Emulator(emulator_library)


def configs_for(library: Library, grid: int, dtype: Dtype) -> list[Config]:
    """The configurations that can take a gate of this grid and type."""
    skipping = Family.PIXEL if grid == 1 else Family.BLOCK
    return [
        c
        for c in library.configs_for(BIG)
        if c.family in (Family.DENSE, skipping) and (c.math == Math.SIMT) == (dtype == Dtype.FLOAT32)
    ]


def check(case: Case, inputs: dict[str, Array], dtype: Dtype, result: Emulated) -> None:
    """Nothing reported, all values right, padding 0."""
    assert result.errors == "", f"{case}: {result.errors}"
    attributes = case.attributes
    expected = lccl_conv(inputs, attributes)
    gates = lccl_gate(inputs, attributes)[:, 0, :: case.grid, :: case.grid]
    wrong = (result.gates > 0) != (gates.ravel() > 0)
    assert not wrong.any(), f"{case}: {wrong.sum()} cells are active that should not be, or the other way round"
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0)))
    np.testing.assert_allclose(
        result.y.astype(np.float64), expected, rtol=0, atol=TOLERANCE[dtype] * scale, equal_nan=True, err_msg=str(case)
    )
    assert not result.padding.astype(np.float32).any(), f"{case}: padding of y is not 0"


def inputs_of(case: Case, dtype: Dtype) -> dict[str, Array]:
    return case.inputs(STORAGE[dtype])


# ---- the named cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(Dtype), ids=lambda d: d.name.lower())
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_named_cases_on_every_configuration(emulator: Emulator, case: Case, dtype: Dtype) -> None:
    """bfloat16 differs from float16 in one instruction, so that a quick run takes every third configuration of it."""
    inputs = inputs_of(case, dtype)
    step = 3 if dtype is Dtype.BFLOAT16 and not ALL else 1
    for config in configs_for(emulator.library, case.grid, dtype)[::step]:
        check(case, inputs, dtype, emulator.run(inputs, case.attributes, dtype, BIG, config.id, seed=config.id))


# ---- random cases -----------------------------------------------------------------------------------------------------

CHANNELS = (1, 3, 7, 8, 9, 16, 24, 40, 64, 72)


def random_case(rng: np.random.Generator, name: str) -> Case:
    """Any form of the op on a small map; about every fifth draw does not fit together and raises."""
    pick = lambda *values: values[rng.integers(len(values))]  # noqa: E731
    kernel = (int(rng.integers(1, 8)), int(rng.integers(1, 8))) if rng.random() < 0.5 else pick((3, 3), (1, 1))
    grid = int(pick(1, 1, 2, 3, 4, 7, 8, 16))
    fused = ("1x1", "kxk") if grid == 1 else ("grid",)
    return Case(
        name=name,
        why="random",
        n=int(rng.integers(1, 4)),
        c=int(pick(*CHANNELS)),
        k=int(pick(*CHANNELS)),
        hw=(int(rng.integers(1, 21)), int(rng.integers(1, 21))),
        kernel=kernel,
        strides=pick((1, 1), (1, 1), (2, 2), (1, 3), (2, 1)),
        pads=tuple(int(v) for v in rng.integers(0, 4, 4)) if rng.random() < 0.5 else (kernel[0] // 2, kernel[1] // 2) * 2,
        dilations=pick((1, 1), (1, 1), (2, 2), (3, 1)),
        gate=pick(*fused, "external", "both" if grid == 1 else "external"),
        grid=grid,
        activation_alpha=pick(1.0, 0.0, 0.1),
        gate_max=pick(FLT_MAX, 1.0),
        gate_threshold=pick(0.0, 0.0, 0.3),
        post=rng.random() < 0.5,
        residual=rng.random() < 0.5,
        post_alpha=pick(1.0, 0.0, 0.2),
        fill=pick("random", "random", "random", "all-off", "all-on", "one-pixel"),
    )


def draw(rng: np.random.Generator, name: str, dtype: Dtype) -> tuple[Case, dict[str, Array]]:
    """A random case whose sizes fit together, and its inputs."""
    while True:
        case = random_case(rng, name)
        if case.fill == "one-pixel" and case.gate not in ("external", "both"):
            case = dataclasses.replace(case, fill="random")
        try:
            inputs = inputs_of(case, dtype)
            lccl_gate(inputs, case.attributes)
        except (ContractError, ValueError, IndexError):
            continue
        return case, inputs


@pytest.mark.parametrize("sweep", range(SWEEPS))
def test_random_cases(emulator: Emulator, sweep: int) -> None:
    rng = np.random.default_rng(sweep)
    for number in range(CASES_PER_SWEEP):
        dtype = (Dtype.FLOAT16, Dtype.BFLOAT16, Dtype.FLOAT16, Dtype.FLOAT32)[number % 4]
        case, inputs = draw(rng, f"random-{sweep}-{number}", dtype)
        configs = configs_for(emulator.library, case.grid, dtype)
        config = configs[rng.integers(len(configs))]
        device = SMALL if rng.random() < 0.5 else BIG
        if config.shared_bytes > device.shared_per_block:
            device = BIG
        in_place = case.residual and bool(rng.random() < 0.3)
        result = emulator.run(inputs, case.attributes, dtype, device, config.id, seed=number, in_place=in_place)
        check(case, inputs, dtype, result)


# ---- what a random case meets too rarely ---------------------------------------------------------------------------------


def wide_case(name: str, **changes: object) -> Case:
    """A layer of several tiles."""
    case = Case(name, "several tiles", n=2, c=72, k=136, hw=(16, 17), gate="external", activation_alpha=0.0)
    return dataclasses.replace(case, **changes)  # type: ignore[arg-type]


def mma_configs(library: Library, *families: Family) -> list[Config]:
    return [c for c in library.configs() if c.math == Math.MMA and c.family in families]


@pytest.mark.parametrize("grid", [1, 4, 7])
def test_blocks_that_take_several_tiles(emulator: Emulator, grid: int) -> None:
    """On one multiprocessor each block goes from tile to tile."""
    case = wide_case(f"persistent-{grid}", grid=grid)
    inputs = inputs_of(case, Dtype.FLOAT16)
    one = Device(90, 1, 232448, 233472)
    for config in configs_for(emulator.library, grid, Dtype.FLOAT16):
        check(case, inputs, Dtype.FLOAT16, emulator.run(inputs, case.attributes, Dtype.FLOAT16, one, config.id))


@pytest.mark.parametrize("channels", [64, 100])
def test_blocks_that_share_a_tile(emulator: Emulator, channels: int) -> None:
    """A small map of a deep layer: its reduction is split, and whoever delivers last adds up in the same order."""
    case = wide_case("split", c=channels, k=24, n=1, hw=(5, 6), residual=True, post=True)
    inputs = inputs_of(case, Dtype.FLOAT16)
    for config in mma_configs(emulator.library, Family.PIXEL, Family.DENSE):
        results = [emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id, seed=seed) for seed in range(4)]
        for result in results:
            check(case, inputs, Dtype.FLOAT16, result)
            assert result.y.tobytes() == results[0].y.tobytes(), config.name


def test_segments_of_several_rounds(emulator: Emulator) -> None:
    """So many cells that a block of the gate kernel takes its segment in two rounds; active ones at the seams."""
    case = Case("rounds", "many cells", n=1, c=8, k=8, hw=(520, 521), kernel=(1, 1), pads=(0, 0, 0, 0), gate="external")
    inputs = inputs_of(case, Dtype.FLOAT16)
    cells = 520 * 521
    segment = (cells // 256 // 8 + 1) * 8
    assert 1024 < segment < 2048
    for density in ("seams", "half"):
        gate = np.zeros(cells, np.float16)
        if density == "half":
            gate[np.random.default_rng(3).integers(0, cells, cells // 2)] = 1
        for first in (0, segment, 255 * segment):
            gate[[i for i in (first - 1, first, first + 1023, first + 1024, cells - 1) if 0 <= i < cells]] = 0.5
        inputs["gate"] = gate.reshape(1, 1, 520, 521)
        config = emulator.library.config("pixel-mma-128x128-s3-w2x4")
        result = emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id, checked=density == "seams")
        check(case, inputs, Dtype.FLOAT16, result)
        assert result.active == np.count_nonzero(gate)


def test_sums_of_several_rounds(emulator: Emulator) -> None:
    """The same with a gate that is computed: a sum of the second round lies where one of the first lay."""
    case = Case("rounds", "many cells", n=1, c=8, k=8, hw=(520, 521), kernel=(1, 1), pads=(0, 0, 0, 0), gate="1x1")
    inputs = inputs_of(case, Dtype.FLOAT16)
    rng = np.random.default_rng(4)
    inputs["gate_W"] = np.array([1, *(0,) * 7], np.float16).reshape(1, 1, 1, 8)
    inputs["gate_B"] = np.zeros(1, np.float32)
    wanted = rng.integers(1, 9, (520, 521)) * rng.choice((-1, 1), (520, 521), p=(0.97, 0.03))
    inputs["X"][0, 0] = wanted
    config = emulator.library.config("pixel-mma-128x128-s3-w2x4")
    result = emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id, checked=False)
    check(case, inputs, Dtype.FLOAT16, result)
    np.testing.assert_array_equal(result.gates, np.maximum(wanted, 0).ravel())


@pytest.mark.parametrize("grid", [1, 4])
def test_kernels_by_themselves(emulator: Emulator, grid: int) -> None:
    """For timing: each kernel runs alone on what the others left, and again; a split tile's counter is back at 0."""
    case = wide_case("by themselves", n=1, c=100, k=24, hw=(9, 10), grid=grid, residual=True)
    inputs = inputs_of(case, Dtype.FLOAT16)
    pack, gate, main = Kernels
    for config in configs_for(emulator.library, grid, Dtype.FLOAT16):
        run = partial(emulator.run, inputs, case.attributes, Dtype.FLOAT16, BIG, config.id)
        whole = run()
        check(case, inputs, Dtype.FLOAT16, whole)
        for kernels in ((pack, gate, main), (pack | gate, main), (0, main, main), (0, gate, main)):
            parts = run(kernels=kernels, checked=False)
            assert parts.y.tobytes() == whole.y.tobytes(), (config.name, kernels)
        assert "never written" in run(kernels=(pack, gate)).errors


def test_results_do_not_depend_on_the_order_of_blocks(emulator: Emulator) -> None:
    for grid in (1, 4):
        case = wide_case(f"order-{grid}", grid=grid, residual=True)
        inputs = inputs_of(case, Dtype.BFLOAT16)
        for config in configs_for(emulator.library, grid, Dtype.BFLOAT16):
            runs = {
                emulator.run(inputs, case.attributes, Dtype.BFLOAT16, SMALL, config.id, seed=seed).y.tobytes()
                for seed in range(3)
                if config.shared_bytes <= SMALL.shared_per_block
            }
            assert len(runs) == 1 or config.shared_bytes > SMALL.shared_per_block, config.name


@pytest.mark.parametrize("share", [0.0, 0.5, 0.84, 0.86, 1.0])
@pytest.mark.parametrize("grid", [1, 2])
def test_every_share_of_active_cells(emulator: Emulator, grid: int, share: float) -> None:
    """Around the share at which all rows are computed; a NaN that closed cells see stays out either way."""
    case = dataclasses.replace(wide_case(f"share-{grid}"), grid=grid, k=40, residual=True)
    inputs = inputs_of(case, Dtype.FLOAT16)
    gate = inputs["gate"]
    active = np.arange(gate.size).reshape(gate.shape) < round(share * gate.size)
    inputs["gate"] = np.where(active, np.abs(gate) + 0.25, 0).astype(np.float16)
    if share < 1:
        inputs["X"][-1, 3, -1, -1] = np.nan
    for config in configs_for(emulator.library, grid, Dtype.FLOAT16):
        result = emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id)
        check(case, inputs, Dtype.FLOAT16, result)
        assert result.active == active.sum()


def test_float32_in_either_layout(emulator: Emulator) -> None:
    case = dataclasses.replace(wide_case("layouts"), k=13, c=11, residual=True)
    inputs = inputs_of(case, Dtype.FLOAT32)
    for layout in Layout:
        for config in configs_for(emulator.library, 1, Dtype.FLOAT32):
            check(
                case,
                inputs,
                Dtype.FLOAT32,
                emulator.run(inputs, case.attributes, Dtype.FLOAT32, BIG, config.id, layout=layout),
            )


def test_integers_are_exact(emulator: Emulator) -> None:
    """Sums of small integers have no rounding: any difference is a wrong index."""
    rng = np.random.default_rng(7)
    case = wide_case("integers", n=1, hw=(11, 13), gate="external")
    for dtype in (Dtype.FLOAT16, Dtype.BFLOAT16):
        inputs = inputs_of(case, dtype)
        for name, most in (("X", 3), ("W", 2), ("gate", 2)):
            values = rng.integers(0 if name == "gate" else -most, most, inputs[name].shape)
            inputs[name] = values.astype(inputs[name].dtype)
        inputs["B"] = np.round(inputs["B"])
        expected = lccl_conv(inputs, case.attributes).astype(STORAGE[dtype])
        for config in configs_for(emulator.library, 1, dtype):
            result = emulator.run(inputs, case.attributes, dtype, BIG, config.id)
            assert result.errors == ""
            np.testing.assert_array_equal(result.y, expected, err_msg=config.name)


def test_an_empty_batch_launches_nothing(emulator: Emulator) -> None:
    case = Case("empty", "a batch of no images", n=1)
    inputs = {name: value[:0] if name == "X" else value for name, value in inputs_of(case, Dtype.FLOAT16).items()}
    for config in configs_for(emulator.library, 1, Dtype.FLOAT16):
        result = emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id)
        assert result.y.shape[0] == 0
        assert result.errors == ""


def test_padding_of_x_is_never_looked_at(emulator: Emulator) -> None:
    case = dataclasses.replace(wide_case("padding"), c=13, k=5, gate="kxk")
    inputs = inputs_of(case, Dtype.FLOAT16)
    config = mma_configs(emulator.library, Family.PIXEL)[0]
    runs = [
        emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id, padding=padding).y.tobytes()
        for padding in (np.nan, 0.0, 1e4)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_overflow_rounds_to_infinity_as_in_numpy(emulator: Emulator) -> None:
    case = Case("overflow", "sums beyond float16", gate="external")
    inputs = inputs_of(case, Dtype.FLOAT16)
    inputs["X"] = np.full_like(inputs["X"], 6e4)
    expected = lccl_conv(inputs, case.attributes)
    with np.errstate(over="ignore"):
        rounded = expected.astype(np.float16)
    assert np.isinf(rounded).any()
    for config in configs_for(emulator.library, 1, Dtype.FLOAT16):
        result = emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id)
        np.testing.assert_array_equal(np.isinf(result.y), np.isinf(rounded), err_msg=config.name)


@pytest.mark.parametrize(("post_alpha", "k"), [(1.0, 16), (0.0, 16), (1.0, 13)])
def test_a_closed_pixel_that_keeps_its_residual_is_not_written(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, post_alpha: float, k: int
) -> None:
    """In place it costs nothing, unless something is done to the residual or channels are padded with zeros."""
    monkeypatch.setattr(emulator, "must_fill", True)
    case = Case("kept", "residual in place", k=k, gate="external", fill="one-pixel", residual=True, post_alpha=post_alpha)
    for dtype in (Dtype.FLOAT16, Dtype.FLOAT32):
        inputs = inputs_of(case, dtype)
        expected = lccl_conv(inputs, case.attributes)
        for config in configs_for(emulator.library, 1, dtype):
            result = emulator.run(inputs, case.attributes, dtype, BIG, config.id, in_place=True)
            left_alone = post_alpha == 1 and (k % 8 == 0 or dtype == Dtype.FLOAT32) and config.family == Family.PIXEL
            closed = (9 * 11 - 1) * k * np.dtype(STORAGE[dtype]).itemsize
            assert (f"{closed} bytes of Y were never written" in result.errors) == left_alone, config.name
            assert (result.errors == "") == (not left_alone), config.name
            np.testing.assert_allclose(result.y.astype(np.float64), expected, rtol=0, atol=8e-3)


@pytest.mark.parametrize("gate", ["kxk", "external"])
@pytest.mark.parametrize("grid", [1, 4])
def test_simulated_gates(emulator: Emulator, grid: int, gate: str) -> None:
    """For timing: as many cells are open as the density says, whatever the gate says, and each is 1."""
    gate = "grid" if grid > 1 and gate == "kxk" else gate
    case = Case("simulated", "timing", n=2, c=8, k=8, hw=(45, 59), grid=grid, gate=gate, fill="random")
    inputs = inputs_of(case, Dtype.FLOAT16)
    for density, low, high in ((-1.0, 0.4, 0.6), (0.0, 0.0, 0.0), (0.25, 0.15, 0.35), (1.0, 1.0, 1.0)):
        attributes = dataclasses.replace(case.attributes, density=density)
        configs = configs_for(emulator.library, grid, Dtype.FLOAT16)
        for config in (configs[0], configs[-1]):  # all have the same gate kernel
            result = emulator.run(inputs, attributes, Dtype.FLOAT16, BIG, config.id, simulate=True)
            assert result.errors == ""
            assert set(np.unique(result.gates)) <= {0.0, 1.0}
            assert low <= result.gates.mean() <= high, config.name
            open_everywhere = {"gate_W": 0 * inputs["gate_W"], "gate_B": np.ones(1, np.float32)}
            gates = result.gates.reshape(2, 1, -(-45 // grid), -(-59 // grid)).astype(np.float16)
            known = dataclasses.replace(attributes, gate_slope=1.0, gate_max=FLT_MAX, gate_threshold=0.0)
            expected = lccl_conv(inputs | open_everywhere | {"gate": gates}, known)
            atol = TOLERANCE[Dtype.FLOAT16] * float(np.abs(expected).max(initial=1))
            np.testing.assert_allclose(result.y.astype(np.float64), expected, rtol=0, atol=atol)


def test_the_reference_is_not_the_kernel(emulator: Emulator) -> None:
    """A wrong weight is seen: the comparison can fail."""
    case = CASES[0]
    inputs = inputs_of(case, Dtype.FLOAT16)
    config = configs_for(emulator.library, 1, Dtype.FLOAT16)[0]
    result = emulator.run(inputs, case.attributes, Dtype.FLOAT16, BIG, config.id)
    inputs["W"][0, 0, 0, 0] += np.float16(0.5)
    with pytest.raises(AssertionError):
        check(case, inputs, Dtype.FLOAT16, result)
