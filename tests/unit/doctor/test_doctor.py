"""``lccl doctor``: what it finds, what it says works, and the command that gets the rest."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest

import lccl
from lccl.backends import gpus as gpus_of
from lccl.backends.diagnosis import diagnosis
from lccl.backends.diagnosis import parts as parts_of
from lccl.backends.diagnosis.diagnosis import Ability, diagnose
from lccl.backends.diagnosis.parts import Part, parts
from lccl.backends.gpus import Gpu

LIBRARY = {
    "onnxruntime": "1.32.0",
    "takes_library": True,
    "library": "/x.so",
    "isa": "avx2",
    "isa_asked": None,
    "isa_asked_by": None,
    "fix": "install lccl again",
}
PLUGIN = {
    "library": "/p.so",
    "registries": [{"module": "tensorrt", "holds_plugin": True, "reason": ""}],
    "fix": "build it with lccl-build-plugin",
}
HERE = {"torch": "2.13.0+cu130", "triton": "3.9.0", "nvcc": "13.0", "cmake": "3.25.1", "g++": "12.2.0", "GPU": "RTX 4090"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Ability]]:
    """A machine that has everything, but for what a test takes away; the abilities by name."""
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7"))
    monkeypatch.setattr(diagnosis.importlib.util, "find_spec", lambda name: None if name in gone else object())
    gone: list[str] = []

    def found(
        without: str = "", library: Any = LIBRARY, plugin: Any = PLUGIN, cuda: str | None = "13.0", **versions: str | None
    ) -> dict[str, Ability]:
        gone[:] = without.split()
        monkeypatch.setattr(diagnosis, "cuda_of_torch", lambda: cuda)
        here = {**HERE, **versions}
        monkeypatch.setattr(diagnosis, "parts", lambda: tuple(Part(name, version) for name, version in here.items()))
        monkeypatch.setattr(diagnosis, "library_report", lambda: library)
        monkeypatch.setattr(diagnosis, "plugin_report", lambda: plugin)
        return {ability.name: ability for ability in diagnose().abilities}

    return found


def test_all_is_here(machine: Callable[..., dict[str, Ability]]) -> None:
    able = machine()
    assert [name for name, ability in able.items() if not ability.works] == []
    assert [ability.fix for ability in able.values()] == [""] * len(able)
    assert "RTX 4090" in able["tensorrt"].detail


@pytest.mark.parametrize(
    ("change", "lost", "why", "fix"),
    [
        ({"without": "onnxscript"}, "export", "without onnxscript", "pip install 'lccl[export]'"),
        ({"without": "torch"}, "train", "without PyTorch", "pip install 'lccl[train]'"),
        (
            {"library": LIBRARY | {"takes_library": False, "reason": "there is no liblccl_ort.so: install lccl again"}},
            "onnxruntime-lccl",
            "there is no liblccl_ort.so",
            "install lccl again",
        ),
        (
            {"library": LIBRARY | {"isa": None, "isa_asked": "avx512", "isa_asked_by": "LCCL_CPU_ISA"}},
            "onnxruntime-lccl",
            "this machine does not run LCCL_CPU_ISA=avx512",
            "unset LCCL_CPU_ISA",
        ),
        (
            {"without": "tensorrt_rtx tensorrt_rtx_bindings"},
            "tensorrt-rtx-build",
            "without TensorRT for RTX",
            "pip install 'lccl[rtx]'",
        ),
        ({"without": "tensorrt"}, "tensorrt", "without TensorRT", "pip install 'lccl[trt]'"),
        (
            {
                "plugin": PLUGIN
                | {"library": None, "missing": "there is no plugin: build it with lccl-build-plugin", "registries": []}
            },
            "tensorrt-build",
            "there is no plugin",
            "build it with lccl-build-plugin",
        ),
        ({"GPU": None}, "tensorrt", "there is no NVIDIA GPU", "a machine with an NVIDIA GPU and its driver"),
        ({"GPU": None}, "cuda", "there is no NVIDIA GPU", "a machine with an NVIDIA GPU and its driver"),
        (
            {"torch": "2.13.0+cpu", "cuda": None},
            "cuda",
            "PyTorch 2.13.0+cpu has no CUDA",
            "pip uninstall -y torch && pip install torch",
        ),
        ({"torch": None}, "cuda", "without PyTorch", "pip install 'lccl[export]' or 'lccl[train]'"),
        ({"triton": None}, "cuda", "neither a built library nor Triton", "pip install triton, or lccl build-plugin"),
        ({"cmake": None}, "build-plugin", "without cmake", "pip install cmake"),
        (
            {"nvcc": None, "triton": None},
            "build-plugin",
            "without nvcc",
            "pip install triton nvidia-cuda-runtime nvidia-cuda-crt",
        ),
    ],
    ids=str,
)
def test_what_is_not_here(
    machine: Callable[..., dict[str, Ability]],
    change: dict[str, Any],
    lost: str,
    why: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("lccl.backends.torch.cuda.library.library_path", lambda: tmp_path / "no.so")
    found = machine(**change)[lost]
    assert not found.works
    assert why in found.detail
    assert found.fix == fix


def test_an_old_onnx_runtime_and_a_broken_one(
    machine: Callable[..., dict[str, Ability]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.16.3")
    found = machine()["onnxruntime"]
    assert (found.works, found.detail, found.fix) == (
        False,
        "ONNX Runtime 1.16.3 is too old",
        "pip install 'onnxruntime>=1.20'",
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "it does not load" in machine()["onnxruntime"].detail


def test_a_variable_that_misleads_is_diagnosed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCCL_ORT_LIBRARY", "/nowhere.so")
    monkeypatch.setenv("LCCL_TRT_PLUGIN", "/nowhere.so")
    found = {ability.name: ability for ability in diagnose().abilities}["onnxruntime-lccl"]
    assert (found.works, found.fix) == (False, "unset LCCL_ORT_LIBRARY")
    assert "no such file: /nowhere.so, which LCCL_ORT_LIBRARY names" in found.detail


@pytest.mark.parametrize(
    ("line", "cuda"), [("cuda: Optional[str] = '13.0'", "13.0"), ("cuda: Optional[str] = None", None), ("", None)]
)
def test_the_cuda_of_a_torch_that_is_not_imported(
    line: str, cuda: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\n")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(parts_of, "find_spec", lambda _: spec)
    assert parts_of.cuda_of_torch() == cuda


def test_a_toolkit_is_not_needed_where_triton_is(machine: Callable[..., dict[str, Ability]]) -> None:
    assert machine(nvcc=None)["build-plugin"].works


def test_a_tensorrt_that_does_not_load(machine: Callable[..., dict[str, Ability]], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(diagnosis.importlib, "import_module", broken)
    assert "does not load: libnvinfer.so.11" in machine()["tensorrt"].detail


def test_this_machine() -> None:
    found = {part.name: part for part in parts()}
    assert found["lccl"].version == lccl.__version__
    assert found["onnxruntime"].version == onnxruntime.__version__
    assert found["python"].version == sys.version.split()[0]


@pytest.mark.parametrize(
    ("said", "name", "version"),
    [
        (
            "nvcc: NVIDIA (R) Cuda compiler driver\nBuilt on 2025\nCuda compilation tools, release 13.0, V13.0.88",
            "nvcc",
            "13.0",
        ),
        ("g++ (Debian 12.2.0-14) 12.2.0", "g++", "12.2.0"),
        ("nonsense", "cmake", "of unknown version"),
    ],
)
def test_the_version_of_a_tool(said: str, name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / name
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setattr(parts_of.shutil, "which", lambda *_, **__: str(tool))
    monkeypatch.setattr("lccl.backends.tensorrt.compiler.find_tool", lambda _: str(tool))
    assert parts_of._tool(name) == Part(name, version, str(tool))


def fake_driver() -> SimpleNamespace:
    """libcuda of a machine with two GPUs, of which the second does not tell anything."""

    def write(value: int, code: int = 0) -> Callable[..., int]:
        def call(target: Any, *_: Any) -> int:
            target._obj.value = value
            return code

        return call

    def device(target: Any, ordinal: int) -> int:
        return write(ordinal, ordinal)(target)

    def attribute(target: Any, which: int, _: Any) -> int:
        return write({75: 9, 76: 0}[which])(target)

    def name(target: Any, *_: Any) -> int:
        target.value = b"NVIDIA H100"
        return 0

    return SimpleNamespace(
        cuInit=lambda _: 0,
        cuDriverGetVersion=write(13010),
        cuDeviceGetCount=write(2),
        cuDeviceGet=device,
        cuDeviceGetAttribute=attribute,
        cuDeviceGetName=name,
    )


def test_gpus_and_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: fake_driver())
    assert gpus_of.gpus() == (Gpu("NVIDIA H100", "9.0"),)
    assert gpus_of.driver_version() == "13.1"


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert (gpus_of.gpus(), gpus_of.driver_version()) == ((), None)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command(invoke: Callable[..., Any]) -> None:
    done = invoke("lccl.cli.doctor")
    assert done.code == 0
    assert f"onnxruntime {onnxruntime.__version__}".split() == next(
        line.split() for line in done.out.splitlines() if line.startswith("onnxruntime ")
    )
    done = invoke("lccl.cli.doctor", "--json", "--require", "onnxruntime,export", "--require", "train")
    said = json.loads(done.out)
    assert done.code == 0
    assert {ability["name"]: ability["works"] for ability in said["abilities"]}["export"]
    assert said["onnxruntime"]["onnxruntime"] == onnxruntime.__version__


def test_what_is_required_and_missing(invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_cuda", lambda _: Ability("cuda", "skip", False, "there is no GPU", "buy one"))
    done = invoke("lccl.cli.doctor", "--require", "onnxruntime,cuda")
    assert done.code == 1
    assert done.err == "error: cuda is required: there is no GPU: buy one\n"
    done = invoke("lccl.cli.doctor", "--require", "tensorflow")
    assert done.code == 1
    assert (
        "there is nothing called 'tensorflow' to require: choose from export, train, fit, report, images, onnxruntime,"
        in done.err
    )
