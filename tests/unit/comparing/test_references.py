"""What rows are held against: finite references, the same device, libraries that nobody slipped in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lccl
from lccl.backends.tensorrt.library import ENVIRONMENT
from lccl.comparing import Comparison, Environment, Latency, Row
from lccl.comparing.candidates import plugin_of
from lccl.comparing.references import equal_predictions, errors, predictions, with_speedup
from lccl.data import Data, as_data
from lccl.files import sha256
from lccl.metrics import top1


def test_a_reference_that_is_not_finite_is_refused(exported: Path, samples: Path) -> None:
    """float32 overflows in both forms alike, which is no agreement."""
    model = onnx.load(exported)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("classifier."):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, 3.4e38, np.float32), tensor.name))
    with pytest.raises(lccl.UserError, match="gives NaN or infinity on this data"):
        lccl.compare([model, model], samples, latency=None)


def test_a_score_that_is_not_finite_is_no_prediction() -> None:
    """argmax of NaN is its place, which would agree with itself and may even be the label."""
    scores = np.array([[np.nan, 1.0], [0.0, 1.0]], np.float32)
    assert list(predictions([scores])) == [-1, 1]
    assert top1([scores], np.array([0, 1])) == 0.5
    assert equal_predictions([np.array([[2.0, 1.0], [0.0, 1.0]])], [scores]) == 0.5
    assert errors([np.zeros((1, 2))], [np.array([[np.nan, 0.0]])])[0] == np.inf


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ({"x": np.full((2, 1), np.nan)}, None, "NaN or infinity"),
        ({"x": np.zeros((0, 1))}, None, "no sample"),
        ({"x": np.zeros(())}, None, "no sample"),
        ({}, None, "no sample"),
        ({"x": np.zeros((2, 1))}, np.zeros(3), "differ in length"),
    ],
)
def test_data_is_checked_whoever_made_it(inputs: dict[str, Any], labels: Any, message: str) -> None:
    with pytest.raises(lccl.UserError, match=message):
        as_data(Data(inputs, labels))


# ---- devices --------------------------------------------------------------------------------------------------------


def row(network: str, role: Any, device: str, milliseconds: float) -> Row:
    return Row(network, role, "torch", device, latency=Latency(milliseconds, milliseconds, 10))


ROWS = (
    row("gated.pt", "lccl", "NVIDIA L4", 1.0),
    row("dense.pt", "baseline", "CPU", 100.0),
    row("dense2.pt", "baseline", "NVIDIA L4", 3.0),
)


def test_a_speedup_is_over_the_same_device() -> None:
    found = with_speedup(ROWS[0], ROWS)
    assert (found.speedup, found.speedup_over) == (3.0, "dense2.pt (torch)")
    assert with_speedup(ROWS[0], ROWS[:2]).speedup is None


def test_devices_are_told_where_they_differ() -> None:
    environment = Environment(4, 1, 1, "a CPU")
    text = str(Comparison(ROWS, None, (), environment))
    assert "torch on NVIDIA L4" in text
    assert "torch on CPU" in text
    assert " on NVIDIA" not in str(Comparison(tuple(replace(r, device="NVIDIA L4") for r in ROWS), None, (), environment))


# ---- engines --------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "liblccl_trt_plugin.so"
    path.write_bytes(b"a library")
    return path


def test_a_sidecar_leads_to_no_library(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in a file is code of whoever wrote the file."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr("lccl.backends.tensorrt.library.PACKAGED", Path("not_installed.so"))
    for recorded in (str(library), {"file": str(library), "sha256": sha256(library)}, 5):
        with pytest.raises(lccl.UserError, match=r"needs the plugin .*pass plugin_library=") as caught:
            plugin_of(tmp_path / "m.engine", {"plugin": recorded}, None)
        assert str(library.parent) not in str(caught.value).replace(str(tmp_path / "m.engine"), "")


def test_the_plugin_is_the_callers_or_the_installed_one(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = {"plugin": {"file": library.name, "sha256": sha256(library)}}
    assert plugin_of(Path("m.engine"), {"plugin": None}, library) is None
    assert plugin_of(Path("m.engine"), sidecar, library) == library
    monkeypatch.setenv(ENVIRONMENT, str(library))
    assert plugin_of(Path("m.engine"), sidecar, None) == library


def test_two_kinds_of_engine_are_refused(tmp_path: Path) -> None:
    paths = []
    for backend in ("tensorrt", "tensorrt-rtx"):
        path = tmp_path / f"{backend}.engine"
        path.write_bytes(b"engine")
        content = {"backend": backend, "layers": [], "engine": {"sha256": sha256(path)}}
        path.with_name(f"{path.name}.json").write_text(json.dumps(content))
        paths.append(path)
    with pytest.raises(lccl.UserError, match="cannot run in one process: compare them one at a time"):
        lccl.compare(paths, np.zeros((2, 1), np.float32), latency=None)


# ---- words ----------------------------------------------------------------------------------------------------------


def test_each_speedup_says_what_it_is_over() -> None:
    """Where the dense network is in one runtime only, the twin is the measure in the other."""
    rows = (
        replace(row("gated.pt", "lccl", "CPU", 1.0), speedup=2.0, speedup_over="dense.pt (torch)"),
        replace(row("gated.onnx", "lccl", "CPU", 1.0), speedup=3.0, speedup_over="dense twin of gated.onnx (torch)"),
        row("dense.pt", "baseline", "CPU", 2.0),
        row("dense twin of gated.onnx", "dense twin", "CPU", 3.0),
    )
    text = str(Comparison(rows, None, (), Environment(1, 1, 1, "a CPU")))
    assert "\nSpeed-up: gated.pt over dense.pt, gated.onnx over the dense twin, in the same runtime." in text
    assert "\n1 input; latency" in text


@pytest.mark.parametrize("value", [99, -0.1])
def test_a_fraction_of_agreement_is_between_0_and_1(value: float) -> None:
    with pytest.raises(lccl.UserError, match=f"min_agreement is a fraction between 0 and 1, not {value}"):
        lccl.Limits(min_agreement=value)
