"""``lccl-build-plugin`` as a user runs it: one GPU, real compilers, from the sources beside the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lccl.backends.torch.cuda.library import load
from support.builds.cuda import Disassembler, why_no_cuda

CAPABILITY = "8.9"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves behind."""
    if why := why_no_cuda():
        pytest.skip(why)
    target = tmp_path_factory.mktemp("plugin") / "lib"
    command = [sys.executable, "-m", "lccl.cli.build_plugin", "--compute-capability", CAPABILITY, "-o", str(target), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    said = json.loads(done.stdout)
    assert said["compute_capabilities"] == [CAPABILITY]
    assert sorted(said["libraries"]) == sorted(str(path) for path in target.iterdir())
    return target


def test_both_libraries_are_there(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"liblccl_trt_plugin.so", "liblccl_cuda.so"}
    assert load(folder / "liblccl_cuda.so").configs()


def test_they_hold_code_for_that_gpu_and_ptx(folder: Path, disassembler: Disassembler) -> None:
    for path in folder.iterdir():
        assert set(re.findall(r"sm_(\d+)", disassembler.run("-lelf", path))) == {"89"}
        assert set(re.findall(r"sm_(\d+)", disassembler.run("-lptx", path))) == {"89"}
