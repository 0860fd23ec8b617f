"""Building a wheel where something is missing or named wrongly, always without the network."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from support.builds.distributions import pip_wheel

NATIVE = "lccl/native/CMakeLists.txt"


def files_of(found: Path | None, said: str) -> list[str]:
    assert found is not None, said[-3000:]
    with zipfile.ZipFile(found) as archive:
        return archive.namelist()


def test_without_a_compiler_the_wheel_is_made_all_the_same(bare_source: Path, tmp_path: Path) -> None:
    found, done = pip_wheel(bare_source, tmp_path, CXX="/nonexistent/g++")
    names = files_of(found, done.stderr)
    assert {"lccl/op/contract.py", NATIVE} <= set(names)
    assert not [n for n in names if n.endswith(".so")]


def test_with_a_compiler_that_fails_the_wheel_is_made_all_the_same(bare_source: Path, tmp_path: Path) -> None:
    found, done = pip_wheel(bare_source, tmp_path, ("-C", "cmake.define.CMAKE_CXX_FLAGS=--no-such-flag"))
    names = files_of(found, done.stderr)
    assert {"lccl/op/contract.py", NATIVE} <= set(names)
    assert not [n for n in names if n.endswith(".so")]


@pytest.mark.parametrize("how", ["setting", "environment"])
def test_a_folder_without_the_header_ends_the_build_with_one_sentence(bare_source: Path, tmp_path: Path, how: str) -> None:
    wrong = tmp_path / "empty"
    wrong.mkdir()
    name = "LCCL_ONNXRUNTIME_INCLUDE"
    if how == "setting":
        found, done = pip_wheel(bare_source, tmp_path, ("-C", f"cmake.define.{name}={wrong}"))
    else:
        found, done = pip_wheel(bare_source, tmp_path, (), **{name: str(wrong)})
    assert (found, done.returncode != 0) == (None, True)
    assert f"{name} is {wrong}, which has no onnxruntime_c_api.h." in " ".join((done.stdout + done.stderr).split())
