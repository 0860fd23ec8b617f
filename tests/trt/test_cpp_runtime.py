"""The sample that runs an engine without Python: it compiles, and says what is missing where it cannot run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from native_build import why_no_cuda

SAMPLE = ROOT / "samples" / "cpp_runtime"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled sample; skips where CUDA's or TensorRT's headers are not."""
    if why := why_no_cuda():
        pytest.skip(why)
    folders = [Path(p) for p in (os.environ.get("TENSORRT_ROOT", ""), "/usr", "/usr/local") if p]
    if not any((folder / "include" / "NvInferRuntime.h").is_file() for folder in folders):
        pytest.skip("TensorRT's headers are not here: unpack them and set TENSORRT_ROOT")
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
