"""Every kernel on every architecture: what the compiler made of it. Needs nvcc, no GPU."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compiler_reports import (
    Instructions,
    Resources,
    cuda_core_faults,
    local_memory_faults,
    most_loads_under_way,
    parse_ptxas,
    parse_sass,
    parse_sass_in_order,
    tensor_core_faults,
)
from conftest import ROOT
from lccl.backends.torch.cuda.interface import Dtype, Math
from lccl.backends.torch.cuda.library import Config, Library
from support.builds.cuda import ALL_ARCHITECTURES, Disassembler, architectures

TILES = [
    tuple(map(int, re.findall(r"\d+", row)))
    for row in re.findall(r"X\(([0-9, ]+)\)", (ROOT / "trt_plugin" / "kernel" / "tiles.h").read_text())
]
"""Rows of tiles.h."""
FILES = sorted(
    [f"mma_{m}x{n}_s{stages}_w{wm}x{wn}_{t}" for _, m, n, stages, wm, wn, *_ in TILES for t in ("float16", "bfloat16")]
    + ["simt_64x64_float32", "gate_float16", "gate_bfloat16", "gate_float32", "pack_float16", "pack_bfloat16"]
)
"""That CMake writes and compiles, without .cu."""
ARCHITECTURES = {name.removesuffix("-real") for name in architectures()}
PTX = {name for name in architectures() if not name.endswith("-real")}
"""PTX of the last serves what comes after it."""
DTYPES = {
    Math.MMA: (Dtype.FLOAT16, Dtype.BFLOAT16),
    Math.SIMT: (Dtype.FLOAT32,),
}
HELPERS = {"gate": tuple(Dtype), "pack": (Dtype.FLOAT16, Dtype.BFLOAT16)}
"""Kernels that are no configuration, one for each type."""
REGISTERS_PER_SM = 65536


def file_of(config: Config, dtype: Dtype) -> str:
    """The file, without its ending, that compiles a configuration's kernel; families share theirs."""
    return f"{config.name.split('-', 1)[1].replace('-', '_')}_{dtype.name.lower()}"


def configs_by_file(library: Library) -> dict[str, list[Config]]:
    """Which rows of the table each file computes."""
    found: dict[str, list[Config]] = {}
    for config in library.configs():
        if config.math == Math.TRITON:
            continue
        for dtype in DTYPES[config.math]:
            found.setdefault(file_of(config, dtype), []).append(config)
    return found


@pytest.fixture(scope="session")
def resources(cuda_library_path: Path) -> dict[str, list[Resources]]:
    """What ptxas said of each file, on each architecture."""
    reports = {name: cuda_library_path.parent / "ptxas" / f"{name}.cu.txt" for name in FILES}
    missing = [str(path) for path in reports.values() if not path.is_file()]
    assert not missing, f"not compiled, or compiled by something else than CMake: {missing}; remove {cuda_library_path.parent}"
    return {name: parse_ptxas(path.read_text()) for name, path in reports.items()}


@pytest.fixture(scope="session")
def sass(cuda_library_path: Path, disassembler: Disassembler) -> dict[tuple[str, str], Instructions]:
    """Instructions of each (mangled name, architecture) in the library itself."""

    def disassemble(arch: str) -> dict[tuple[str, str], Instructions]:
        return parse_sass(disassembler.run("-sass", "-arch", f"sm_{arch}", cuda_library_path))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {kernel: code for part in pool.map(disassemble, sorted(ARCHITECTURES)) for kernel, code in part.items()}


def test_all_architectures_are_those_of_the_build() -> None:
    (written,) = re.findall(r"set\(CMAKE_CUDA_ARCHITECTURES ([^)]*?) CACHE", (ROOT / "CMakeLists.txt").read_text())
    assert tuple(written.split()) == ALL_ARCHITECTURES


def test_there_is_a_file_for_each_kernel_of_the_table_and_no_other(cuda_library: Library) -> None:
    helpers = {f"{name}_{dtype.name.lower()}" for name, dtypes in HELPERS.items() for dtype in dtypes}
    assert set(FILES) == set(configs_by_file(cuda_library)) | helpers


def test_cmake_writes_these_files_and_no_others(cuda_library_path: Path) -> None:
    written = cuda_library_path.parent / "trt_plugin" / "kernel" / "instantiate"
    assert {path.stem for path in written.glob("*.cu")} == set(FILES)
    assert {path.name.partition(".")[0] for path in (cuda_library_path.parent / "ptxas").glob("*.cu.txt")} >= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_compiles_for_every_architecture_without_spills_and_within_its_registers(
    name: str, resources: dict[str, list[Resources]], cuda_library: Library
) -> None:
    assert sorted(r.arch for r in resources[name]) == sorted(ARCHITECTURES)
    configs = configs_by_file(cuda_library).get(name, [])
    limit = min([255, *(config.max_registers for config in configs)])
    assert [fault for r in resources[name] for fault in r.faults(limit)] == []


def test_as_many_blocks_fit_a_multiprocessor_as_the_table_says(
    resources: dict[str, list[Resources]], cuda_library: Library
) -> None:
    """Registers are handed to a warp in steps of 8 per thread."""
    checked = 0
    for name, configs in configs_by_file(cuda_library).items():
        for config in configs:
            threads = config.warps_m * config.warps_n * 32
            for r in resources[name]:
                registers = -(-r.registers // 8) * 8
                assert registers * threads * config.blocks_per_sm <= REGISTERS_PER_SM, f"{config.name}, {name}, sm_{r.arch}"
                checked += 1
    assert checked


def test_the_library_holds_each_kernel_for_each_architecture(
    resources: dict[str, list[Resources]], sass: dict[tuple[str, str], Instructions]
) -> None:
    assert set(sass) == {(r.function, r.arch) for reports in resources.values() for r in reports}
    assert len(sass) == len(FILES) * len(ARCHITECTURES)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_thread_of_the_gate_kernel_has_four_loads_under_way(
    dtype: str, cuda_library_path: Path, disassembler: Disassembler, resources: dict[str, list[Resources]]
) -> None:
    """Of x, before the first product of what they bring; with one, a multiprocessor's loads are a quarter of what it takes."""
    (function,) = {r.function for r in resources[f"gate_{dtype}"]}
    for arch in sorted(ARCHITECTURES):
        code = parse_sass_in_order(disassembler.run("-sass", "-arch", f"sm_{arch}", "-fun", function, cuda_library_path))
        (mine,) = code.values()
        assert most_loads_under_way(mine) >= 4, f"sm_{arch}"


def test_the_library_holds_ptx_for_architectures_to_come(
    cuda_library_path: Path, disassembler: Disassembler, resources: dict[str, list[Resources]]
) -> None:
    ptx = disassembler.run("-ptx", cuda_library_path)
    assert set(re.findall(r"^\.target sm_(\w+)", ptx, re.MULTILINE)) == PTX
    functions = {r.function for reports in resources.values() for r in reports}
    assert set(re.findall(r"^\.(?:visible|weak) \.entry (\w+)\(", ptx, re.MULTILINE)) == functions


@pytest.mark.parametrize("name", FILES)
def test_uses_the_instructions_that_it_is_written_for(
    name: str, resources: dict[str, list[Resources]], sass: dict[tuple[str, str], Instructions]
) -> None:
    kernel, _, dtype = name.rpartition("_")
    for r in resources[name]:
        instructions = sass[r.function, r.arch]
        faults = local_memory_faults(instructions)
        if kernel.startswith("mma"):
            faults += tensor_core_faults(instructions, dtype)
        elif kernel.startswith("simt"):
            faults += cuda_core_faults(instructions)
        assert faults == [], f"sm_{r.arch}"
