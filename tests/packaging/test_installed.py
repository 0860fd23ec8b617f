"""The wheel in an environment that has the base install alone, and the library with the extras of the quickstart alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT
from support.builds.cmake import why_no_cmake
from support.builds.distributions import Distributions, run_python
from support.builds.environments import environment

QUICKSTART = """
import sys

for name in ("polygraphy", "onnxconverter_common", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
    sys.modules[name] = None  # what neither extra brings

import numpy as np
import torch

import lccl
from lccl.train import DensityLoss

dense = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, padding=1),
    torch.nn.BatchNorm2d(8),
    torch.nn.ReLU(),
    torch.nn.Conv2d(8, 8, 3, padding=1),
    torch.nn.BatchNorm2d(8),
    torch.nn.ReLU(),
).eval()
model = lccl.nn.convert(dense, where="all-3x3")
density = DensityLoss(model.train(), target=0.3)
(model(torch.randn(2, 3, 16, 16)).square().mean() + density()).backward()
density.close()
lccl.export(model.eval(), torch.randn(1, 3, 16, 16), "quick.onnx")
lccl.ort.session("quick.onnx").run(None, {"input": np.zeros((1, 3, 16, 16), np.float32)})
"""


def requirements(wheel: Path) -> list[str]:
    """Of the base install."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(path).decode().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [text for text in required if "extra ==" not in text]


@pytest.fixture(scope="module")
def base_python(distributions: Distributions) -> Path:
    """Python of an environment with the wheel and what it requires; skips where that cannot be installed."""
    needed = requirements(distributions.wheel)
    constraints = ROOT / "constraints.txt"
    wanted = "\n".join([*needed, constraints.read_text()])
    python = environment("base_install", ("-c", str(constraints), *needed), wanted) / "bin" / "python"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--force-reinstall")
    done = run_python(*install, distributions.wheel, python=python)
    assert done.returncode == 0, done.stderr
    return python


def test_it_opens_a_session_and_says_what_else_is_needed(base_python: Path, tmp_path: Path) -> None:
    """By the script that the workflow runs on every wheel."""
    options = ["--without-library"] if why_no_cmake() else []
    command = [str(base_python), "-P", str(ROOT / "tests/packaging/smoke.py"), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "works on Python 3." in done.stdout


def test_everything_that_it_requires_is_there(base_python: Path) -> None:
    done = run_python("-m", "pip", "check", python=base_python)
    assert done.returncode == 0, done.stdout
    done = run_python("-c", "import lccl, sys; assert 'site-packages' in lccl.__file__; import torch", python=base_python)
    assert "No module named 'torch'" in done.stderr


def test_the_quickstart_needs_the_extras_export_and_train_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUICKSTART], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
