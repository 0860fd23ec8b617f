"""The fit of the time model.

Known constants give rows, and the rows give back what those constants predict.
"""

from __future__ import annotations

import json
from ctypes import Structure
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import fit as gpu_fit
from bench.gpu import targets as gpu_targets
from bench.gpu.settings import FORMS, QUICK_DENSITIES, QUICK_MASKS, Layer, Setting, layers_of, settings_of
from lccl.backends.torch.cuda.interface import Rates
from lccl.backends.torch.cuda.library import Library
from lccl.backends.torch.cuda.planning import parse_device

H200 = parse_device("9.0x132")
FACTS = {"compute_capability": "9.0", "multiprocessors": 132, "shared_per_block": 232448, "shared_per_multiprocessor": 233472}
NOISE = 0.02


def changed(library: Library, factors: dict[str, float]) -> Rates:
    """The device's own constants times factors."""
    own = library.rates(H200)
    values = {name: getattr(own, name) * factors.get(name, 1.0) for name, _ in Rates._fields_}
    return Rates(**values)


def rows_of(library: Library, rates: Rates, layers: list[Layer], seed: int) -> list[dict[str, Any]]:
    """The benchmark's records where the GPU is as these constants say, give or take some noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for s in settings_of(layers, QUICK_DENSITIES, QUICK_MASKS, FORMS):
        params = s.params()
        for config in library.configs():
            us = library.predict(params, H200, config.id, rates)
            if us is None:
                continue
            sizes = {"layer": s.layer.name, "channels": s.layer.channels, "size": s.layer.size, "batch": s.layer.batch}
            kind = {"outputs": s.layer.out_channels, "stride": s.layer.stride, "grid": s.grid, "mask": s.mask, "form": s.form}
            times = {"median": us * float(np.exp(rng.normal(0, NOISE)))}
            rows.append({"kind": "row", "density": s.density, "config": config.name, "times": times, **sizes, **kind})
    return rows


FACTORS = (
    {"tensor_flops": 0.6, "cache_bytes": 1.4, "first_launch": 1.7, "fill_bytes": 0.5},
    {"tensor_flops": 1.3, "dram_bytes": 0.6, "gate_bytes": 0.4, "main_latency": 8.0, "next_launch": 3.0},
)


@pytest.mark.parametrize("factors", FACTORS)
def test_predictions_are_recovered(emulator_library: Library, factors: dict[str, float]) -> None:
    """Those of rows that the fit has not seen, too."""
    rates = changed(emulator_library, factors)
    seen = gpu_fit.samples_of(rows_of(emulator_library, rates, layers_of(None, True), 0), emulator_library)
    other_layers = [Layer(64, 28, 16), Layer(256, 28, 8), Layer(128, 56, 8, 256, 2)]
    others = gpu_fit.samples_of(rows_of(emulator_library, rates, other_layers, 1), emulator_library)
    model, unseen = (gpu_fit.Model(emulator_library, H200, samples) for samples in (seen, others))
    start, end = model.start(), gpu_fit.fit(model)

    def off(of: gpu_fit.Model, logs: Any) -> float:
        return float(np.median(np.abs(of.errors(logs))))

    assert off(model, start) > 5 * NOISE
    assert off(model, end) < 1.2 * NOISE
    assert off(unseen, end) < 2 * NOISE
    assert off(unseen, end) < off(unseen, start) / 3


def test_constants_of_which_no_row_speaks_stay(emulator_library: Library) -> None:
    rates = changed(emulator_library, {"tensor_flops": 0.5})
    rows = [row for row in rows_of(emulator_library, rates, layers_of(None, True), 0) if row["form"] == "external"]
    model = gpu_fit.Model(emulator_library, H200, gpu_fit.samples_of(rows, emulator_library))
    start, end = model.start(), gpu_fit.fit(model)
    still = {name for name, old, new in zip(model.names, start, end, strict=True) if old == new}
    assert {"core_flops", "gate_bytes"} <= still, "no gate is computed here, and nothing runs on CUDA cores"
    code = gpu_fit.code_of(model, start, end)
    assert len(code) == len(Rates._fields_)
    assert next(line for line in code if "rates.gate_bytes" in line).endswith("// as it was: no row speaks against it")


def test_what_a_ceiling_measured_is_not_fitted(emulator_library: Library) -> None:
    rates = changed(emulator_library, FACTORS[1])
    rows = rows_of(emulator_library, rates, layers_of(None, True)[:3], 0)
    copy = {"kind": "ceiling", "name": "copy", "value": rates.dram_bytes / 1e9, "unit": "GB/s"}
    measured = gpu_fit.measured_of([copy, {"kind": "ceiling", "name": "cuBLAS float16", "value": 700.0, "unit": "TFLOP/s"}])
    assert measured == {"dram_bytes": pytest.approx(rates.dram_bytes)}
    assert gpu_fit.measured_of([{**copy, "value": None}]) == gpu_fit.measured_of([{**copy, "unit": "MB/s"}]) == {}
    model = gpu_fit.Model(emulator_library, H200, gpu_fit.samples_of(rows, emulator_library), measured)
    end = gpu_fit.fit(model)
    assert model.rates(end).dram_bytes == pytest.approx(rates.dram_bytes)
    assert float(np.median(np.abs(model.errors(model.own())))) > 5 * NOISE
    line = next(line for line in gpu_fit.code_of(model, model.own(), end) if "rates.dram_bytes" in line)
    assert line.endswith("// measured as a ceiling; was 4.3e+12")


def test_kernels_by_themselves_are_samples(emulator_library: Library) -> None:
    """Their times together are the call's, but for the launches between.

    Each is one the model predicts.
    """
    setting = Setting(Layer(60, 56, 32), 1, "iid", False, 0.35)
    own = emulator_library.rates(H200)
    config = emulator_library.config(emulator_library.choose(setting.params(), H200))
    us = {"all": 30.0, "closed": 20.0, "pack": 3.0, "gate": 8.0, "main": 18.0}
    record = {"kind": "ceiling", "name": "kernels", "config": config.name, "us": us, "call": setting.as_dict()}
    samples = gpu_fit.samples_of([record, {"kind": "ceiling", "name": "copy", "value": 1.0}], emulator_library)
    assert [(s.family, s.us) for s in samples] == [("pack alone", 3.0), ("gate alone", 8.0), ("main alone", 18.0)]
    times = [emulator_library.predict(s.params, H200, s.config) or 0.0 for s in samples]
    whole = emulator_library.predict(setting.params(), H200, config.id)
    assert sum(times) - 2e6 * own.first_launch + 2e6 * own.next_launch == pytest.approx(whole)
    assert times[0] == pytest.approx(1e6 * own.first_launch)


def test_rows_of_another_library_are_left_out(emulator_library: Library) -> None:
    """Runs follow each other in a file, and kernels are mended between them."""
    row = {"kind": "row", "config": "c"}

    def run_of(sha256: str, rows: int) -> list[dict[str, Any]]:
        return [{"kind": "run"}, {"kind": "library", "sha256": sha256}, *[row] * rows]

    records = [*run_of("old", 3), *run_of("new", 2), {"kind": "run"}, row, *run_of("old", 1), *run_of("new", 4)]
    kept, dropped = gpu_fit.of_last_library(records)
    assert (sum(r["kind"] == "row" for r in kept), dropped) == (6, 5)
    assert gpu_fit.of_last_library([row, row]) == ([row, row], 0)


def test_a_sample_is_the_row_again(emulator_library: Library) -> None:
    own = emulator_library.rates(H200)
    layers = [Layer(64, 56, 32), Layer(64, 56, 8, 128, 2), Layer(128, 28, 8, 0, 2)]
    rows = rows_of(emulator_library, own, layers, 0)
    samples = gpu_fit.samples_of(rows, emulator_library)
    assert len(samples) == len(rows)
    errors = gpu_fit.Model(emulator_library, H200, samples).errors(gpu_fit.Model(emulator_library, H200, []).start())
    assert float(np.abs(errors).max()) < 6 * NOISE


def test_the_command(emulator_library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = changed(emulator_library, FACTORS[0])
    path = tmp_path / "results.jsonl"
    records = [{"kind": "facts", "facts": FACTS}, *rows_of(emulator_library, rates, layers_of(None, True)[:2], 0)]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    library = ["--library", str(emulator_library.path)]
    assert gpu_fit.main([str(path), *library]) == 0
    out = capsys.readouterr().out
    for family in ("dense", "block", "pixel", "all"):
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [family])
        before, after = (float(text.removesuffix("x")) for text in line.split()[-2:])
        assert 1 < after < 1.03 < before
    assert "Compute capability 9.0 with 132 multiprocessors" in out
    assert "    if (device.compute_capability == 90)\n    {\n        rates.tensor_flops = " in out
    for name, _ in Rates._fields_:
        assert f"rates.{name} = " in out
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records[:5]))
    assert gpu_fit.main([str(path), *library]) == 1
    assert "4 rows are too few" in capsys.readouterr().err
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records[1:]))
    assert gpu_fit.main([str(path), *library]) == 1
    assert "say which one it was by --device" in capsys.readouterr().err
    for text, words in (
        ("", "is no results file"),
        ('{"kind": "run"}\n{"kind": "row"}\n', "a row is not as bench/gpu/check.py writes"),
    ):
        path.write_text(text)
        assert gpu_fit.main([str(path), *library, "--device", "9.0x132"]) == 1
        assert words in capsys.readouterr().err


# ---- targets that are predicted ------------------------------------------------------------------


class Fast:
    """A library whose predictions are divided by a number."""

    def __init__(self, library: Library, factor: float) -> None:
        self._library = library
        self._factor = factor

    def choose(self, *call: Structure) -> int:
        return self._library.choose(*call)  # type: ignore[arg-type]

    def predict(self, *call: Any) -> float | None:
        us = self._library.predict(*call)
        return None if us is None else us / self._factor


def test_what_waits_for_other_kernels(emulator_library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_targets.main(["--library", str(emulator_library.path), "--layers"]) == 0
    out = capsys.readouterr().out
    assert "Predicted for 9.0x132, not measured" in out
    assert "assumed" in out
    lines = [line for line in out.splitlines() if line.startswith(("| G = 8", "| pixels", "| everywhere"))]
    assert len(lines) == len(gpu_targets.TARGETS)
    layers = [line.split(" | ") for line in out.splitlines() if " | pixel | " in line or " | G = 8 | " in line]
    assert layers
    assert all(len(row) == 7 and float(row[2]) > 0 and "-mma-" in row[-1] for row in layers)
    assert all(gpu_targets.WAITS in line or gpu_targets.WITHIN_REACH in line for line in lines)

    def faster(factor: float) -> list[str]:
        library: Any = Fast(emulator_library, factor)
        return gpu_targets.reach(gpu_targets.predicted_rows(library))[2:]

    assert all(gpu_targets.WITHIN_REACH in line for line in faster(100))
    assert all(gpu_targets.WAITS in line for line in faster(0.01))


def test_the_assumed_dense_time() -> None:
    layer = Layer(128, 160, 8)
    flops = 2 * 8 * 160**2 * 128 * 128 * 9
    assert gpu_targets.assumed_dense_us(layer) == pytest.approx(flops / (0.75 * 790e6) + 2.5)
    small = Layer(64, 56, 32)
    assert gpu_targets.assumed_dense_us(small) == pytest.approx(2 * 32 * 56**2 * 64 * 64 * 9 / (0.6 * 790e6) + 2.5)
    memory = Layer(16, 512, 8)
    assert gpu_targets.assumed_dense_us(memory) == pytest.approx(memory.bytes / 4.3e6 + 2.5)


def test_a_prediction_is_of_the_setting(emulator_library: Library) -> None:
    rows = gpu_targets.predicted_rows(emulator_library)
    row = next(r for r in rows if (r.layer, r.grid, r.mask, r.form, r.density) == ("64@56 b32", 8, "iid", "fused", 0.25))
    params = Setting(Layer(64, 56, 32), 8, "iid", False, 0.25).params()
    ours = emulator_library.predict(params, H200, emulator_library.choose(params, H200))
    assert ours is not None
    assert row.ratio == pytest.approx(gpu_targets.assumed_dense_us(Layer(64, 56, 32)) / ours)
