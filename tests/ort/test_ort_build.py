"""Building liblccl_ort.so: what is in it, and what happens where something is missing. tests/packaging looks at wheels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from support.builds.distributions import NOWHERE

SYSTEM = ("", "/onnxruntime", "/onnxruntime/core/session")
"""Where below a system's include folders its header of ONNX Runtime may be."""


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


def configure(bare_source: Path, build: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As pip's build does, where the system has no header of ONNX Runtime."""
    folders = [f"{root}/include{below}" for root in ("/usr", "/usr/local") for below in SYSTEM]
    hidden = f"-DCMAKE_IGNORE_PATH={';'.join(folders)}"
    return run("cmake", "-S", bare_source, "-B", build, "-DSKBUILD=ON", hidden, *options, **environment)


def flat(text: str) -> str:
    """CMake breaks its messages into lines."""
    return " ".join(text.split())


def test_without_a_compiler_it_says_what_is_lost(bare_source: Path, tmp_path: Path) -> None:
    done = configure(bare_source, tmp_path, CXX="/nonexistent/g++")
    assert done.returncode == 0, done.stderr
    assert "Without liblccl_ort.so: there is no C++ compiler, so ONNX Runtime computes closed pixels too" in flat(done.stderr)


def test_without_a_header_and_a_network_it_says_what_is_lost(bare_source: Path, tmp_path: Path) -> None:
    done = configure(bare_source, tmp_path, f"-DLCCL_DEBIAN_MIRROR={NOWHERE}", f"-DLCCL_ONNXRUNTIME_RAW={NOWHERE}")
    assert done.returncode == 0, done.stderr
    assert "Without liblccl_ort.so: ONNX Runtime then computes closed pixels too" in flat(done.stderr)
    assert "Set LCCL_ONNXRUNTIME_INCLUDE to the folder of onnxruntime_c_api.h" in flat(done.stderr)
    assert not list(tmp_path.rglob("onnxruntime_c_api.h"))


@pytest.mark.parametrize("which", ["package", "header"])
def test_a_download_that_is_another_file_is_not_used(bare_source: Path, tmp_path: Path, which: str) -> None:
    package = tmp_path / "mirror/pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb"
    header = tmp_path / "mirror/include/onnxruntime/core/session/onnxruntime_c_api.h"
    wrong = package if which == "package" else header
    wrong.parent.mkdir(parents=True)
    wrong.write_text("InferOutputShapeFn")
    mirror = f"file://{tmp_path}/mirror"
    done = configure(bare_source, tmp_path / "build", f"-DLCCL_DEBIAN_MIRROR={mirror}", f"-DLCCL_ONNXRUNTIME_RAW={mirror}")
    assert done.returncode == 0, done.stderr
    assert "its sha256 is" in done.stdout
    assert "Without liblccl_ort.so" in flat(done.stderr)


def test_the_header_alone_does_where_the_package_is_gone(onnxruntime_headers: Path, bare_source: Path, tmp_path: Path) -> None:
    known = onnxruntime_headers / "onnxruntime_c_api.h"
    if "onnxruntime-1.21.0" not in known.parts:
        pytest.skip("the header here is not the one that is downloaded")
    header = tmp_path / "include/onnxruntime/core/session/onnxruntime_c_api.h"
    header.parent.mkdir(parents=True)
    shutil.copy(known, header)
    done = configure(
        bare_source, tmp_path / "build", f"-DLCCL_DEBIAN_MIRROR={NOWHERE}", f"-DLCCL_ONNXRUNTIME_RAW=file://{tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert f"ONNX Runtime's header: {tmp_path / 'build'}" in done.stdout


def test_a_named_header_is_taken_or_refused(bare_source: Path, tmp_path: Path) -> None:
    for folder in ("empty", "old", "new"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old" / "onnxruntime_c_api.h").write_text("struct OrtApi;")
    (tmp_path / "new" / "onnxruntime_c_api.h").write_text("InferOutputShapeFn")
    said = {}
    for folder in ("empty", "old", "new"):
        done = configure(bare_source, tmp_path / f"build-{folder}", LCCL_ONNXRUNTIME_INCLUDE=str(tmp_path / folder))
        said[folder] = (done.returncode, flat(done.stdout + done.stderr))
    assert said["empty"][0] != 0
    assert "which has no onnxruntime_c_api.h" in said["empty"][1]
    assert said["old"][0] != 0
    assert "is older than 1.17" in said["old"][1]
    assert said["new"][0] == 0
    assert f"ONNX Runtime's header: {tmp_path / 'new'}" in said["new"][1]


def test_who_asks_for_cuda_gets_no_more(bare_source: Path, tmp_path: Path) -> None:
    """lccl-build-plugin compiles the CUDA kernels alone."""
    text = (bare_source / "CMakeLists.txt").read_text()
    assert "SKBUILD OR NOT LCCL_CUDA" in text
    done = run("cmake", "-S", bare_source, "-B", tmp_path, "-DLCCL_CUDA=OFF", "-DLCCL_EMULATOR=OFF", "-DLCCL_ORT=OFF")
    assert done.returncode == 0, done.stderr
    assert "Nothing is compiled" in done.stdout
