"""The kernels' library and header from outside: exported symbols, what it links to, what it includes, who can include it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from support.builds.cmake import why_no_cmake
from support.builds.cuda import find_nvcc, why_no_cuda

KERNEL = ROOT / "trt_plugin" / "kernel"
HEADER = KERNEL / "lccl_cuda.h"
STAND_IN = ROOT / "tests" / "emulator" / "include"
"""Has what the header needs of CUDA's runtime, so that the header compiles without a toolkit."""

DEPENDENCIES = {
    *("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"),
    *("libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
}
"""Shared libraries that the kernels may need: the C and C++ runtimes. CUDA's runtime is inside, the driver is looked for later."""

CUDA_HEADERS = {"cuda.h", "cuda_runtime_api.h", "cuda_fp16.h", "cuda_bf16.h"}
C_HEADERS = {"stddef.h", "stdint.h", "string.h"}
VECTOR_HEADERS = {"immintrin.h", "arm_neon.h"}
MACHINE = "machine_emulated.h"
"""The emulated machine's side of machine.h."""


def run(*command: str | Path) -> str:
    """What a command prints; its failure fails the test with what it said."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def need(tool: str) -> str:
    """Path of a tool; skips where there is none."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"no {tool}: install binutils and gcc")
    return path


def declared(header: str) -> set[str]:
    """Functions that a header exports."""
    return set(re.findall(r"^LCCL_API [^;]*?\b(lccl_\w+)\(", header, re.MULTILINE))


def exported(library: Path) -> set[str]:
    """Names that a shared library defines for others."""
    lines = run(need("nm"), "-D", "--defined-only", library).splitlines()
    return {line.split()[-1].split("@")[0] for line in lines}


def includes(source: str) -> list[str]:
    """What a source file includes, with its quotes or brackets."""
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*(<[^>]*>|"[^"]*")', source, re.MULTILINE)


def is_allowed(include: str, folder: Path = KERNEL) -> bool:
    """True for files of the folder and of the contract, C++'s and C's headers, processors' and three of CUDA's; no framework's
    header is one of these."""
    name = include[1:-1]
    if include.startswith('"'):
        return (
            name == MACHINE
            or (name.startswith("contract/") and (ROOT / name).is_file())
            or (folder / name.removeprefix("../")).is_file()
        )
    return name in CUDA_HEADERS | C_HEADERS | VECTOR_HEADERS or re.fullmatch(r"[a-z_]+", name) is not None


def test_functions_of_the_header_are_found() -> None:
    found = declared(HEADER.read_text())
    assert {"lccl_conv_launch", "lccl_conv_config_at", "lccl_device_query"} <= found
    assert len(found) == len(re.findall(r"^LCCL_API ", HEADER.read_text(), re.MULTILINE))


def test_exports_what_the_header_declares_and_nothing_else(cuda_library_path: Path) -> None:
    assert exported(cuda_library_path) == declared(HEADER.read_text())


def test_the_emulated_library_has_the_same_interface(emulator_library_path: Path) -> None:
    ours = {name for name in exported(emulator_library_path) if name.startswith("lccl_") and "emulator" not in name}
    assert ours == declared(HEADER.read_text())


def test_needs_no_framework_and_no_cuda_library(cuda_library_path: Path) -> None:
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", run(need("readelf"), "-d", "-W", cuda_library_path)))
    assert "libc.so.6" in needed
    assert needed <= DEPENDENCIES


def test_looks_for_nothing_on_the_machine_that_built_it(cuda_library_path: Path) -> None:
    assert not re.search(r"\((RPATH|RUNPATH)\)", run(need("readelf"), "-d", "-W", cuda_library_path))


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        ("contract", ("attributes.h", "<string>")),
        ("ort_op/kernel", ("vector.h", "<immintrin.h>")),
        ("trt_plugin/kernel", ("lccl_cuda.h", "<cuda_runtime_api.h>")),
    ],
)
def test_sources_include_no_framework(folder: str, known: tuple[str, str]) -> None:
    sources = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".h", ".cuh", ".cu", ".cpp")]
    found = {path.name: includes(path.read_text()) for path in sources}
    name, include = known
    assert include in found[name]
    assert [f"{name} includes {i}" for name, lines in found.items() for i in lines if not is_allowed(i, ROOT / folder)] == []


@pytest.mark.parametrize(
    "line",
    [
        "#include <NvInfer.h>",
        '#include "NvInfer.h"',
        "  # include <torch/extension.h>",
        "#include <ATen/ATen.h>",
        "#include <onnxruntime_c_api.h>",
        "#include <c10/cuda/CUDAStream.h>",
    ],
)
def test_a_framework_is_recognised(line: str) -> None:
    (include,) = includes(f"// kernels\n{line}\n")
    assert not is_allowed(include)


def cuda_include_folder() -> str:
    """Of the toolkit that nvcc belongs to; skips where there is none."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc: the header is compiled against the CUDA toolkit's own where that is on PATH")
    done = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False)
    found = re.search(r'INCLUDES="-I(.+?)"', done.stdout + done.stderr)
    assert found, f"{nvcc} --dryrun names no include folder"
    return found[1]


@pytest.mark.parametrize("cuda", ["toolkit", "stand-in"])
@pytest.mark.parametrize(("compiler", "language", "standard"), [("gcc", "c", "c11"), ("g++", "c++", "c++17")])
def test_the_header_compiles_without_a_warning(compiler: str, language: str, standard: str, cuda: str, tmp_path: Path) -> None:
    folder = cuda_include_folder() if cuda == "toolkit" else str(STAND_IN)
    source = tmp_path / "includes.txt"
    source.write_text(
        '#include "lccl_cuda.h"\n#include "lccl_cuda.h"\nint abi(void);\nint abi(void) { return LCCL_CUDA_ABI; }\n'
    )
    strict = ("-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only")
    run(need(compiler), "-x", language, f"-std={standard}", *strict, "-I", KERNEL, "-isystem", folder, source)


@pytest.mark.parametrize("cuda", ["ON", "OFF"])
def test_ninja_takes_the_build_files(tmp_path: Path, cuda: str) -> None:
    """It refuses a file that goes under two names; make does not."""
    if shutil.which("ninja") is None:
        pytest.skip("no ninja: pip install ninja, or Debian's ninja-build")
    if why := why_no_cuda() if cuda == "ON" else why_no_cmake():
        pytest.skip(why)
    settings = (f"-DLCCL_CUDA={cuda}", f"-DLCCL_EMULATOR={'OFF' if cuda == 'ON' else 'ON'}", "-DLCCL_ORT=OFF")
    run("cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(tmp_path), "-DCMAKE_CUDA_ARCHITECTURES=90-real", *settings)
    target = "lccl_cuda" if cuda == "ON" else "lccl_emulator"
    assert target in run("ninja", "-C", str(tmp_path), "-t", "query", target)
