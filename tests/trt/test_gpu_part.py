"""The GPU check's part for the plugin, on the emulated machine: it passes where all is well and can fail."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from host_calls import Answer, Layer, run
from lccl.cuda.interface import Dtype
from trt_builds import tensorrt_library

sys.path.insert(0, str(ROOT / "scripts"))
import gpu_plugin

import cases


@pytest.fixture
def folder(registry_host: Path, emulated_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build folder whose host and plugin are the emulated machine's, and a few cases."""
    (tmp_path / gpu_plugin.HOST).symlink_to(registry_host)
    (tmp_path / gpu_plugin.LIBRARY).symlink_to(emulated_plugin)
    monkeypatch.setattr(cases, "CASES", cases.CASES[:3])
    monkeypatch.setattr(gpu_plugin, "tensorrt_library", lambda: None)
    return tmp_path


def test_it_passes(folder: Path, lean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TensorRT's registry; without it, it is not complete."""
    done = gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 600)
    assert (done["status"], done["faults"]) == ("partial", [])
    assert "its registry is not seen" in done["words"]
    assert done["calls"] > 3 * 3 * 4
    monkeypatch.setattr(gpu_plugin, "tensorrt_library", lambda: tensorrt_library(lean))
    done = gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 600)
    assert (done["status"], done["faults"]) == ("passed", [])
    assert "libnvinfer_lean" in done["words"]


def test_it_stops_in_time_and_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    assert gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() - 1)["status"] == "partial"
    (folder / gpu_plugin.HOST).unlink()
    assert gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 60)["status"] == "skipped"


def test_faults_are_found(registry_host: Path, emulated_plugin: Path, tmp_path: Path) -> None:
    layer = Layer.of(cases.CASES[0], Dtype.FLOAT16)
    (answer,), _ = run(registry_host, [layer], tmp_path, emulated_plugin)
    assert list(gpu_plugin.faults_of(layer, answer)) == []
    label = next(name for name in answer.outputs if name.startswith("runtime"))
    wrong = bytes(len(answer.outputs[label]))
    faults = list(gpu_plugin.faults_of(layer, dataclasses.replace(answer, outputs=answer.outputs | {label: wrong})))
    assert len(faults) == 2, "wrong values, and other bytes than the contexts'"
    assert all(label in fault for fault in faults)
    assert list(gpu_plugin.faults_of(layer, Answer("enqueue failed", {}, {}))) == [f"{layer.name}: enqueue failed"]
