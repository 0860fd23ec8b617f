"""``lccl-build-plugin`` as a user runs it: one GPU, real compilers, from the sources beside the package."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lccl.backends.torch.cuda.interface import Device, Math
from lccl.backends.torch.cuda.library import load
from support.builds.cmake import require_cmake
from support.builds.cuda import CUBIN_CACHE, Disassembler, why_no_cuda
from support.share import ALL

CAPABILITY = "8.9"
RTX_4090 = Device(89, 128, 101376, 102400)
FEW = ("gate-float16-eights", "rows_64x32-float16-eights", "close-float16")
"""Kernels in Triton: enough to see that they are there."""


def built(target: Path, **environment: str) -> dict[str, object]:
    """What the command says, and leaves in a folder."""
    settings = os.environ | {"LCCL_TRITON_ONLY": ";".join(FEW), "LCCL_CUBIN_CACHE": str(CUBIN_CACHE)} | environment
    command = [sys.executable, "-m", "lccl.cli.build_plugin", "--compute-capability", CAPABILITY, "-o", str(target), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    assert said["compute_capabilities"] == [CAPABILITY]
    assert said["libraries"] == [str(target / name) for name in ("liblccl_trt_plugin.so", "liblccl_cuda.so")]
    assert {path.name for path in target.iterdir()} == {"liblccl_trt_plugin.so", "liblccl_cuda.so"}
    return said


def kinds(folder: Path) -> set[Math]:
    """How the configurations multiply whose code the library has."""
    return {config.math for config in load(folder / "liblccl_cuda.so").configs_for(RTX_4090)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves behind where nvcc is."""
    if why := why_no_cuda():
        pytest.skip(why)
    target = tmp_path_factory.mktemp("plugin") / "lib"
    said = str(built(target)["kernels"])
    has_triton = importlib.util.find_spec("triton") is not None
    assert said.startswith("Kernels: CUDA's, and those in Triton " if has_triton else "Kernels: CUDA's; none in Triton: ")
    assert kinds(target) == {Math.MMA, Math.SIMT} | ({Math.TRITON} if has_triton else set())
    return target


@pytest.mark.skipif(not ALL, reason="make thorough compiles the portable kernels by this command; make test by CMake alone")
def test_the_portable_kernels_are_for_that_gpu_and_ptx(folder: Path, disassembler: Disassembler) -> None:
    for path in folder.iterdir():
        assert set(re.findall(r"sm_(\d+)", disassembler.run("-lelf", path))) == {"89"}
        assert set(re.findall(r"sm_(\d+)", disassembler.run("-lptx", path))) == {"89"}


def test_without_a_toolkit_triton_and_pips_runtime_are_enough(tmp_path: Path) -> None:
    require_cmake()
    if any(importlib.util.find_spec(name) is None for name in ("triton", "nvidia")):
        pytest.skip("pip install triton nvidia-cuda-runtime nvidia-cuda-crt")
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "nvcc").exists())
    if shutil.which("cmake", path=path) is None:
        pytest.skip("cmake lies beside nvcc")
    said = built(tmp_path / "lib", PATH=path, CUDACXX="", CUDA_PATH=str(tmp_path))
    assert str(said["kernels"]).startswith("Kernels: none of CUDA's, since nvcc is not here, and those in Triton ")
    assert kinds(tmp_path / "lib") == {Math.TRITON}
    library = load(tmp_path / "lib" / "liblccl_cuda.so")
    needed = subprocess.run(["readelf", "-d", "-W", library.path], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"NEEDED.*(cuda|nv)", needed)
