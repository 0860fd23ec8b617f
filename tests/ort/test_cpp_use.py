"""The lines for C++ users in ort_op/README.md: compiled and linked against ONNX Runtime, and run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import onnx
import onnxruntime
import pytest

from support.builds.cmake import ROOT
from support.cases.op_cases import CASES
from support.graphs.models import case_model

PROGRAM = """
#include <onnxruntime_cxx_api.h>
#include <cstdio>
int main()
{
    try
    {
%s
        std::printf("%%zu inputs\\n", session.GetInputCount());
        return 0;
    }
    catch (Ort::Exception const& error)
    {
        std::printf("%%s\\n", error.what());
        return 1;
    }
}
"""


@pytest.fixture(scope="module")
def program(onnxruntime_headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's lines as a program."""
    (lines,) = re.findall(r"```cpp\n(.*?)```", (ROOT / "ort_op" / "README.md").read_text(), re.DOTALL)
    if not (onnxruntime_headers / "onnxruntime_cxx_api.h").is_file():
        pytest.skip(
            "no C++ header of ONNX Runtime: it comes with Debian's package, which the build downloads where it has none"
        )
    (runtime,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "main.cpp").write_text(PROGRAM % lines)
    (folder / "libonnxruntime.so.1").symlink_to(runtime)
    command = ["g++", "-std=c++17", "-isystem", str(onnxruntime_headers), "main.cpp", str(runtime), f"-Wl,-rpath,{folder}"]
    done = subprocess.run([*command, "-o", "program"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def started(program: Path, folder: Path, library: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    return subprocess.run([str(program)], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_lines_make_a_session_with_the_op(program: Path, ort_library: Path, tmp_path: Path) -> None:
    """Nodes alone, without the function: only the library has the op."""
    onnx.save(case_model(CASES[0], function=False)[0], tmp_path / "model.onnx")
    done = started(program, tmp_path, ort_library)
    assert (done.returncode, done.stdout) == (0, "1 inputs\n")


def test_a_library_that_is_not_there_is_an_error_of_the_program(program: Path, tmp_path: Path) -> None:
    onnx.save(case_model(CASES[0], function=False)[0], tmp_path / "model.onnx")
    done = started(program, tmp_path, tmp_path / "liblccl_ort.so")
    assert done.returncode == 1
    assert "liblccl_ort.so" in done.stdout
