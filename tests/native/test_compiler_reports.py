"""The readers of compiler reports find the faults that they are for: in reports of kernels that have them."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from compiler_reports import (
    Resources,
    cuda_core_faults,
    local_memory_faults,
    matching,
    parse_ptxas,
    parse_sass,
    tensor_core_faults,
)
from support.builds.cuda import Disassembler, find_nvcc, why_no_cuda

FAULTY = Path(__file__).parent / "faulty.cu"

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5cleanPf' for 'sm_80'
ptxas info    : Function properties for _Z5cleanPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 864 bytes cmem[0]
ptxas info    : Compile time = 16.906 ms
ptxas info    : Compiling entry function '_Z6spillsPKfPf' for 'sm_120'
ptxas info    : Function properties for _Z6spillsPKfPf
    64 bytes stack frame, 56 bytes spill stores, 52 bytes spill loads
ptxas info    : Function properties for _Z6calledf
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 64 bytes cumulative stack size
"""

SASS = """\
	code for sm_80
	.target	sm_80

		Function : _Z5cleanPf
	.headerflags	@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                                /* 0x00000a0000017a02 */
                                                                                         /* 0x000fe40000000f00 */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R7], [R2.64] ;           /* 0x0000000002077fae */
        /*0020*/             @!UP1 UIADD3 UR4, UR4, 0x1, URZ ;                           /* 0x0000000002077fae */
		..........

	code for sm_120
	.target	sm_120

		Function : _Z6spillsPKfPf
	.headerflags	@"EF_CUDA_SM120"
        /*0090*/                   STL.64 [R1+0x30], R20 ;                               /* 0x0000301401007387 */
        /*10250*/                  LDL.LU R18, [R1+0x38] ;                               /* 0x0000380001127983 */
        /*10260*/                  LDL.LU R19, [R1+0x3c] ;                               /* 0x0000380001127983 */
"""

MMA = Counter({"HMMA.16816.F32": 32, "LDGSTS.E.BYPASS.LTC128B.128": 16, "LDGSTS.E.LTC128B.128.ZFILL": 16, "LDSM.16.M88.4": 20})


def test_ptxas_is_read_kernel_by_kernel() -> None:
    clean, spills = parse_ptxas(PTXAS)
    assert clean == Resources("_Z5cleanPf", "80", registers=31, stack=0, spill_stores=0, spill_loads=0)
    assert spills == Resources("_Z6spillsPKfPf", "120", registers=32, stack=72, spill_stores=56, spill_loads=52)
    assert clean.faults(31) == []
    assert clean.faults(30) == ["sm_80: uses 31 registers, more than 30"]
    assert spills.faults() == ["sm_120: spills 56 bytes and loads 52 again", "sm_120: has a stack frame of 72 bytes"]


def test_a_report_without_numbers_is_no_report() -> None:
    with pytest.raises(ValueError, match="nothing of registers or spills of _Z5cleanPf for sm_80"):
        parse_ptxas(PTXAS.splitlines()[1])


def test_sass_is_read_kernel_by_kernel() -> None:
    assert parse_sass(SASS) == {
        ("_Z5cleanPf", "80"): {"MOV": 1, "LDGSTS.E.BYPASS.LTC128B.128": 1, "UIADD3": 1},
        ("_Z6spillsPKfPf", "120"): {"STL.64": 1, "LDL.LU": 2},
    }
    with pytest.raises(ValueError, match="belongs to no kernel"):
        parse_sass(SASS.replace("Function :", "Something :"))


def test_names_of_instructions_are_whole() -> None:
    assert matching(Counter({"LDL": 1, "LDL.LU.64": 1, "LDLX": 1}), "LDL") == {"LDL", "LDL.LU.64"}


def test_local_memory_is_found() -> None:
    assert local_memory_faults(MMA) == []
    assert local_memory_faults(Counter({"STL.64": 1, "LDL": 2})) == ["uses local memory: LDL", "uses local memory: STL.64"]


@pytest.mark.parametrize(
    ("removed", "added", "dtype", "found"),
    [
        ("HMMA.16816.F32", "FFMA", "float16", r"multiplies by \[\]"),
        ("HMMA.16816.F32", "HMMA.16816.F16", "float16", "instead of HMMA.16816.F32"),
        ("", "", "bfloat16", "instead of HMMA.16816.F32.BF16"),
        ("LDGSTS.E.BYPASS.LTC128B.128", "LDGSTS.E.LTC128B", "float16", "LDGSTS of 128 bits"),
        ("LDSM.16.M88.4", "LDSM.16.M88.2", "float16", "instead of LDSM.16.M88.4"),
        ("LDSM.16.M88.4", "LDS.128", "float16", r"loads fragments by \[\]"),
    ],
)
def test_a_kernel_that_does_not_use_tensor_cores_as_it_should_is_found(
    removed: str, added: str, dtype: str, found: str
) -> None:
    assert tensor_core_faults(MMA, "float16") == []
    changed = Counter({name: count for name, count in MMA.items() if name != removed} | ({added: 1} if added else {}))
    (fault,) = tensor_core_faults(changed, dtype)
    assert re.search(found, fault)


def test_a_plain_kernel_without_float32_sums_is_found() -> None:
    assert cuda_core_faults(Counter({"FFMA": 64})) == []
    assert cuda_core_faults(Counter({"HFMA2": 64})) == ["has no FFMA"]
    assert cuda_core_faults(Counter({"FFMA": 64, "HMMA.1688.F32.TF32": 8})) == ["uses tensor cores: HMMA.1688.F32.TF32"]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """faulty.cu compiled for sm_80: the binary, and what ptxas said."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip(why_no_cuda())
    cubin = tmp_path_factory.mktemp("faulty") / "faulty.cubin"
    command = [nvcc, "-std=c++17", "-O3", "-arch=sm_80", "-Xptxas=-v", "-cubin", "-o", str(cubin), str(FAULTY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return cubin, done.stdout + done.stderr


def test_ptxas_tells_of_real_spills(faulty: tuple[Path, str]) -> None:
    faults = {r.function: r.faults(31) for r in parse_ptxas(faulty[1])}
    (spills,) = (f for name, f in faults.items() if "spills" in name)
    (indexes,) = (f for name, f in faults.items() if "indexesLocalMemory" in name)
    (copies,) = (f for name, f in faults.items() if "copiesNarrowly" in name)
    assert [f.split()[1] for f in spills] == ["spills", "has", "uses"]
    assert "sm_80: has a stack frame of 64 bytes" in indexes
    assert copies == []


def test_sass_tells_of_real_local_memory_and_narrow_copies(faulty: tuple[Path, str], disassembler: Disassembler) -> None:
    kernels = {function: code for (function, _), code in parse_sass(disassembler.run("-sass", faulty[0])).items()}
    (spills,) = (code for name, code in kernels.items() if "spills" in name)
    (indexes,) = (code for name, code in kernels.items() if "indexesLocalMemory" in name)
    (copies,) = (code for name, code in kernels.items() if "copiesNarrowly" in name)
    assert {f.split()[-1][:3] for f in local_memory_faults(spills)} == {"LDL", "STL"}
    assert {f.split()[-1][:3] for f in local_memory_faults(indexes)} == {"LDL", "STL"}
    assert local_memory_faults(copies) == []
    assert any("LDGSTS of 128 bits" in f for f in tensor_core_faults(copies, "float16"))
