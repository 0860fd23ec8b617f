"""The benchmark's sums, its inputs, its report, and the ratios that it is held to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.gpu import contest as gpu_contest
from bench.gpu import layers as gpu_layers
from bench.gpu import report as gpu_report
from bench.gpu import targets as gpu_targets
from bench.gpu.common import buffers_needed, layer_inputs, mask, peak_of, reference64, spread, summary
from bench.gpu.contest import Refusal, Row
from bench.gpu.settings import (
    DENSITIES,
    FORMS,
    MASKS,
    QUICK_DENSITIES,
    QUICK_MASKS,
    Layer,
    Setting,
    layers_of,
    settings_of,
)
from lccl.backends.torch.cuda.kernel_op import run
from lccl.backends.torch.cuda.library import Library
from lccl.op.reference import lccl_gate


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
@pytest.mark.parametrize("layer", [Layer(16, 14, 2), Layer(16, 15, 2, 24, 2)], ids=lambda layer: layer.name)
def test_the_benchmarks_inputs_make_the_mask(emulator_library: Library, layer: Layer, grid: int, external: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    cells = -(-layer.out_size // grid)
    active = mask(layer.batch, (cells, cells), 0.4, "iid", generator)
    attributes = Setting(layer, grid, "iid", external, 0.4).attributes()
    inputs = layer_inputs(layer, grid, active, external=external, dtype=torch.float16, generator=generator)
    gates = lccl_gate({name: t.float().numpy() for name, t in inputs.items()}, attributes)
    np.testing.assert_array_equal(gates > 0, spread(active, grid, (layer.out_size, layer.out_size)).numpy())
    assert inputs["X"].is_contiguous(memory_format=torch.channels_last)
    y = run(emulator_library, emulator_library.device(), inputs, attributes)
    want = reference64(inputs, attributes).y
    assert y.shape == (layer.batch, layer.out_channels, layer.out_size, layer.out_size)
    assert float((y.double() - want).abs().max()) <= 2e-3 * float(want.abs().max())
    dense = gpu_contest.Dense([inputs], attributes)
    dense.fused = dense.in_two  # type: ignore[method-assign]  # cuDNN's own call needs a GPU
    assert float((dense.gated(0).double() - want).abs().max()) <= 1e-2 * float(want.abs().max())


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
    assert gpu_targets.break_even(points) == pytest.approx(expected)


def row(density: float, ours: float, *, chosen: bool = True, config: str = "pixel", **others: Any) -> Row:
    times = [summary([us], 20) for us in (ours, 10.0, 12.0)]
    sizes: dict[str, Any] = {"layer": "64@56 b8", "channels": 64, "size": 56, "batch": 8, "outputs": 64, "stride": 1}
    kind: dict[str, Any] = {"grid": 1, "mask": "iid", "form": "fused", "density": density, "config": config, "chosen": chosen}
    measured: dict[str, Any] = dict(zip(("times", "dense", "gated_dense"), times, strict=True))
    return Row(**sizes | kind | {"predicted_us": 5.0, "peak_percent": 40.0} | measured | others)


def test_the_benchmarks_report(tmp_path: Path) -> None:
    rows = [row(0.25, 5.0), row(0.25, 4.0, chosen=False, config="other"), row(1.0, 20.0)]
    wrong = Refusal("a layer", "third", "wrong: off by 1 of the largest output", failed=True)
    measured: Any = SimpleNamespace(rows=rows, refusals=[wrong], complete=False)
    text = gpu_report.markdown({"gpu": "a GPU", "compute_capability": "8.0"}, measured)
    assert "Not complete" in text
    assert "| 64@56 b8 | 1 | iid | fused | 0.25 | pixel (chosen) | 5.00 (5.00, 5.00 to 5.00) | 5.00 | 10.00 | 2.00 |" in text
    assert "other (best)" in text
    assert "pixel (chosen, best)" in text
    assert "third in a layer: wrong" in text
    assert "at least" not in text, "targets are for another GPU"
    said = gpu_report.report({"compute_capability": "8.0"}, measured)
    (even,) = said["break_even"]
    assert even["chosen"] == pytest.approx(0.25 + 0.75 * 1 / 1.5)
    assert even["best"] == pytest.approx(0.25 + 0.75 * 1.5 / 2)
    assert said["rows"][0]["ratio"] == 2.0
    why = gpu_report.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists() or why == "no picture: matplotlib is not installed"


def test_settings_of_the_benchmark() -> None:
    layers = layers_of(None, False)
    assert len(layers) == 58
    settings = settings_of(layers, DENSITIES, MASKS, FORMS)
    assert {s.layer.out_size for s in settings if s.grid == 8} == {56, 28, 14, 160, 320, 512}
    halving = {(s.channels, s.out_channels, s.size) for s in layers if s.stride == 2}
    assert halving == {(64, 128, 56), (128, 256, 28), (256, 512, 14), (128, 128, 56), (256, 256, 28), (512, 512, 14)}
    assert Setting(Layer(64, 56, 8), 16, "iid", True, 0.35) in settings
    assert layers_of(["64@56x8", "64-128@56s2x8"], False) == [Layer(64, 56, 8), Layer(64, 56, 8, 128, 2)]
    assert [Layer(64, 56, 8).name, Layer(64, 56, 8, 128, 2).name] == ["64@56 b8", "64-128@56s2 b8"]
    assert Layer(64, 56, 8, 128, 2).flops == 2 * 8 * 28**2 * 64 * 128 * 9
    from lccl.errors import UserError

    with pytest.raises(UserError, match="a layer is written like 64@56x8"):
        layers_of(["64x56"], False)


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("another GPU", None),
    ],
)
def test_peaks(gpu: str, peak: float | None) -> None:
    assert peak_of(gpu) == peak
    facts = gpu_layers.with_peak({"gpu": gpu}, None)
    assert (facts["peak_tflops"], "--peak" in facts["peak_is"]) == (peak, peak is None)
    assert gpu_layers.with_peak({"gpu": gpu}, 500.0)["peak_tflops"] == 500


def test_the_benchmark_goes_breadth_first() -> None:
    layers = layers_of(None, True)
    settings = settings_of(layers, QUICK_DENSITIES, QUICK_MASKS, FORMS)
    assert [s.layer for s in settings[: len(layers)]] == layers, "every layer comes before any comes again"
    assert list(dict.fromkeys(s.density for s in settings)) == [0.25, 0.35, 0.5, 0.65]
    assert [s.density for s in settings] == sorted(s.density for s in settings)


# ---- targets -------------------------------------------------------------------------------------


def settings_at(ratios: dict[float, float], **others: Any) -> list[Row]:
    """The chosen rows of a setting: density -> dense time over ours."""
    return [row(density, 10 / ratio, **others) for density, ratio in ratios.items()]


GRID8: dict[str, Any] = {"grid": 8, "batch": 32}
FAST = {0.25: 2.9, 0.5: 1.7, 0.65: 1.3, 0.8: 1.1, 1.0: 0.98}


def results_of(rows: list[Row]) -> dict[str, str]:
    return {o.target: o.result for o in gpu_targets.outcomes(rows, "9.0")}


def test_targets_are_held_or_not() -> None:
    held = results_of(settings_at(FAST, **GRID8))
    assert [held[f"G = 8, {name}"] for name in ("density 0.25", "density 0.5", "density 0.65", "break-even density")] == [
        "passed"
    ] * 4
    assert held["pixels, density 0.5"] == "not measured"
    assert held["everywhere"] == "passed"
    short = results_of(settings_at(FAST, **GRID8) + settings_at({0.25: 2.7, 1.0: 0.9}, **GRID8, layer="another"))
    assert short["G = 8, density 0.25"] == short["everywhere"] == "failed"
    assert short["G = 8, density 0.5"] == "passed"


@pytest.mark.parametrize(
    ("channels", "ratio", "results"),
    [
        (64, 1.8, ["not measured", "passed"]),
        (64, 1.6, ["not measured", "failed"]),
        (128, 1.9, ["failed", "not measured"]),
        (256, 2.1, ["passed", "not measured"]),
    ],
)
def test_the_target_of_pixel_gates_goes_by_channels(channels: int, ratio: float, results: list[str]) -> None:
    found = results_of(settings_at({0.25: ratio}, channels=channels, batch=32))
    assert [found[f"pixels, C {c}, density 0.25"] for c in (">= 128", "= 64")] == results


def test_only_large_layers_and_chosen_rows_count() -> None:
    for others in ({"batch": 8, "size": 56}, {"batch": 32, "chosen": False}):
        assert results_of(settings_at({0.25: 1.0}, grid=8, **others))["G = 8, density 0.25"] == "not measured"
    assert results_of(settings_at({0.25: 1.0}, grid=8, batch=1, size=160))["G = 8, density 0.25"] == "failed"
    assert gpu_targets.outcomes(settings_at(FAST, **GRID8), "8.0") == []


@pytest.mark.parametrize(
    ("ratios", "result"),
    [
        (FAST, "passed"),
        ({0.5: 1.5, 0.8: 1.2}, "not measured"),
        ({0.5: 1.5, 0.8: 0.9}, "failed"),
        ({0.5: 0.9, 0.8: 0.8}, "failed"),
        ({1.0: 0.9}, "not measured"),
        ({1.0: 1.1}, "passed"),
    ],
)
def test_break_even_targets_need_densities_that_say_it(ratios: dict[float, float], result: str) -> None:
    assert results_of(settings_at(ratios, **GRID8))["G = 8, break-even density"] == result


def test_targets_are_reported() -> None:
    measured: Any = SimpleNamespace(rows=settings_at(FAST, **GRID8), refusals=[], complete=True)
    facts = {"gpu": "NVIDIA H200", "compute_capability": "9.0"}
    text = gpu_report.markdown(facts, measured)
    assert "| G = 8, density 0.25 | 2.8 | 2.90 | 1 | 64@56 b8 G=8 iid fused 0.25 | passed |" in text
    assert "| pixels, density 0.5 | 1.3 | - | 0 |  | not measured |" in text
    said = gpu_report.report(facts, measured)
    assert said["targets"][0]["result"] == "passed"


# ---- what survives -------------------------------------------------------------------------------


class Failing(gpu_contest.Contest):
    """One row for each setting, but an error in the second."""

    def __post_init__(self) -> None:
        self.rows: list[Row] = []
        self.refusals: list[Refusal] = []
        self.complete = False

    def _measure(self, setting: Setting) -> None:
        if setting.density == 0.5:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more lines")
        self.rows.append(row(setting.density, 5.0))


def test_an_error_ends_one_setting_and_files_are_kept_after_each(tmp_path: Path) -> None:
    out, table = tmp_path / "out.json", tmp_path / "out.md"
    options = gpu_layers.parser().parse_args(["--json", str(out), "--markdown", str(table)])
    facts = {"gpu": "a GPU", "compute_capability": "8.0"}
    files = gpu_report.Files(options, facts)
    files.SHARE = 0
    library: Any = None
    contest = Failing(library, place=torch.device("cpu"))
    kept: list[tuple[int, bool]] = []

    def keep() -> None:
        files.keep(contest)
        said = json.loads(out.read_text())
        kept.append((len(said["rows"]), said["complete"]))

    contest.run([Setting(Layer(64, 56, 8), 1, "iid", True, d) for d in (0.25, 0.5, 0.8)], lambda line: None, keep)
    assert kept == [(1, False), (1, False), (2, True)]
    assert (
        "* all in 64@56 b8 G=1 iid external 0.5: error: CUDA error: an illegal memory access was encountered"
        in table.read_text()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.md"]


def test_a_benchmark_without_time_is_not_complete() -> None:
    library: Any = None
    contest = Failing(library, place=torch.device("cpu"), deadline=time.monotonic() - 1)
    contest.run([Setting(Layer(64, 56, 8), 1, "iid", True, 0.25)], lambda line: None, lambda: None)
    assert (contest.rows, contest.complete) == ([], False)
