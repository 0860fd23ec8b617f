"""Compiles the Triton kernels for GPUs that are not here, and reads what came of it.

``make kernels-check`` compiles all configurations and prints their table; tests take a share. What
is compiled is what PyTorch's path launches (``launch.py``), with programmatic dependent launch
where an architecture has it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lccl.backends.torch.triton.configurations import CONFIGURATIONS, PROGRAMMATIC_LAUNCH, SHARED_KIB, SIDE, misfit

CAPABILITIES = (80, 86, 89, 90, 100, 120)
TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
HELPERS = ("gate", "close")
PRODUCTS = {8: "HMMA", 9: "HGMMA", 10: "UTCHMMA", 12: "HMMA"}
"""The tensor cores' instruction by major compute capability."""
GLOBAL = re.compile(r"(LDG|STG|LDGSTS|UTMALDG|UTMASTG|UBLKCP|ATOM|ATOMG|RED|REDG|LD|ST)(\.|$)")
"""What reads or writes a GPU's memory."""
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


@dataclass(frozen=True)
class Compiled:
    """One kernel, compiled."""

    name: str
    """A configuration, or "gate" or "close"."""
    dtype: str
    capability: int
    shared: int
    """Bytes of a block."""
    registers: int
    """Of a thread."""
    stack: int
    """Bytes of a thread."""
    opcodes: Mapping[str, int]
    """How often each instruction stands in the SASS, without its modifiers."""
    before_wait: int
    """Accesses to memory ahead of the wait for the kernel before; -1 where there is no wait."""

    def faults(self) -> list[str]:
        """What it must not have, or has not and must: a sentence each."""
        found = []
        spills = sum(self.opcodes.get(opcode, 0) for opcode in ("STL", "LDL"))
        if spills or self.stack:
            found.append(f"has {spills} accesses to local memory, and a stack of {self.stack} bytes")
        limit = SHARED_KIB.get(self.capability, 99) * 1024
        if self.shared > limit:
            found.append(f"takes {self.shared:,} bytes of shared memory of {limit:,}")
        if self.registers * warps_of(self.name) * 32 > 65536 or self.registers > 255:
            found.append(f"takes {self.registers} registers a thread, more than a multiprocessor has")
        if (self.before_wait >= 0) != (self.capability >= PROGRAMMATIC_LAUNCH):
            found.append("waits for the kernel before, or does not, where it should not, or should")
        if self.before_wait > 0:
            found.append(f"reads or writes memory {self.before_wait} times ahead of the wait for the kernel before")
        wanted, unwanted = _expected(self.name, self.capability)
        found += [f"has no {opcode}" for opcode in wanted if not self.opcodes.get(opcode)]
        found += [f"has {opcode}" for opcode in unwanted if self.opcodes.get(opcode)]
        return found


def _expected(name: str, capability: int) -> tuple[list[str], list[str]]:
    """The instructions that a kernel has to have, and those that it must not have."""
    if name in HELPERS:
        return [], []
    product = PRODUCTS[capability // 10]
    others = sorted({*PRODUCTS.values()} - {product})
    if name.startswith("rows"):
        return [product, "LDGSTS"], others
    return [product, "UTMALDG", "UTMASTG"], [*others, "LDGSTS"]


def warps_of(name: str) -> int:
    """Return the warps of a configuration's block; 4 of a helper's."""
    return next((c.warps for c in CONFIGURATIONS if c.name == name), 4)


def everything() -> list[tuple[str, str, int]]:
    """List name, type and compute capability of all kernels that a GPU may be asked to run."""
    found = []
    for capability in CAPABILITIES:
        for dtype in TYPES:
            size = 4 if dtype == "float32" else 2
            found += [(c.name, dtype, capability) for c in CONFIGURATIONS if not misfit(c, capability, size)]
            found += [(name, dtype, capability) for name in HELPERS]
    return found


def compile_here(name: str, dtype: str, capability: int) -> Compiled:
    """Compile one kernel in this process, which must not have the interpreter on."""
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    import triton
    from lccl.backends.torch.triton import kernels
    from lccl.backends.torch.triton.launch import FILL_TILE, GATE_TILE

    short = TYPES[dtype]
    constants: dict[str, Any] = {"PDL": capability >= PROGRAMMATIC_LAUNCH}
    kinds = dict.fromkeys(("x", "w", "gate_w", "external", "residual", "y"), f"*{short}")
    kinds |= dict.fromkeys(("gate_b", "bias", "scale", "offset", "gmap"), "*fp32") | dict.fromkeys(("cells", "count"), "*i32")
    kinds |= dict.fromkeys(("slope", "bound", "threshold", "simulated", "alpha", "post_alpha", "dense_share"), "fp32")
    kinds |= dict.fromkeys(("x_image", "y_image"), "i64")
    options: dict[str, Any] = {"enable_fp_fusion": True}
    if name == "gate":
        function = kernels.gate_cells
        constants |= {"FUSED": True, "BM": GATE_TILE[0], "BC": GATE_TILE[1], "EIGHTS": True, "x_channel": 1}
    elif name == "close":
        function = kernels.close_pixels
        constants |= {"BM": FILL_TILE[0], "BN": FILL_TILE[1], "EIGHTS": True, "y_channel": 1}
    else:
        c = next(c for c in CONFIGURATIONS if c.name == name)
        options |= {"num_warps": c.warps, "num_stages": c.stages}
        constants |= {"BN": c.tile_n, "BK": c.tile_k, "EN": c.part_n}
        constants |= {"PRECISION": "tf32x3" if dtype == "float32" else "ieee", "OPERAND": getattr(tl, dtype)}
        if c.family == "rows":
            function = kernels.conv_rows
            constants |= {"BM": c.tile_m, "EIGHTS": True, "x_channel": 1, "y_channel": 1}
        else:
            function = kernels.conv_boxes
            constants["SIDE"] = SIDE
            part = f"tensordesc<{short}[1,{SIDE},{SIDE},{c.part_n}]>"
            kinds |= {"x": f"tensordesc<{short}[1,{SIDE},{SIDE},{c.tile_k}]>", "residual": part, "y": part}
            kinds["w"] = f"tensordesc<{short}[{c.tile_n},1,{c.tile_k}]>"
    signature = {n: "constexpr" if n in constants else kinds.get(n, "i32") for n in function.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*"}
    source = ASTSource(function, signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    resources, opcodes = read(made.asm["cubin"])
    ahead = ahead_of_the_wait(opcodes)
    counted = dict(Counter(opcode.split(".")[0] for opcode in opcodes))
    return Compiled(name, dtype, capability, made.metadata.shared, resources["REG"], resources["STACK"], counted, ahead)


def ahead_of_the_wait(opcodes: Sequence[str]) -> int:
    """Count the accesses to memory ahead of the wait for the kernel before; -1: there is no wait."""
    waits = [i for i, opcode in enumerate(opcodes) if opcode.startswith("ACQBULK")]
    return sum(bool(GLOBAL.match(opcode)) for opcode in opcodes[: waits[0]]) if waits else -1


def read(cubin: bytes) -> tuple[dict[str, int], list[str]]:
    """Return the resources that a cubin's kernel takes, by cuobjdump's names, and its instructions in order."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        told = subprocess.run([tools / "cuobjdump", "-res-usage", path], capture_output=True, text=True, check=True).stdout
        sass = subprocess.run([tools / "nvdisasm", "-c", path], capture_output=True, text=True, check=True).stdout
    resources = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", told)}
    return resources, [found[1] for line in sass.splitlines() if (found := _INSTRUCTION.match(line))]


def compile_apart(wanted: Iterable[tuple[str, str, int]]) -> list[Compiled]:
    """Compile kernels in one process of its own, which has no interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    arguments = [f"{name}:{dtype}:{capability}" for name, dtype, capability in wanted]
    made = subprocess.run(
        [sys.executable, __file__, "--json", "--jobs", "1", "--only", *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if not made.stdout.startswith("["):
        raise RuntimeError(made.stderr[-2000:])
    return [Compiled(**one) for one in json.loads(made.stdout)]


def table(compiled: Sequence[Compiled]) -> str:
    """Write a Markdown table: registers of a thread and KiB of shared memory of a block."""
    lines = [f"| kernel | {' | '.join(f'{c // 10}.{c % 10}' for c in CAPABILITIES)} |", "|---" * (len(CAPABILITIES) + 1) + "|"]
    order = [c.name for c in CONFIGURATIONS] + list(HELPERS)
    kinds = {(c.name, c.dtype == "float32") for c in compiled}
    for name, is_single in sorted(kinds, key=lambda kind: (kind[1], order.index(kind[0]))):
        cells = []
        for capability in CAPABILITIES:
            of = [c for c in compiled if (c.name, c.dtype == "float32", c.capability) == (name, is_single, capability)]
            cells.append(f"{max(c.registers for c in of)}, {max(c.shared for c in of) / 1024:.0f} KiB" if of else "-")
        lines.append(f"| {name}{', float32' if is_single else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Compile, print the table, and name what is wrong.

    Returns:
        1 if anything is.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="kernels as name:type:capability, such as rows_64x32:float32:90")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument("--json", action="store_true", help="print what was read, and no table")
    given = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    named = [(name, dtype, int(capability)) for name, dtype, capability in (word.split(":") for word in given.only)]
    wanted = named or everything()
    if given.jobs == 1:
        compiled = [compile_here(*one) for one in wanted]
    else:
        with ProcessPoolExecutor(given.jobs) as pool:
            compiled = list(pool.map(compile_here, *zip(*wanted, strict=True)))
    if given.json:
        print(json.dumps([asdict(one) for one in compiled]))
        return 0
    print(table(compiled))
    faults = [f"{c.name}, {c.dtype}, {c.capability}: {fault}" for c in compiled for fault in c.faults()]
    print("\n".join(faults) if faults else f"{len(compiled)} kernels, as they should be")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
