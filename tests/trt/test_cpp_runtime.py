"""The sample that runs an engine without Python: it compiles, and says what is missing where it cannot run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from support.builds.cmake import why_no_cmake
from support.builds.cuda import why_no_cuda

SAMPLE = ROOT / "samples" / "cpp_runtime"


@pytest.fixture(scope="module")
def tensorrt_include() -> Path:
    """Folder of NVIDIA's headers; skips where they are not."""
    folders = [Path(p) / "include" for p in (os.environ.get("TENSORRT_ROOT", ""), "/usr", "/usr/local") if p]
    found = next((folder for folder in folders if (folder / "NvInferRuntime.h").is_file()), None)
    if found is None:
        pytest.skip("TensorRT's headers are not here: unpack them and set TENSORRT_ROOT")
    return found


def test_it_compiles(tensorrt_include: Path) -> None:
    """With CUDA's headers from a package, so that it needs no CUDA toolkit."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations or [] if spec else []
    cuda = next((p for root in roots for p in Path(root).glob("cu*/include") if (p / "cuda_runtime_api.h").is_file()), None)
    if cuda is None or why_no_cmake():
        pytest.skip(why_no_cmake() or "no nvidia-cuda-runtime: it comes with lccl's dev extra on Linux")
    options = [
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        "-isystem",
        str(tensorrt_include),
        "-isystem",
        str(cuda),
    ]
    done = subprocess.run(["g++", *options, str(SAMPLE / "main.cpp")], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def program(tensorrt_include: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The linked sample; skips where CUDA's toolkit is not."""
    if why := why_no_cuda():
        pytest.skip(why)
    build = tmp_path_factory.mktemp("cpp_runtime")
    for command in (["cmake", "-S", str(SAMPLE), "-B", str(build)], ["cmake", "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "warning:" not in done.stderr
    return build / "lccl_run"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "usage: lccl_run ENGINE"),
        (("absent.engine",), "cannot read absent.engine"),
        (("--plugin",), "--plugin takes a value"),
        (("--nothing",), "usage: lccl_run ENGINE"),
    ],
)
def test_what_it_says(program: Path, arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr
