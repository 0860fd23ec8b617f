"""The GPU's checks checked: on the emulator they pass, and they see what is broken on purpose."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from typing import Any

import pytest
import torch

from bench.gpu import offsets as gpu_offsets
from bench.gpu import parts as gpu_parts
from bench.gpu import sanitized as gpu_sanitized
from bench.gpu.common import reference64
from bench.gpu.forms import Bench, Form, random_form, undecided
from lccl.backends.torch.cuda.calls import prepare
from lccl.backends.torch.cuda.interface import Device, Math
from lccl.backends.torch.cuda.library import Library

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"largest": 8, "channels": (1, 3, 8, 9, 16)}


def soon() -> float:
    return time.monotonic() + 300


class Broken:
    """A library that spoils y after each launch, or calls it another way."""

    def __init__(self, library: Library, spoil: Any) -> None:
        self._library = library
        self._spoil = spoil
        self.launches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def launch(self, params: Any, *rest: Any) -> None:
        self.launches += 1
        self._spoil(self, lambda: self._library.launch(params, *rest), params)


def bench_of(library: Any) -> Bench:
    return Bench(library, library.device(), CPU)


# ---- the checks on the emulator ------------------------------------------------------------------


def test_sweep(emulator_library: Library) -> None:
    outcome = gpu_parts.sweep(bench_of(emulator_library), soon(), 25, large=(), **SMALL)
    assert outcome["status"] == "passed", outcome
    assert set(outcome["calls"]) == {c.name for c in emulator_library.configs_for(emulator_library.device())}


def test_masks(emulator_library: Library) -> None:
    outcome = gpu_parts.masks(bench_of(emulator_library), soon(), 15, **SMALL)
    assert outcome["status"] == "passed", outcome
    assert outcome["cells"] > 100


@pytest.mark.parametrize("poison", [True, False])
def test_what_the_sanitizer_runs(emulator_library: Library, poison: bool) -> None:
    assert gpu_sanitized.sanitized(bench_of(emulator_library), poison) == 0


NEAR_FORMS = tuple(dataclasses.replace(form, c=16, k=24, hw=(40, 24)) for form in gpu_offsets.FORMS)


def test_offsets(emulator_library: Library) -> None:
    """The part's own machinery, on tensors that are small."""
    outcome = gpu_offsets.offsets(bench_of(emulator_library), soon(), NEAR_FORMS)
    assert outcome["status"] == "passed", outcome
    assert outcome["calls"] > 6


def test_the_offsets_part_has_large_tensors() -> None:
    for form in gpu_offsets.FORMS:
        pixels = form.n * form.hw[0] * form.hw[1]
        assert (pixels - gpu_offsets.ROWS * form.hw[1]) * min(form.c, form.k) > 2**31
        assert form.hw[0] % form.grid == form.hw[1] % form.grid == gpu_offsets.ROWS % form.grid == 0


def test_an_empty_batch_is_swept(emulator_library: Library) -> None:
    assert gpu_parts.check_form(bench_of(emulator_library), gpu_parts.EMPTY, gpu_parts.Calls()) == []


def test_a_sweep_that_is_stopped_in_time_says_so(emulator_library: Library) -> None:
    outcome = gpu_parts.sweep(bench_of(emulator_library), time.monotonic(), 25, large=(), **SMALL)
    assert (outcome["status"], outcome["forms"]) == ("partial", 0)


H100, A100 = Device(90, 132, 232448, 233472), Device(80, 108, 166912, 167936)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("device", [H100, A100], ids=["H100", "A100"])
def test_blocks_of_every_tile_go_on_to_a_second_one(emulator_library: Library, device: Device, integers: bool) -> None:
    """Of the first two large forms at the densities that they have.

    One image is counted and stands for all.
    """
    most: dict[str, int] = {}
    configs = [c for c in emulator_library.configs() if c.math == Math.MMA]
    for form in gpu_parts.LOOPING:
        one = dataclasses.replace(form, n=1, k=8, integers=integers, gate_max=2.0)
        reference = reference64(one.inputs(CPU), one.attributes())
        call = prepare(one.inputs(CPU), one.attributes())
        for config in (c for c in configs if emulator_library.supported(call.params, device, c.id)):
            columns = -(-form.k // config.tile_n)
            tiles = form.n * (gpu_parts.tiles_of(config, one, reference) - 1) * columns
            most[config.name] = max(most.get(config.name, 0), tiles)
    resident = {c.name: emulator_library.resident_blocks(device, c.id) for c in configs}
    assert {name for name, blocks in resident.items() if most[name] > blocks} == set(resident)


def test_blocks_that_stop_after_one_tile_are_seen(emulator_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (Form(n=1, c=8, k=8, hw=(8, 8)), Form(n=1, c=8, k=8, hw=(8, 8), gate="external", grid=8))
    monkeypatch.setattr(gpu_parts, "LARGE", small)
    monkeypatch.setattr(gpu_parts, "EVERY", 1)
    outcome = gpu_parts.sweep(bench_of(emulator_library), soon(), 2, large=small)
    assert any("went on to a second tile" in fault for fault in outcome["faults"])
    assert outcome["most_tiles"]["dense-mma-64x64-s4-w2x2"] == {"tiles": 1, "resident_blocks": 396}


def one_element(broken: Broken, launch: Any, params: Any) -> None:
    import ctypes

    launch()
    if params.n > 0:
        ctypes.c_uint16.from_address(params.y).value ^= 0x0100


def differs_now_and_then(broken: Broken, launch: Any, params: Any) -> None:
    launch()
    if broken.launches % 2:
        one_element(broken, lambda: None, params)


def no_launch(broken: Broken, launch: Any, params: Any) -> None:
    """y keeps its poison."""


def no_residual(broken: Broken, launch: Any, params: Any) -> None:
    params.residual, params.has_residual = None, 0
    launch()


def another_threshold(broken: Broken, launch: Any, params: Any) -> None:
    params.gate_threshold += 0.25
    launch()


def another_stride(broken: Broken, launch: Any, params: Any) -> None:
    params.pads[0], params.pads[2] = params.pads[2], params.pads[0]
    params.pads[1], params.pads[3] = params.pads[3], params.pads[1]
    launch()


@pytest.mark.parametrize(
    "spoil", [one_element, differs_now_and_then, no_launch, no_residual, another_threshold, another_stride]
)
def test_a_sweep_sees_what_is_broken(emulator_library: Library, spoil: Any) -> None:
    broken = Broken(emulator_library, spoil)
    outcome = gpu_parts.sweep(bench_of(broken), soon(), 12, large=(), **SMALL)
    assert outcome["status"] == "failed"
    assert outcome["fault_count"] > 0
    if spoil is differs_now_and_then:
        assert any("two calls on the same inputs differ" in fault for fault in outcome["faults"])


def test_masks_see_another_threshold(emulator_library: Library) -> None:
    outcome = gpu_parts.masks(bench_of(Broken(emulator_library, another_threshold)), soon(), 8, **SMALL)
    assert any("gates flipped" in fault for fault in outcome["faults"])


def test_the_sanitized_calls_see_wrong_results(emulator_library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_sanitized.sanitized(bench_of(Broken(emulator_library, one_element)), True) == 3
    assert "outputs are wrong" in capsys.readouterr().out


def last_element(broken: Broken, launch: Any, params: Any) -> None:
    """Of a y whose channels are a multiple of 8, at stride 1."""
    import ctypes

    launch()
    elements = params.n * params.h * params.w * params.k
    ctypes.c_uint16.from_address(params.y + 2 * (elements - 1)).value ^= 0x0100


@pytest.mark.parametrize("spoil", [one_element, last_element, no_launch, no_residual])
def test_the_offsets_part_sees_what_is_broken(emulator_library: Library, spoil: Any) -> None:
    outcome = gpu_offsets.offsets(bench_of(Broken(emulator_library, spoil)), soon(), NEAR_FORMS)
    assert outcome["status"] == "failed"


def breaks_the_context(broken: Broken, launch: Any, params: Any) -> None:
    raise RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize("tool", ["memcheck", "initcheck"])
def test_a_planted_fault_ends_its_process_well(
    emulator_library: Library, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as stop:
        gpu_sanitized.planted_fault(bench_of(Broken(emulator_library, breaks_the_context)), tool)
    assert stop.value.code == 0
    assert "unspecified launch failure" in capsys.readouterr().out


def test_a_wrong_reference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_parts.check_reference(CPU) == []
    right = gpu_parts.reference64
    monkeypatch.setattr(
        gpu_parts, "reference64", lambda inputs, a: dataclasses.replace(right(inputs, a), y=right(inputs, a).y + 1e-6)
    )
    assert len(gpu_parts.check_reference(CPU)) > 30


def test_no_configuration_is_a_fault(emulator_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "configs", lambda self, call: [])
    outcome = gpu_parts.sweep(bench_of(emulator_library), soon(), 2, large=(), **SMALL)
    assert "no configuration runs" in outcome["faults"][0]
    assert "no form ran on" in outcome["faults"][-1]


# ---- forms ---------------------------------------------------------------------------------------


def test_random_forms_cover_the_contract() -> None:
    rng = random.Random(3)
    forms = [random_form(rng) for _ in range(600)]
    for field, values in {
        "gate": {"1x1", "kxk", "grid", "external", "both"},
        "post": {"none", "one", "each"},
        "residual": {"none", "own", "in place"},
        "fill": {"random", "all off", "all on", "one cell", "nan"},
        "grid": {1, 2, 3, 4, 7, 8, 16},
        "dtype": {torch.float16, torch.bfloat16, torch.float32},
        "integers": {True, False},
    }.items():
        assert {getattr(form, field) for form in forms} == values, field
    assert {form.layout for form in forms if form.dtype == torch.float32} == {0, 1}
    assert any(len(set(form.pads)) > 2 for form in forms)
    assert any(form.c % 8 and form.k % 8 for form in forms)
    assert all(form.attributes() for form in forms)


FIXED = gpu_parts.LARGE + gpu_parts.GRAPH_FORMS + gpu_parts.STREAM_FORMS + gpu_sanitized.SANITIZED_FORMS


@pytest.mark.parametrize("form", FIXED)
def test_the_fixed_forms_are_calls(emulator_library: Library, form: Form) -> None:
    """Without running them: some configuration takes each."""
    small = dataclasses.replace(form, n=1)
    call = prepare(small.inputs(CPU), small.attributes(), layout=small.layout)
    assert bench_of(emulator_library).configs(call)


def test_the_graphs_inputs_are_read_where_they_are() -> None:
    """A replay reads what was captured: a copy made on the way would not be made again."""
    for form in gpu_parts.GRAPH_FORMS:
        inputs = gpu_parts._static(form, form.inputs(CPU))
        call = prepare(inputs, form.attributes(), layout=form.layout)
        assert all(t.data_ptr() == inputs[name].data_ptr() for name, t in call.inputs.items())


def test_fills() -> None:
    for gate in ("1x1", "external", "both"):
        for integers in (True, False):
            shares = {}
            for fill in ("all off", "random", "all on"):
                form = Form(n=1, c=8, k=8, gate=gate, fill=fill, integers=integers, gate_max=2.0)
                cells = reference64(form.inputs(CPU), form.attributes()).cells
                shares[fill] = float((cells > 0).double().mean())
            assert shares["all off"] == 0
            assert 0 < shares["random"] < 1
            assert shares["all on"] == 1


def test_only_gates_at_the_threshold_are_undecided() -> None:
    form = Form(n=1, c=3, k=2, gate="external", gate_threshold=0.5, dtype=torch.float32)
    inputs = form.inputs(CPU)
    inputs["gate"].fill_(0.75)
    inputs["gate"][0, 0, 0, :4] = torch.tensor([0.5, 0.500001, 0.51, 0.0])
    found = undecided(reference64(inputs, form.attributes()), form.attributes())
    assert found.nonzero()[:, 3].tolist() == [0, 1]
