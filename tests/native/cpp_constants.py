"""Checks the names of C++ constants; ``python tests/native/cpp_constants.py`` is a step of ``make lint``.

Constants, enumerators and template parameters that are values are ``kPascalCase``. Inside ``trt_plugin/plugin``, which
overrides TensorRT's classes, they are ``kUPPER_CASE``, as TensorRT's own. No two names differ in case and underscores alone.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("contract", "ort_op", "trt_plugin", "samples", "tests", "bench")
SUFFIXES = (".cpp", ".h", ".cu", ".cuh", ".cpp.in")
PLUGIN = "trt_plugin/plugin/"
EXEMPT = (
    "ort_op/kernel/lccl_cpu.h",
    "tests/emulator/emulator.h",
    "tests/emulator/include/cuda_runtime_api.h",
    "trt_plugin/kernel/lccl_cuda.h",
    "trt_plugin/plugin/nvinfer_declarations.h",
)
"""C interfaces, whose constants have C's names, and declarations of NVIDIA's names."""

PASCAL = re.compile(r"k(?:[A-Z][a-z0-9]+)*[A-Z]?(?:[A-Z][a-z0-9]+)*_?")
UPPER = re.compile(r"k[A-Z0-9]+(?:_[A-Z0-9]+)*")
SILENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL)
CONSTEXPR = re.compile(r"\bconstexpr\b(?!\s*\()([^;={()]*?)\b(\w+)\s*(?:\[[^\]]*\]\s*)*(?:=|\{|;)")
ENUM = re.compile(r"\benum\b[^;{}]*\{([^}]*)\}")
USED = re.compile(r"(?<!::)\bk[A-Z]\w*")


def sources() -> list[Path]:
    """Files of C++ and CUDA whose constants are checked."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in files if path.name.endswith(SUFFIXES) and str(path.relative_to(ROOT)) not in EXEMPT)


def declared(code: str) -> dict[str, int]:
    """Names of constexpr variables and enumerators, each with the offset of its declaration."""
    names = {match[2]: match.start(2) for match in CONSTEXPR.finditer(code)}
    for enum in ENUM.finditer(code):
        for entry in re.finditer(r"(?:^|,)\s*(\w+)", enum[1]):
            names[entry[1]] = enum.start(1) + entry.start(1)
    return names


def misnamed(text: str, in_plugin: bool) -> list[tuple[int, str]]:
    """Lines and names of constants in a file's text that have another style than the file's folder."""
    code = SILENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    style = UPPER if in_plugin else PASCAL
    names = declared(code)
    if not in_plugin:  # there, unqualified names may be TensorRT's or the contract's
        names |= {match[0]: match.start() for match in USED.finditer(code)}
    wrong = [(code.count("\n", 0, at) + 1, name) for name, at in names.items() if not style.fullmatch(name)]
    return sorted(wrong)


def nearly_the_same(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ in case and underscores alone."""
    groups = defaultdict(set)
    for name in names:
        groups[name.replace("_", "").lower()].add(name.rstrip("_"))
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def problems() -> list[str]:
    """What is wrong in the checkout, one line each."""
    found, names = [], set()
    for path in sources():
        where = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        style = "kUPPER_CASE, as TensorRT's" if where.startswith(PLUGIN) else "kPascalCase"
        found += [f"{where}:{line}: {name} is not {style}" for line, name in misnamed(text, where.startswith(PLUGIN))]
        names |= set(declared(SILENT.sub("", text)))
    return found + [f"{' and '.join(group)}: give them names that differ in a word" for group in nearly_the_same(names)]


if __name__ == "__main__":
    said = problems()
    print("\n".join(said) if said else "constants in C++ are named alike")
    sys.exit(1 if said else 0)
