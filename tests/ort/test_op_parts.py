"""Parts of the op under sanitizers, without ONNX Runtime: counting its threads, memory for calls, 16-bit floats."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.builds.cmake import ROOT
from support.builds.cpu import WITHOUT_ASLR

OP = ROOT / "ort_op" / "op"
SANITIZERS = {"thread": "-fsanitize=thread", "address": "-fsanitize=address,undefined"}


@pytest.fixture(scope="module", params=SANITIZERS)
def parts(request: pytest.FixtureRequest, onnxruntime_headers: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the program."""
    program = tmp_path_factory.mktemp("parts") / request.param
    sources = [
        ROOT / "tests" / "ort" / "host" / "op_parts.cpp",
        *(OP / f"{name}.cpp" for name in ("convert", "pool", "scratch")),
    ]
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all", SANITIZERS[request.param]]
    command = [
        "g++",
        *flags,
        f"-I{OP}",
        "-isystem",
        str(onnxruntime_headers),
        *map(str, sources),
        "-o",
        str(program),
        "-pthread",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [*(WITHOUT_ASLR if request.param == "thread" else ()), str(program)]


@pytest.mark.parametrize("part", ["pool-late", "pool-concurrent", "scratch", "convert"])
def test_part(parts: list[str], part: str) -> None:
    if part == "pool-late" and (os.cpu_count() or 1) == 1:
        pytest.skip("one core: there is no second thread to be late")
    done = subprocess.run([*parts, part], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_what_is_not_there_is_an_error(parts: list[str]) -> None:
    done = subprocess.run([*parts, "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "there is no part nothing\n")
