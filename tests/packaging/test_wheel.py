"""The wheel: exactly what is in it, for whom it is, and that its library works."""

from __future__ import annotations

import re
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from lccl.op.reference import lccl_conv
from support.builds.cmake import require_cmake
from support.builds.distributions import Distributions
from support.cases.op_cases import CASES
from support.graphs.models import case_model
from support.hosts.onnxruntime import assert_close, infer, open_session

PACKAGE = ROOT / "exporter" / "lccl"
CPU_OP = "lccl/lib/liblccl_ort.so"
NATIVE = ("contract", "trt_plugin")
"""Folders of sources that lccl-build-plugin compiles."""


def metadata(wheel: Path, name: str) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return Parser().parsestr(archive.read(path).decode())


def test_every_python_file_of_the_package_is_in_it_and_no_other(distributions: Distributions) -> None:
    found = {name for name in distributions.wheel_files() if name.endswith(".py")}
    assert found == {f"lccl/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}


def test_what_else_is_in_it(distributions: Distributions) -> None:
    """The op's library, the plugin's sources, what says that the package is typed, and the wheel's own records."""
    files = {name for name in distributions.wheel_files() if not name.endswith(".py")}
    records = {name for name in files if ".dist-info/" in name}
    native = {
        f"lccl/native/{path.relative_to(ROOT).as_posix()}"
        for folder in NATIVE
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    assert files - records - {CPU_OP} == native | {"lccl/native/CMakeLists.txt", "lccl/py.typed"}
    assert {name.partition(".dist-info/")[2] for name in records} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_it_is_for_every_python_3(distributions: Distributions) -> None:
    assert distributions.wheel.name.split("-")[2:4] == ["py3", "none"]


def test_it_has_a_library_that_works(distributions: Distributions, tmp_path: Path) -> None:
    require_cmake()
    assert distributions.wheel.stem.split("-")[4] != "any"
    assert [name for name in distributions.wheel_files() if name.endswith(".so")] == [CPU_OP]
    with zipfile.ZipFile(distributions.wheel) as archive:
        archive.extract(CPU_OP, tmp_path)
    model, feed = case_model(CASES[0])
    got = infer(open_session(model, tmp_path / CPU_OP), feed)
    assert_close(got, lccl_conv(CASES[0].inputs(), CASES[0].attributes), np.float32)


def test_the_base_install_has_no_pytorch(distributions: Distributions) -> None:
    required = metadata(distributions.wheel, "METADATA").get_all("Requires-Dist") or []
    base = {re.split(r"[<>=!~ ;\[]", text)[0] for text in required if "extra ==" not in text}
    assert base == {"ml_dtypes", "numpy", "onnx", "onnxruntime"}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_its_classifiers_name_each_python(distributions: Distributions, python: str) -> None:
    said = metadata(distributions.wheel, "METADATA").get_all("Classifier") or []
    assert f"Programming Language :: Python :: {python}" in said
