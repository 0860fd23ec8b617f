"""The table of instruction sets, and what the compiler made of each: their instructions, and nothing that another instruction set could get."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.builds.cpu import Host, why_no_x86
from support.hosts.cpu import Isa, IsaId, chosen_isa, isas_of

AVX = re.compile(r"^\s*[0-9a-f]+:\s+(v[a-z]\w*)\s+(.*)$", re.MULTILINE)
NOT_AVX = ("verr", "verw")


# ---- the table -----------------------------------------------------------------------------------------------------------


def check_table(isas: list[Isa]) -> None:
    ids = [isa.id for isa in isas]
    assert len(set(ids)) == len(ids)
    assert all(isa.name == IsaId(isa.id).name.lower() for isa in isas)
    assert ids == sorted(ids, reverse=True), "best first"
    (portable,) = (isa for isa in isas if isa.id == IsaId.PORTABLE)
    assert portable.runs
    for isa in isas:
        assert isa.vector_bytes in (4, 16, 32, 64)
        assert isa.tile_rows >= 1
        assert isa.tile_columns % (isa.vector_bytes // 4) == 0


def test_table(cpu_host: Host) -> None:
    isas = isas_of(cpu_host)
    check_table(isas)
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    runs = {isa.id for isa in isas if isa.runs}
    if not why_no_x86():
        assert {isa.id for isa in isas} == {IsaId.PORTABLE, IsaId.AVX2, IsaId.AVX512}
        assert (IsaId.AVX2 in runs) == {"avx2", "fma"}.issubset(flags)
        assert (IsaId.AVX512 in runs) == {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd"}.issubset(flags)
    assert chosen_isa(cpu_host) == next(isa.id for isa in isas if isa.runs)


def test_table_of_64_bit_arm(aarch64_host: Host) -> None:
    isas = isas_of(aarch64_host)
    check_table(isas)
    assert [(isa.id, isa.runs) for isa in isas] == [(IsaId.NEON, True), (IsaId.PORTABLE, True)]
    assert isas[0].vector_bytes == 16
    assert chosen_isa(aarch64_host) == IsaId.NEON


def test_lengths_of_vectors(cpu_host: Host, wide_host: Host) -> None:
    """The emulated wide instruction set has the real one's geometry, or its tests would mean nothing."""
    real, emulated = (next(isa for isa in isas_of(host) if isa.id == IsaId.AVX512) for host in (cpu_host, wide_host))
    assert emulated.runs
    assert (real.vector_bytes, real.tile_rows, real.tile_columns) == (
        emulated.vector_bytes,
        emulated.tile_rows,
        emulated.tile_columns,
    )
    assert real.vector_bytes == 64
    assert next(isa for isa in isas_of(cpu_host) if isa.id == IsaId.AVX2).vector_bytes == 32


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
    assert {"interface", "pack", "plan", "isa_avx2", "isa_avx512", "isa_portable", "isa_neon"} <= found.keys()
    return found


def test_instruction_sets_use_their_own_instructions(objects: dict[str, Path]) -> None:
    avx2, avx512 = (avx_instructions(objects[f"isa_{name}"]) for name in ("avx2", "avx512"))
    assert "ymm" in register_kinds(avx2, "vfmadd")
    assert not any("zmm" in operands or "%k" in operands for _, operands in avx2)
    assert "zmm" in register_kinds(avx512, "vfmadd")


def test_nothing_else_has_avx(objects: dict[str, Path]) -> None:
    """It would end the process on a machine without it."""
    found = {name: avx_instructions(path)[:3] for name, path in objects.items() if name not in ("isa_avx2", "isa_avx512")}
    assert not any(found.values()), found


def test_no_instruction_set_gives_its_code_to_another(objects: dict[str, Path]) -> None:
    """A function that several files define weakly is linked from one of them: from that of AVX-512, if it comes first."""
    found = {name: shared_symbols(path) for name, path in objects.items() if name.startswith("isa_")}
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


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_the_micro_kernel_works_in_registers(objects: dict[str, Path], isa: str) -> None:
    """GCC 12 kept the weights of two AVX-512 tiles on the stack, which cost half of the time more."""
    obj = objects[f"isa_{isa}"]
    rows = {"avx2": 6, "avx512": 8}[isa]
    loops = inner_loops(obj)
    assert len(loops) == 2 * rows, "one for each number of rows and of vectors"
    assert all(any("vfmadd" in line for line in lines) for lines in loops.values())
    assert not on_the_stack(obj)


FAULTY = """
#include <cmath>
#include <immintrin.h>
template <int kRows>
__attribute__((noipa)) void tile(float const* x, float const* w, float* y, int n)
{
    __m256 sum[kRows] = {};
    for (int c = 0; c < n; ++c)
    {
        __builtin_prefetch(w + c, 0, 2);
#pragma GCC unroll 64
        for (int i = 0; i < kRows; ++i) { sum[i] = _mm256_fmadd_ps(_mm256_loadu_ps(w + c), _mm256_set1_ps(x[i * n + c]), sum[i]); }
    }
#pragma GCC unroll 64
    for (int i = 0; i < kRows; ++i) { _mm256_storeu_ps(y + 8 * i, sum[i]); }
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
