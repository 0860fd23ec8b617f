"""The GPU check's part for the plugin: on the emulated machine it passes where all is well and can fail; its own host program is
built, and runs as far as the machine allows."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from pathlib import Path

import pytest

import support.cases.op_cases as cases
import support.hosts.plugin as host_calls
from bench.gpu import plugin as gpu_plugin
from lccl.backends.tensorrt.runner import gpu_missing
from lccl.backends.torch.cuda.interface import Dtype
from support.builds.trt import tensorrt_library
from support.hosts.plugin import Answer, Layer, assert_close, run


@pytest.fixture
def folder(registry_host: Path, emulated_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build folder whose host and plugin are the emulated machine's, and a few cases."""
    (tmp_path / gpu_plugin.HOST).symlink_to(registry_host)
    (tmp_path / gpu_plugin.LIBRARY).symlink_to(emulated_plugin)
    monkeypatch.setattr(cases, "CASES", cases.CASES[:3])
    monkeypatch.setattr(gpu_plugin, "tensorrt_library", lambda: None)
    return tmp_path


def test_it_passes(folder: Path, lean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TensorRT's registry; without it, it says that nobody saw it."""
    done = gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 600)
    assert (done["status"], done["faults"]) == ("passed", [])
    assert "its registry was not seen" in done["words"]
    assert done["calls"] > 3 * 3 * 4
    monkeypatch.setattr(gpu_plugin, "tensorrt_library", lambda: tensorrt_library(lean))
    done = gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 600)
    assert (done["status"], done["faults"]) == ("passed", [])
    assert "libnvinfer_lean" in done["words"]


def test_it_stops_in_time_and_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    assert gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() - 1)["status"] == "partial"
    (folder / gpu_plugin.HOST).unlink()
    assert gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 60)["status"] == "skipped"


def test_a_host_that_is_slow_is_no_failure(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known by then is told; one that crashes is a failure."""

    def slow(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("host", timeout)

    monkeypatch.setattr(host_calls, "run", slow)
    done = gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 60)
    assert done["status"] == "partial"
    assert "the time was up in float32" in done["words"]

    def crashes(*_: object, **__: object) -> None:
        raise AssertionError("its last words")

    monkeypatch.setattr(host_calls, "run", crashes)
    done = gpu_plugin.check_plugin(folder, tmp_path, time.monotonic() + 60)
    assert (done["status"], done["faults"]) == ("failed", ["its last words"])


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


def start(program: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (program, *words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=os.environ | environment)


@pytest.mark.parametrize("walk", [(), ("--pointers",)], ids=["life", "pointers"])
def test_the_host_says_that_there_is_no_gpu(gpu_host: Path, tmp_path: Path, walk: tuple[str, ...]) -> None:
    """Before it reads or writes a file."""
    results = tmp_path / "results.bin"
    done = start(gpu_host, *walk, tmp_path / "absent.bin", results, "absent.so", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("there is no GPU: ")
    assert len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "a file of cases and one for the results must be named\n"),
        (("--pointers", "cases.bin"), "a file of cases and one for the results must be named\n"),
        (("--fields",), "a plugin's library must be named, and before it TensorRT's or none\n"),
    ],
)
def test_the_host_says_what_it_needs(gpu_host: Path, words: tuple[str, ...], sentence: str) -> None:
    done = start(gpu_host, *words)
    assert (done.returncode, done.stderr) == (1, sentence)


def test_the_host_on_a_gpu(gpu_host: Path, trt_plugin: Path, tmp_path: Path) -> None:
    """A life with a captured call, and pointers that are refused, with the real library."""
    if why := gpu_missing():
        pytest.skip(why)
    layer = Layer.of(cases.CASES[0], Dtype.FLOAT16)
    (answer,), _ = run(gpu_host, [layer], tmp_path, trt_plugin)
    assert list(gpu_plugin.faults_of(layer, answer)) == []
    assert any(label.startswith("captured") for label in answer.outputs)
    (answer,), _ = run(gpu_host, [layer], tmp_path, trt_plugin, walk="pointers")
    assert answer.problem == ""
    assert "X misaligned" in answer.facts["refused"]
    assert_close(layer, layer.output(answer.outputs["y"]))
