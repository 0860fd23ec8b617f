"""The program that a build calls: what it refuses, and what it writes. Nothing is compiled."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="pip install triton")

from lccl.backends.torch.triton import ahead

CLOSE = ahead.Variant("close", "float16", "", True, False)
COMPILED = ahead.Compiled(CLOSE, 90, "close_pixels", b"cubin", 0, 4, 94, 0, 13040, True, (), ())


@pytest.fixture(autouse=True)
def interpreter_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program switches the interpreter off in its process, which here is that of all tests."""
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "1"))


def fails(*_: object) -> ahead.Compiled:
    raise ImportError("cannot import name 'get_ptxas'\nand more")


def test_a_triton_that_does_not_compile_the_kernels_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ahead, "compile_variant", fails)
    assert ahead.main(["--probe"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "does not compile the kernels: cannot import name 'get_ptxas'" in said.err.splitlines()[-1]
    monkeypatch.setattr(ahead, "compile_variant", lambda *_: COMPILED)
    assert ahead.main(["--probe"]) == 0
    assert capsys.readouterr().out.startswith("3.")


def test_names_that_no_kernel_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ahead.main(["--out", str(tmp_path), "--only", "close-float16", "clos"]) == 1
    assert capsys.readouterr().err.startswith("there are no kernels clos; there are ")
    assert not [*tmp_path.iterdir()]


def test_plain_descriptors_have_as_many_flags_as_the_cubin_has_places_for() -> None:
    signature = {"x": "tensordesc<fp16[1,8]>", "n": "i32", "w": "tensordesc<fp16[8,1]>"}
    count = [len([*ahead.kinds_of(signature, False, n)]) for n in (1, 2)]
    assert count == [21, 23]
    assert [ahead._flags(signature, n + 2) for n in count] == [1, 2]


@pytest.mark.slow
def test_the_cubins_path_may_hold_any_sign(tmp_path: Path) -> None:
    """It stands in a string of the assembler's in one of C++."""
    folder = tmp_path / 'a "b" \\n é'
    folder.mkdir()
    known = dataclasses.replace(COMPILED, parameters=(ahead.Parameter(0, 8, "pointer", "y", 0),))
    ahead.write([known], folder)
    table = Path(__file__).parents[3] / "trt_plugin" / "kernel"
    (folder / "cuda_runtime_api.h").write_text("typedef int cudaError_t; typedef void *cudaStream_t;")
    command = ["g++", "-std=c++17", "-c", "cubins.cpp", "-I", str(table), "-I", ".", "-o", "cubins.o"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"cubin" in (folder / "cubins.o").read_bytes()
