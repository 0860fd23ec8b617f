"""Reads what CUDA's tools say of compiled kernels: ptxas of registers and spills, cuobjdump of instructions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_CODE = re.compile(r"^\s*code for sm_(\w+)$")
_FUNCTION = re.compile(r"^\s*Function : (\w+)$")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


@dataclass(frozen=True)
class Resources:
    """What ptxas says of a kernel on one architecture."""

    function: str
    """Mangled name."""
    arch: str
    """"90" for sm_90."""
    registers: int
    """Per thread."""
    stack: int
    """Bytes per thread, of the kernel and of what it calls."""
    spill_stores: int
    """Bytes per thread."""
    spill_loads: int

    def faults(self, max_registers: int = 255) -> list[str]:
        """What a kernel must not have, a sentence each."""
        found = []
        if self.spill_stores or self.spill_loads:
            found.append(f"spills {self.spill_stores} bytes and loads {self.spill_loads} again")
        if self.stack:
            found.append(f"has a stack frame of {self.stack} bytes")
        if self.registers > max_registers:
            found.append(f"uses {self.registers} registers, more than {max_registers}")
        return [f"sm_{self.arch}: {fault}" for fault in found]


def parse_ptxas(text: str) -> list[Resources]:
    """Every kernel that ``ptxas -v`` reports, in its order.

    Raises:
        ValueError: a kernel without its numbers.
    """
    entries = list(_ENTRY.finditer(text))
    ends = [*(entry.start() for entry in entries[1:]), len(text)]
    return [_resources(entry[1], entry[2], text[entry.end() : end]) for entry, end in zip(entries, ends, strict=True)]


def _resources(function: str, arch: str, text: str) -> Resources:
    frames = [tuple(map(int, frame)) for frame in _FRAME.findall(text)]
    registers = _REGISTERS.search(text)
    if not frames or registers is None:
        raise ValueError(f"ptxas says nothing of registers or spills of {function} for sm_{arch}")
    stack, stores, loads = (sum(column) for column in zip(*frames, strict=True))
    return Resources(function, arch, int(registers[1]), stack, stores, loads)


Instructions = Counter[str]
"""How often each instruction with its modifiers stands in a kernel, as in "LDSM.16.M88.4"."""


def parse_sass(text: str) -> dict[tuple[str, str], Instructions]:
    """How often each instruction stands in each (mangled name, architecture) of what ``cuobjdump -sass`` prints.

    Raises:
        ValueError: an instruction before any kernel.
    """
    return {kernel: Counter(instructions) for kernel, instructions in parse_sass_in_order(text).items()}


def parse_sass_in_order(text: str) -> dict[tuple[str, str], list[str]]:
    """The same with the instructions as they follow each other.

    Raises:
        ValueError: an instruction before any kernel.
    """
    kernels: dict[tuple[str, str], list[str]] = {}
    arch, current = "", None
    for line in text.splitlines():
        if code := _CODE.match(line):
            arch, current = code[1], None
        elif function := _FUNCTION.match(line):
            current = kernels.setdefault((function[1], arch), [])
        elif instruction := _INSTRUCTION.match(line):
            if current is None:
                raise ValueError(f"this instruction belongs to no kernel: {line.strip()}")
            current.append(instruction[1])
    return kernels


def most_loads_under_way(instructions: Sequence[str], load: str = "LDG.E.128", use: str = "FFMA") -> int:
    """The most loads that stand between two instructions that use what was loaded: they are under way together."""
    most = now = 0
    for instruction in instructions:
        if instruction.split(".")[0] == use:
            now = 0
        elif instruction.startswith(load):
            now += 1
            most = max(most, now)
    return most


def matching(instructions: Instructions, name: str) -> set[str]:
    """The forms in which an instruction occurs: "LDL" gives LDL and LDL.LU.64, not LDLX."""
    return {i for i in instructions if re.match(re.escape(name) + r"(?:\.|$)", i)}


def local_memory_faults(instructions: Instructions) -> list[str]:
    """Accesses to local memory, a sentence each form."""
    return [f"uses local memory: {form}" for name in ("LDL", "STL") for form in sorted(matching(instructions, name))]


def tensor_core_faults(instructions: Instructions, dtype: str) -> list[str]:
    """What a tensor-core kernel lacks or does otherwise than it should, a sentence each.

    Args:
        dtype: "float16" or "bfloat16".
    """
    multiply = {"float16": "HMMA.16816.F32", "bfloat16": "HMMA.16816.F32.BF16"}[dtype]
    found = []
    if matching(instructions, "HMMA") != {multiply}:
        found.append(f"multiplies by {sorted(matching(instructions, 'HMMA'))} instead of {multiply}")
    copies = matching(instructions, "LDGSTS")
    if not copies or any("128" not in form.split(".") for form in copies):
        found.append(f"copies by {sorted(copies)} instead of LDGSTS of 128 bits")
    loads = matching(instructions, "LDSM")
    if not loads or not loads <= {"LDSM.16.M88.4", "LDSM.16.MT88.4"}:
        found.append(f"loads fragments by {sorted(loads)} instead of LDSM.16.M88.4")
    return found


def cuda_core_faults(instructions: Instructions) -> list[str]:
    """What a plain kernel lacks or should not have, a sentence each: its sums are float32, not TF32."""
    found = [f"uses tensor cores: {form}" for form in sorted(matching(instructions, "HMMA"))]
    return found if matching(instructions, "FFMA") or matching(instructions, "FFMA2") else [*found, "has no FFMA"]
