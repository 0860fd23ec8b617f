"""What Triton compiles the kernels to, on a machine without a GPU: instructions, registers, no spills."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
COMPILE = """
import os, sys
os.environ.pop("TRITON_INTERPRET", None)
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lccl.backends.torch.triton import kernels
from lccl.backends.torch.triton.configurations import CONFIGURATIONS, SIDE
name, arch, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
c = next(c for c in CONFIGURATIONS if c.name == name)
constants = dict(HAS_RESIDUAL=True, PRECISION="ieee", OPERAND=tl.float16, BN=c.tile_n, BK=c.tile_k)
kinds = dict(bias="*fp32", scale="*fp32", offset="*fp32", gmap="*fp32", cells="*i32", count="*i32",
             alpha="fp32", post_alpha="fp32", dense_share="fp32")
if c.family == "rows":
    function = kernels.conv_rows
    constants["BM"] = c.tile_m
    kinds |= dict.fromkeys(("x", "w", "residual", "y"), "*fp16")
else:
    function = kernels.conv_boxes
    constants["SIDE"] = SIDE
    box, tile = (f"tensordesc<fp16[1,{SIDE},{SIDE},{n}]>" for n in (c.tile_k, c.tile_n))
    kinds |= dict(x=box, w=f"tensordesc<fp16[{c.tile_n},1,{c.tile_k}]>", residual=tile, y=tile)
signature = {n: "constexpr" if n in constants else kinds.get(n, "i32") for n in function.arg_names}
aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(signature) if signature[n][0] == "*" or n in ("C", "K")}
source = ASTSource(function, signature, constexprs=constants, attrs=aligned)
made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(num_warps=c.warps, num_stages=c.stages))
open(out, "wb").write(made.asm["cubin"])
print(made.metadata.shared)
"""
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
"""The most shared memory of a block by compute capability (CUDA C++ Programming Guide)."""


def compiled(name: str, arch: int, folder: Path) -> tuple[int, Mapping[str, int]]:
    """Bytes of shared memory, and how often each instruction stands in the SASS."""
    import sys

    triton = pytest.importorskip("triton", reason="pip install triton")
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    cubin = folder / "kernel.cubin"
    made = subprocess.run(
        [sys.executable, "-c", COMPILE, name, str(arch), str(cubin)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    sass = subprocess.run([tools / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
    words = [line.split("*/")[1].split()[0:2] for line in sass.splitlines() if "*/" in line and ";" in line]
    opcodes = [next((w for w in pair if not w.startswith("@")), "").split(".")[0] for pair in words if pair]
    return int(made.stdout.split()[-1]), {opcode: opcodes.count(opcode) for opcode in set(opcodes)}


@pytest.mark.parametrize(
    ("name", "arch", "present", "absent"),
    [
        ("rows_128x64", 90, ("HGMMA", "LDGSTS"), ("HMMA",)),
        ("rows_64x64", 80, ("HMMA", "LDGSTS"), ()),
        ("boxes_2x64x128", 90, ("HGMMA", "UTMALDG", "UTMASTG"), ("HMMA", "LDGSTS")),
        ("boxes_2x64x64", 100, ("UTCHMMA", "UTMALDG"), ("LDGSTS",)),
        ("boxes_2x64x64", 120, ("HMMA", "UTMALDG"), ("LDGSTS",)),
    ],
)
def test_instructions_and_no_spills(
    name: str, arch: int, present: tuple[str, ...], absent: tuple[str, ...], tmp_path: Path
) -> None:
    shared, opcodes = compiled(name, arch, tmp_path)
    assert shared <= SHARED_BYTES[arch]
    assert [o for o in present if not opcodes.get(o)] == []
    assert [o for o in (*absent, "STL", "LDL") if opcodes.get(o)] == []
