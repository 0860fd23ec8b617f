"""Properties of the kernels' index functions, checked in C++ with the undefined-behaviour sanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT

KERNELS = ROOT / "trt_plugin" / "kernel"
EMULATOR = ROOT / "tests" / "emulator"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_index_functions(tmp_path: Path) -> None:
    program = tmp_path / "index_check"
    machine = [p for p in EMULATOR.glob("*.cpp") if not p.name.startswith(("selftest", "index_check", "device_query"))]
    kernels = [KERNELS / f"{name}.cpp" for name in ("plan", "configurations", "triton_plan", "without_triton")]
    sources = [EMULATOR / "index_check.cpp", *kernels, *machine]
    flags = ("-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover=all")
    includes = [f"-I{p}" for p in (KERNELS, EMULATOR / "include", EMULATOR, ROOT)]
    subprocess.run(["g++", *flags, *includes, "-o", program, *sources], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 9
