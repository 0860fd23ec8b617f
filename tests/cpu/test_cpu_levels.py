"""The table of levels, and what the compiler made of each: their instructions, and nothing that another level could get."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.builds.cpu import Host, why_no_x86
from support.hosts.cpu import Level, LevelId, chosen_level, levels_of

AVX = re.compile(r"^\s*[0-9a-f]+:\s+(v[a-z]\w*)\s+(.*)$", re.MULTILINE)
NOT_AVX = ("verr", "verw")


# ---- the table -----------------------------------------------------------------------------------------------------------


def check_table(levels: list[Level]) -> None:
    ids = [level.id for level in levels]
    assert len(set(ids)) == len(ids)
    assert all(level.name == LevelId(level.id).name.lower() for level in levels)
    assert ids == sorted(ids, reverse=True), "best first"
    (portable,) = (level for level in levels if level.id == LevelId.PORTABLE)
    assert portable.runs
    for level in levels:
        assert level.vector_bytes in (4, 16, 32, 64)
        assert level.tile_rows >= 1
        assert level.tile_columns % (level.vector_bytes // 4) == 0


def test_table(cpu_host: Host) -> None:
    levels = levels_of(cpu_host)
    check_table(levels)
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    runs = {level.id for level in levels if level.runs}
    if not why_no_x86():
        assert {level.id for level in levels} == {LevelId.PORTABLE, LevelId.AVX2, LevelId.AVX512}
        assert (LevelId.AVX2 in runs) == {"avx2", "fma"}.issubset(flags)
        assert (LevelId.AVX512 in runs) == {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd"}.issubset(flags)
    assert chosen_level(cpu_host) == next(level.id for level in levels if level.runs)


def test_table_of_64_bit_arm(aarch64_host: Host) -> None:
    levels = levels_of(aarch64_host)
    check_table(levels)
    assert [(level.id, level.runs) for level in levels] == [(LevelId.NEON, True), (LevelId.PORTABLE, True)]
    assert levels[0].vector_bytes == 16
    assert chosen_level(aarch64_host) == LevelId.NEON


def test_lengths_of_vectors(cpu_host: Host, wide_host: Host) -> None:
    """The emulated wide level has the real one's geometry, or its tests would mean nothing."""
    real, emulated = (next(level for level in levels_of(host) if level.id == LevelId.AVX512) for host in (cpu_host, wide_host))
    assert emulated.runs
    assert (real.vector_bytes, real.tile_rows, real.tile_columns) == (
        emulated.vector_bytes,
        emulated.tile_rows,
        emulated.tile_columns,
    )
    assert real.vector_bytes == 64
    assert next(level for level in levels_of(cpu_host) if level.id == LevelId.AVX2).vector_bytes == 32


# ---- object files --------------------------------------------------------------------------------------------------------


def tool(name: str, *arguments: str | Path) -> str:
    """What one of binutils prints; skips where it is not."""
    if shutil.which(name) is None:
        pytest.skip(f"no {name}: it comes with binutils")
    command = [name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def avx_instructions(obj: Path) -> list[tuple[str, str]]:
    """Name and operands of every AVX instruction."""
    return [found for found in AVX.findall(tool("objdump", "-d", "--no-show-raw-insn", obj)) if found[0] not in NOT_AVX]


def register_kinds(instructions: list[tuple[str, str]], prefix: str) -> set[str]:
    """The kinds of registers, as in "ymm", of the instructions that begin so."""
    return {kind for name, operands in instructions if name.startswith(prefix) for kind in re.findall(r"%([xyz]mm)", operands)}


def shared_symbols(obj: Path) -> list[str]:
    """What the linker may take from this file for another one: definitions that several files may have, and code that runs
    when the library is loaded, on whatever machine."""
    weak = [line for line in tool("nm", "-C", obj).splitlines() if re.match(r"^[0-9a-f]+ [VWu] ", line)]
    return weak + re.findall(r"\.(?:init_array|ctors)\S*", tool("objdump", "-h", obj))


@pytest.fixture(scope="module")
def objects(cpu_host: Host) -> dict[str, Path]:
    """Object files of the kernels in the plain build, by the name of their source."""
    if why := why_no_x86():
        pytest.skip(why)
    found = {
        path.name.removesuffix(".cpp.o"): path for path in cpu_host.folder.rglob("*.cpp.o") if "cpu_host.dir" not in path.parts
    }
    assert {"interface", "pack", "plan", "level_avx2", "level_avx512", "level_portable", "level_neon"} <= found.keys()
    return found


def test_levels_use_their_own_instructions(objects: dict[str, Path]) -> None:
    avx2, avx512 = (avx_instructions(objects[f"level_{name}"]) for name in ("avx2", "avx512"))
    assert "ymm" in register_kinds(avx2, "vfmadd")
    assert not any("zmm" in operands or "%k" in operands for _, operands in avx2)
    assert "zmm" in register_kinds(avx512, "vfmadd")


def test_nothing_else_has_avx(objects: dict[str, Path]) -> None:
    """It would end the process on a machine without it."""
    found = {name: avx_instructions(path)[:3] for name, path in objects.items() if name not in ("level_avx2", "level_avx512")}
    assert not any(found.values()), found


def test_no_level_gives_its_code_to_another(objects: dict[str, Path]) -> None:
    """A function that several files define weakly is linked from one of them: from that of AVX-512, if it comes first."""
    found = {name: shared_symbols(path) for name, path in objects.items() if name.startswith("level_")}
    assert not any(found.values()), found


def inner_loops(obj: Path) -> dict[str, list[str]]:
    """The micro-kernel's functions, and of each the instructions of its innermost loop: from its prefetch to its end."""
    loops: dict[str, list[str]] = {}
    function, inside = "", False
    for line in tool("objdump", "-d", "-C", "--no-show-raw-insn", obj).splitlines():
        if heading := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            function, inside = heading[1], False
        elif "tile<" in function:
            inside = (inside or "\tprefetch" in line) and not re.search(r"\tj[a-z]+ ", line)
            if inside:
                loops.setdefault(function, []).append(line.strip())
    return loops


def on_the_stack(obj: Path) -> list[str]:
    """Instructions of innermost loops that use the stack for what belongs in a register."""
    return [f"{function}: {line}" for function, lines in inner_loops(obj).items() for line in lines if "(%rsp" in line]


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_the_micro_kernel_works_in_registers(objects: dict[str, Path], level: str) -> None:
    """GCC 12 kept the weights of two AVX-512 tiles on the stack, which cost half of the time more."""
    obj = objects[f"level_{level}"]
    rows = {"avx2": 6, "avx512": 8}[level]
    loops = inner_loops(obj)
    assert len(loops) == 2 * rows, "one for each number of rows and of vectors"
    assert all(any("vfmadd" in line for line in lines) for lines in loops.values())
    assert not on_the_stack(obj)


FAULTY = """
#include <cmath>
#include <immintrin.h>
template <int kROWS>
__attribute__((noipa)) void tile(float const* x, float const* w, float* y, int n)
{
    __m256 sum[kROWS] = {};
    for (int c = 0; c < n; ++c)
    {
        __builtin_prefetch(w + c, 0, 2);
#pragma GCC unroll 64
        for (int i = 0; i < kROWS; ++i) { sum[i] = _mm256_fmadd_ps(_mm256_loadu_ps(w + c), _mm256_set1_ps(x[i * n + c]), sum[i]); }
    }
#pragma GCC unroll 64
    for (int i = 0; i < kROWS; ++i) { _mm256_storeu_ps(y + 8 * i, sum[i]); }
}
template void tile<48>(float const*, float const*, float*, int);
inline __attribute__((noipa)) float shared(float const* a, int n)
{
    float sum = 0;
    for (int i = 0; i < n; ++i) { sum += a[i] * a[i]; }
    return sum;
}
float const atStart = std::sqrt(static_cast<float>(__builtin_ia32_rdtsc()));
float use(float const* a) { return shared(a, 64) + atStart; }
"""


def test_what_must_not_be_there_would_be_found(objects: dict[str, Path], tmp_path: Path) -> None:
    source, obj = tmp_path / "faulty.cpp", tmp_path / "faulty.o"
    source.write_text(FAULTY)
    subprocess.run(["g++", "-O3", "-march=x86-64-v4", "-c", str(source), "-o", str(obj)], check=True)
    assert avx_instructions(obj)
    assert on_the_stack(obj)
    words = " ".join(shared_symbols(obj))
    assert "shared(float const*, int)" in words
    assert ".init_array" in words
