"""Building liblccl_ort.so: what is in it, in the wheel, and what happens where something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from lccl.op.reference import lccl_conv
from support.builds.cmake import why_no_cmake
from support.cases.op_cases import CASES
from support.graphs.models import case_model
from support.hosts.onnxruntime import assert_close, infer, open_session

NOWHERE = "http://127.0.0.1:9"
"""A server that is not there."""
SYSTEM = ("", "/onnxruntime", "/onnxruntime/core/session")
"""Where below a system's include folders its header of ONNX Runtime may be."""
COPIED = ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "contract", "exporter", "ort_op", "trt_plugin")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(c) for c in command]
    return subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900, env=os.environ | environment
    )


def output_of(*command: str | Path) -> str:
    done = run(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the library -----------------------------------------------------------------------------------------------------


def test_exports_what_onnx_runtime_looks_for(ort_library: Path) -> None:
    lines = output_of("nm", "-D", "--defined-only", ort_library).splitlines()
    assert {line.split()[-1] for line in lines} == {"RegisterCustomOps", "lccl_ort_describe"}


def test_needs_nothing_of_onnx_runtime(ort_library: Path) -> None:
    assert not [s for s in output_of("nm", "-D", "--undefined-only", ort_library).split() if s.startswith(("Ort", "_ZN3Ort"))]
    dynamic = output_of("readelf", "-d", "-W", ort_library)
    assert not re.search(r"\((RPATH|RUNPATH)\)", dynamic)
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    assert {re.sub(r"(\.so|-x86-64|-aarch64).*", "", name) for name in needed} <= {
        "libc",
        "libgcc_s",
        "libm",
        "libstdc++",
        "libpthread",
        "ld-linux",
    }


def test_no_function_of_an_instruction_set_can_stand_in_for_another(ort_library: Path) -> None:
    """A linker keeps one of several weak functions: with AVX2 in it, it would end up in what runs everywhere."""
    objects = list((ort_library.parent / "ort_op" / "kernel").rglob("isa_*.o"))
    assert len(objects) == 4
    for file in objects:
        weak = [line for line in output_of("nm", "-C", file).splitlines() if re.search(r" [WVu] ", line)]
        assert weak == [], file.name


# ---- configuring -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's files without anything that was built."""
    if why := why_no_cmake():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("source")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("lib", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def configure(source: Path, build: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As pip's build does, where the system has no header of ONNX Runtime."""
    folders = [f"{root}/include{below}" for root in ("/usr", "/usr/local") for below in SYSTEM]
    hidden = f"-DCMAKE_IGNORE_PATH={';'.join(folders)}"
    return run("cmake", "-S", source, "-B", build, "-DSKBUILD=ON", hidden, *options, **environment)


def flat(text: str) -> str:
    """CMake breaks its messages into lines."""
    return " ".join(text.split())


def test_without_a_compiler_it_says_what_is_lost(source: Path, tmp_path: Path) -> None:
    done = configure(source, tmp_path, CXX="/nonexistent/g++")
    assert done.returncode == 0, done.stderr
    assert "Without liblccl_ort.so: there is no C++ compiler, so ONNX Runtime computes closed pixels too" in flat(done.stderr)


def test_without_a_header_and_a_network_it_says_what_is_lost(source: Path, tmp_path: Path) -> None:
    done = configure(source, tmp_path, f"-DLCCL_DEBIAN_MIRROR={NOWHERE}", f"-DLCCL_ONNXRUNTIME_RAW={NOWHERE}")
    assert done.returncode == 0, done.stderr
    assert "Without liblccl_ort.so: ONNX Runtime then computes closed pixels too" in flat(done.stderr)
    assert "Set LCCL_ONNXRUNTIME_INCLUDE to the folder of onnxruntime_c_api.h" in flat(done.stderr)
    assert not list(tmp_path.rglob("onnxruntime_c_api.h"))


@pytest.mark.parametrize("which", ["package", "header"])
def test_a_download_that_is_another_file_is_not_used(source: Path, tmp_path: Path, which: str) -> None:
    package = tmp_path / "mirror/pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb"
    header = tmp_path / "mirror/include/onnxruntime/core/session/onnxruntime_c_api.h"
    wrong = package if which == "package" else header
    wrong.parent.mkdir(parents=True)
    wrong.write_text("InferOutputShapeFn")
    mirror = f"file://{tmp_path}/mirror"
    done = configure(source, tmp_path / "build", f"-DLCCL_DEBIAN_MIRROR={mirror}", f"-DLCCL_ONNXRUNTIME_RAW={mirror}")
    assert done.returncode == 0, done.stderr
    assert "its sha256 is" in done.stdout
    assert "Without liblccl_ort.so" in flat(done.stderr)


def test_the_header_alone_does_where_the_package_is_gone(onnxruntime_headers: Path, source: Path, tmp_path: Path) -> None:
    known = onnxruntime_headers / "onnxruntime_c_api.h"
    if "onnxruntime-1.21.0" not in known.parts:
        pytest.skip("the header here is not the one that is downloaded")
    header = tmp_path / "include/onnxruntime/core/session/onnxruntime_c_api.h"
    header.parent.mkdir(parents=True)
    shutil.copy(known, header)
    done = configure(source, tmp_path / "build", f"-DLCCL_DEBIAN_MIRROR={NOWHERE}", f"-DLCCL_ONNXRUNTIME_RAW=file://{tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f"ONNX Runtime's header: {tmp_path / 'build'}" in done.stdout


def test_a_named_header_is_taken_or_refused(source: Path, tmp_path: Path) -> None:
    for folder in ("empty", "old", "new"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old" / "onnxruntime_c_api.h").write_text("struct OrtApi;")
    (tmp_path / "new" / "onnxruntime_c_api.h").write_text("InferOutputShapeFn")
    said = {}
    for folder in ("empty", "old", "new"):
        done = configure(source, tmp_path / f"build-{folder}", LCCL_ONNXRUNTIME_INCLUDE=str(tmp_path / folder))
        said[folder] = (done.returncode, flat(done.stdout + done.stderr))
    assert said["empty"][0] != 0
    assert "which has no onnxruntime_c_api.h" in said["empty"][1]
    assert said["old"][0] != 0
    assert "is older than 1.17" in said["old"][1]
    assert said["new"][0] == 0
    assert f"ONNX Runtime's header: {tmp_path / 'new'}" in said["new"][1]


def test_who_asks_for_cuda_gets_no_more(source: Path, tmp_path: Path) -> None:
    """lccl-build-plugin compiles the CUDA kernels alone."""
    text = (source / "CMakeLists.txt").read_text()
    assert "SKBUILD OR NOT LCCL_CUDA" in text
    done = run("cmake", "-S", source, "-B", tmp_path, "-DLCCL_CUDA=OFF", "-DLCCL_EMULATOR=OFF", "-DLCCL_ORT=OFF")
    assert done.returncode == 0, done.stderr
    assert "Nothing is compiled" in done.stdout


# ---- the wheel -------------------------------------------------------------------------------------------------------


def wheel(source: Path, folder: Path, *options: str, **environment: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, *options, source]
    done = run(*command, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = folder.glob("lccl-*.whl")
    return found


def test_the_wheel_has_a_library_that_works(onnxruntime_headers: Path, source: Path, tmp_path: Path) -> None:
    found = wheel(source, tmp_path, LCCL_ONNXRUNTIME_INCLUDE=str(onnxruntime_headers))
    python, abi, platform = found.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"
    with zipfile.ZipFile(found) as archive:
        assert [n for n in archive.namelist() if n.endswith(".so")] == ["lccl/lib/liblccl_ort.so"]
        archive.extract("lccl/lib/liblccl_ort.so", tmp_path)
    model, feed = case_model(CASES[0])
    got = infer(open_session(model, tmp_path / "lccl/lib/liblccl_ort.so"), feed)
    assert_close(got, lccl_conv(CASES[0].inputs(), CASES[0].attributes), np.float32)


def test_without_a_compiler_the_wheel_is_made_all_the_same(source: Path, tmp_path: Path) -> None:
    found = wheel(source, tmp_path, "-C", f"build-dir={tmp_path / 'build'}", CXX="/nonexistent/g++")
    names = zipfile.ZipFile(found).namelist()
    assert "lccl/op/contract.py" in names
    assert "lccl/native/CMakeLists.txt" in names
    assert not [n for n in names if n.endswith(".so")]


def test_with_a_compiler_that_fails_the_wheel_is_made_all_the_same(source: Path, tmp_path: Path) -> None:
    options = ("-C", f"build-dir={tmp_path / 'build'}", "-C", "cmake.define.CMAKE_CXX_FLAGS=--no-such-flag")
    names = zipfile.ZipFile(wheel(source, tmp_path, *options)).namelist()
    assert "lccl/op/contract.py" in names
    assert not [n for n in names if n.endswith(".so")]
