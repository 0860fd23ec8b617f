"""The emulated machine that native tests run the kernels on: it must find every fault that its self tests make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent

#: Checks that the self tests have at least. Fewer lines mean that some did not run.
LEAST_CHECKS = 100


@pytest.fixture(scope="module")
def selftest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the self tests' executable, built for this run. Skips where a tool is missing."""
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the emulated machine needs {' and '.join(missing)} to be built")
    folder = tmp_path_factory.mktemp("emulator")
    configure = ["cmake", "-S", str(SOURCE), "-B", str(folder), "-DCMAKE_CXX_COMPILER=g++"]
    build = ["cmake", "--build", str(folder), "--target", "lccl_emulator_selftest", "--parallel", "2"]
    for command in (configure, build):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "lccl_emulator_selftest"


def test_selftest(selftest: Path) -> None:
    """Every mini kernel gives its result, or exactly the fault that was put into it."""
    done = subprocess.run([str(selftest)], capture_output=True, text=True, check=False, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join(line for line in lines if not line.startswith("ok")) + done.stderr
    assert lines[-1] == "0 failed"
    assert sum(line.startswith("ok ") for line in lines) >= LEAST_CHECKS
