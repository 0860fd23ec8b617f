"""The sdist and the wheel: exactly what is in them, that the library works, and the wheel in an environment of its own.

One file, so that one process builds them once.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from lccl.op.reference import lccl_conv
from support.builds.cmake import require_cmake, why_no_cmake
from support.builds.distributions import Distributions, run_python
from support.builds.environments import environment
from support.cases.op_cases import CASES
from support.graphs.models import case_model
from support.hosts.onnxruntime import assert_close, infer, open_session

PACKAGE = ROOT / "exporter" / "lccl"
CPU_OP = "lccl/lib/liblccl_ort.so"
NATIVE = ("contract", "trt_plugin")
"""Folders of sources that lccl-build-plugin compiles."""
MADE = {"PKG-INFO"}
"""What the build adds to the sdist."""
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


# ---- the sdist -------------------------------------------------------------------------------------------------------


def test_the_sdist_is_the_checkout_without_its_settings(distributions: Distributions) -> None:
    """Tests and what they need are in it; an environment, a build folder and a library that was built here are not."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git tells which files are the project's: run this in a checkout")
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate")
    said = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    files = {name for name in said if (ROOT / name).is_file()}
    hidden = {name for name in files if name.startswith(".") and name not in (".gitignore", ".clang-format")}
    assert distributions.sdist_files() - MADE == files - hidden


def test_nothing_built_is_in_the_sdist(distributions: Distributions) -> None:
    files = distributions.sdist_files()
    assert {"tests/conftest.py", "samples/session/gated.onnx", "exporter/lccl/__init__.py", "CMakePresets.json"} <= files
    assert not [name for name in files if name.endswith((".so", ".o", ".pyc")) or name.startswith(("build/", "dist/"))]
    assert distributions.sdist.stat().st_size < 20_000_000


# ---- the wheel -------------------------------------------------------------------------------------------------------


def metadata(wheel: Path, name: str) -> Message:
    """A record of the wheel's, such as METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return Parser().parsestr(archive.read(path).decode())


def required(wheel: Path) -> list[str]:
    """What the base install requires."""
    listed = metadata(wheel, "METADATA").get_all("Requires-Dist") or []
    return [text for text in listed if "extra ==" not in text]


def test_every_python_file_of_the_package_is_in_the_wheel_and_no_other(distributions: Distributions) -> None:
    found = {name for name in distributions.wheel_files() if name.endswith(".py")}
    assert found == {f"lccl/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}


def test_what_else_is_in_the_wheel(distributions: Distributions) -> None:
    """The op's library, the plugin's sources, the report's page, what says that the package is typed, and the wheel's own records."""
    files = {name for name in distributions.wheel_files() if not name.endswith(".py")}
    records = {name for name in files if ".dist-info/" in name}
    native = {
        f"lccl/native/{path.relative_to(ROOT).as_posix()}"
        for folder in NATIVE
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    assert files - records - {CPU_OP} == native | {
        "lccl/native/CMakeLists.txt",
        "lccl/comparing/report/page.html.j2",
        "lccl/py.typed",
    }
    assert {name.partition(".dist-info/")[2] for name in records} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_wheel_is_for_every_python_3(distributions: Distributions) -> None:
    assert distributions.wheel.name.split("-")[2:4] == ["py3", "none"]


def test_the_wheel_has_a_library_that_works(distributions: Distributions, tmp_path: Path) -> None:
    require_cmake()
    assert distributions.wheel.stem.split("-")[4] != "any"
    assert [name for name in distributions.wheel_files() if name.endswith(".so")] == [CPU_OP]
    with zipfile.ZipFile(distributions.wheel) as archive:
        archive.extract(CPU_OP, tmp_path)
    model, feed = case_model(CASES[0])
    got = infer(open_session(model, tmp_path / CPU_OP), feed)
    assert_close(got, lccl_conv(CASES[0].inputs(), CASES[0].attributes), np.float32)


def test_the_base_install_has_no_pytorch(distributions: Distributions) -> None:
    base = {re.split(r"[<>=!~ ;\[]", text)[0] for text in required(distributions.wheel)}
    assert base == {"ml_dtypes", "numpy", "onnx", "onnxruntime"}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_classifiers_name_each_python(distributions: Distributions, python: str) -> None:
    said = metadata(distributions.wheel, "METADATA").get_all("Classifier") or []
    assert f"Programming Language :: Python :: {python}" in said


# ---- installed -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_python(distributions: Distributions) -> Path:
    """Python of an environment with the wheel and what it requires; skips where that cannot be installed."""
    needed = required(distributions.wheel)
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
