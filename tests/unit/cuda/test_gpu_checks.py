"""The GPU's checks checked: on the emulator they pass, and they see what is broken on purpose. Also the benchmark's sums."""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT

sys.path[:0] = [str(ROOT / folder) for folder in ("bench", "scripts")]

import gpu_check  # noqa: E402
import gpu_layers  # noqa: E402
import gpu_parts  # noqa: E402
from gpu_common import Layer, buffers_needed, layer_attributes_of, layer_inputs, mask, reference64, spread, summary  # noqa: E402
from gpu_contest import Refusal, Row, Setting  # noqa: E402
from gpu_forms import Bench, Form, random_form, undecided  # noqa: E402

from lccl.cuda.library import Library  # noqa: E402
from lccl.cuda.torch_backend import prepare, run  # noqa: E402
from lccl.op.reference import lccl_gate  # noqa: E402

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


# ---- the checks on the emulator -----------------------------------------------------------------------------------------


def test_sweep(emulator_library: Library) -> None:
    outcome = gpu_parts.sweep(bench_of(emulator_library), soon(), 25, large=(), **SMALL)
    assert outcome["status"] == "passed", outcome
    assert set(outcome["calls"]) == {c.name for c in emulator_library.configs() if c.built}


def test_masks(emulator_library: Library) -> None:
    outcome = gpu_parts.masks(bench_of(emulator_library), soon(), 15, **SMALL)
    assert outcome["status"] == "passed", outcome
    assert outcome["cells"] > 100


@pytest.mark.parametrize("poison", [True, False])
def test_what_the_sanitizer_runs(emulator_library: Library, poison: bool) -> None:
    assert gpu_parts.sanitized(bench_of(emulator_library), poison) == 0


def test_a_sweep_that_is_stopped_in_time_says_so(emulator_library: Library) -> None:
    outcome = gpu_parts.sweep(bench_of(emulator_library), time.monotonic(), 25, large=(), **SMALL)
    assert (outcome["status"], outcome["forms"]) == ("partial", 0)


def one_element(broken: Broken, launch: Any, params: Any) -> None:
    import ctypes

    launch()
    ctypes.c_uint16.from_address(params.y).value ^= 0x0100


def differs_now_and_then(broken: Broken, launch: Any, params: Any) -> None:
    launch()
    if broken.launches % 2:
        one_element(broken, lambda: None, params)


def no_launch(broken: Broken, launch: Any, params: Any) -> None:
    """y keeps its poison."""


def no_residual(broken: Broken, launch: Any, params: Any) -> None:
    params.residual = None
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
    assert gpu_parts.sanitized(bench_of(Broken(emulator_library, one_element)), True) == 3
    assert "outputs are wrong" in capsys.readouterr().out


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


# ---- forms --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("form", gpu_parts.LARGE + gpu_parts.GRAPH_FORMS + gpu_parts.STREAM_FORMS + gpu_parts.SANITIZED_FORMS)
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


# ---- the benchmark ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iid", "clustered"])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.35, 1.0])
def test_masks_have_their_density(kind: str, density: float) -> None:
    active = mask(4, (28, 30), density, kind, torch.Generator().manual_seed(0))
    assert active.shape == (4, 1, 28, 30)
    assert int(active.sum()) == round(density * active.numel())


def test_clusters_are_clusters() -> None:
    def neighbours(kind: str) -> float:
        active = mask(8, (64, 64), 0.3, kind, torch.Generator().manual_seed(0)).float()
        return float((active[..., 1:] * active[..., :-1]).sum() / active.sum())

    assert neighbours("iid") < 0.4
    assert neighbours("clustered") > 0.7


@pytest.mark.parametrize("external", [True, False], ids=["external", "fused"])
@pytest.mark.parametrize("grid", [1, 4, 8])
def test_the_benchmarks_inputs_make_the_mask(emulator_library: Library, grid: int, external: bool) -> None:
    layer = Layer(16, 14, 2)
    generator = torch.Generator().manual_seed(1)
    cells = -(-layer.size // grid)
    active = mask(layer.batch, (cells, cells), 0.4, "iid", generator)
    attributes = layer_attributes_of(grid, external=external, density=0.4)
    inputs = layer_inputs(layer, grid, active, external=external, dtype=torch.float16, generator=generator)
    gates = lccl_gate({name: t.float().numpy() for name, t in inputs.items()}, attributes)
    np.testing.assert_array_equal(gates > 0, spread(active, grid, (layer.size, layer.size)).numpy())
    assert inputs["X"].is_contiguous(memory_format=torch.channels_last)
    y = run(emulator_library, emulator_library.device(), inputs, attributes)
    want = reference64(inputs, attributes).y
    assert float((y.double() - want).abs().max()) <= 2e-3 * float(want.abs().max())


def test_buffers_are_larger_than_the_cache() -> None:
    assert buffers_needed(10_000_000, 50_000_000) == 10
    assert buffers_needed(10**9, 50_000_000) == 2
    assert buffers_needed(1, 50_000_000) == 200


def test_summary_of_times() -> None:
    times = summary([float(v) for v in range(20, 0, -1)], 25)
    assert (times.min, times.median, times.p10, times.p90, times.replays, times.instances) == (1, 10.5, 3, 18, 20, 25)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.1, 2.0), (0.5, 1.5), (1.0, 0.5)], 0.75),
        ([(0.1, 0.9), (1.0, 0.5)], None),
        ([(0.1, 2.0), (1.0, 1.1)], 1.0),
        ([(0.5, 1.2), (0.1, 3.0), (1.0, 0.8)], 0.75),
        ([(0.5, 1.2)], 0.5),
        ([(0.5, 0.2)], None),
    ],
)
def test_break_even(points: list[tuple[float, float]], expected: float | None) -> None:
    assert gpu_layers.break_even(points) == pytest.approx(expected)


def row(density: float, ours: float, *, chosen: bool = True, config: str = "pixel") -> Row:
    times = [summary([us], 20) for us in (ours, 10.0, 12.0)]
    return Row("64@56 b8", 64, 56, 8, 1, "iid", "fused", density, config, chosen, 5.0, *times, peak_percent=40.0)


def test_the_benchmarks_report(tmp_path: Path) -> None:
    rows = [row(0.25, 5.0), row(0.25, 4.0, chosen=False, config="other"), row(1.0, 20.0)]
    wrong = Refusal({}, "third", "wrong: off by 1 of the largest output")
    measured: Any = SimpleNamespace(rows=rows, refusals=[wrong], complete=False)
    text = gpu_layers.markdown({"gpu": "a GPU"}, measured)
    assert "Not complete" in text
    assert "| 64@56 b8 | 1 | iid | fused | 0.25 | pixel (chosen) | 5.00 (5.00, 5.00 to 5.00) | 5.00 | 10.00 | 2.00 |" in text
    assert "other (best)" in text
    assert "pixel (chosen, best)" in text
    assert "third in {}: wrong" in text
    said = gpu_layers.report({}, measured)
    (even,) = said["break_even"]
    assert even["chosen"] == pytest.approx(0.25 + 0.75 * 1 / 1.5)
    assert even["best"] == pytest.approx(0.25 + 0.75 * 1.5 / 2)
    assert said["rows"][0]["ratio"] == 2.0
    why = gpu_layers.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists() or why == "no picture: matplotlib is not installed"


def test_settings_of_the_benchmark() -> None:
    layers = gpu_layers.layers_of(None, False)
    assert len(layers) == 34
    settings = gpu_layers.settings_of(layers, gpu_layers.DENSITIES, gpu_layers.MASKS, ("external", "fused"))
    assert {s.layer.size for s in settings if s.grid == 8} == {56, 28, 14, 160, 320, 512}
    assert Setting(Layer(64, 56, 8), 16, "iid", True, 0.35) in settings
    assert gpu_layers.layers_of(["64@56x8"], False) == [Layer(64, 56, 8)]
    from lccl.errors import UserError

    with pytest.raises(UserError, match="a layer is written like 64@56x8"):
        gpu_layers.layers_of(["64x56"], False)


# ---- the command's own machinery ----------------------------------------------------------------------------------------


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import subprocess, sys; subprocess.Popen(['sh', '-c', 'sleep 3; touch {mark}']); print('begun', flush=True); input()"
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", f"import time\n{code.replace('input()', 'time.sleep(60)')}"]
    began = time.monotonic()
    done = gpu_check.finish(gpu_check.start(command, log), log, began + 1.5)
    assert done.code is None
    assert "begun" in done.output
    assert time.monotonic() - began < 10
    time.sleep(2.5)
    assert not mark.exists()


class Scripted(gpu_check.Check):
    """Parts that end as they are told."""

    def __init__(self, out: Path, outcomes: dict[str, dict[str, Any]]) -> None:
        super().__init__(gpu_check.parser().parse_args(["--out", str(out)]), out)
        self.outcomes = outcomes
        self.given: dict[str, float] = {}

    def run(self, part: str, until: float) -> dict[str, Any]:
        self.given[part] = until - time.monotonic()
        return dict(self.outcomes[part])


def test_parts_share_the_time_and_the_report_is_written_after_each(tmp_path: Path) -> None:
    passed = gpu_check.outcome("passed", "fine")
    failed = gpu_check.outcome("failed", "not fine", ["a fault"])
    check = Scripted(tmp_path, {"sweep": passed, "masks": failed})
    report: dict[str, Any] = {"facts": {"gpu": "a GPU"}, "complete": False, "parts": {}}
    gpu_check.run_parts(check, ["sweep", "masks"], report, time.monotonic() + 100)
    assert check.given["sweep"] == pytest.approx(80, abs=1)
    assert check.given["masks"] == pytest.approx(100, abs=1)
    assert not report["complete"]
    text = (tmp_path / "gpu_check.md").read_text()
    assert "| sweep | passed | 0 | fine |" in text
    assert "## masks: 1 faults" in text
    assert "Not complete" in text
    gpu_check.run_parts(check, ["sweep"], {**report, "parts": {}}, time.monotonic() + 100)
    assert "Not complete" not in (tmp_path / "gpu_check.md").read_text()


def test_a_part_without_time_is_not_begun(tmp_path: Path) -> None:
    check = Scripted(tmp_path, {})
    report: dict[str, Any] = {"facts": {}, "complete": True, "parts": {}}
    gpu_check.run_parts(check, ["sweep"], report, time.monotonic() + 1)
    assert report["parts"]["sweep"]["status"] == "partial"
    assert not report["complete"]


def test_parts_by_name() -> None:
    assert gpu_check.parts_of("masks, sweep") == ["sweep", "masks"]
    assert gpu_check.parts_of("sweep,other") == []


def test_without_a_library_nothing_is_checked(tmp_path: Path) -> None:
    options = gpu_check.parser().parse_args(["--library", str(tmp_path / "none.so")])
    assert gpu_check.Check(options, tmp_path).run("sweep", soon())["status"] == "partial"
    assert gpu_check.Check(options, tmp_path).run("build", soon())["status"] == "skipped"


def test_a_part_whose_process_fails_is_a_failure(emulator_library: Library, tmp_path: Path) -> None:
    """Here by itself: without a GPU the part's process ends with an error."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, so the process would not fail")
    options = gpu_check.parser().parse_args(["--library", str(emulator_library.path)])
    outcome = gpu_check.Check(options, tmp_path).run("sweep", soon())
    assert outcome["status"] == "failed"
    assert "exit code 1" in outcome["words"]
    assert outcome["faults"]
