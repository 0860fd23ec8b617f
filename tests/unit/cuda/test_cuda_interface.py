"""The ctypes mirror against the C header it mirrors: names, order, types, sizes, values."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from lccl.backends.torch.cuda import interface
from lccl.backends.torch.cuda.interface import (
    PROTOTYPES,
    ConvConfig,
    ConvParams,
    Device,
    Dtype,
    Family,
    Kernels,
    Layout,
    Math,
    Rates,
)

HEADER = ROOT / "trt_plugin" / "kernel" / "lccl_cuda.h"
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "lccl_conv_params": ConvParams,
    "lccl_device": Device,
    "lccl_conv_config": ConvConfig,
    "lccl_rates": Rates,
}
ENUMS: dict[str, tuple[type[IntEnum] | type[IntFlag], str]] = {
    "lccl_dtype": (Dtype, "LCCL_"),
    "lccl_layout": (Layout, "LCCL_"),
    "lccl_kernel": (Kernels, "LCCL_KERNEL_"),
    "lccl_family": (Family, "LCCL_"),
    "lccl_math": (Math, "LCCL_"),
}
"""C enum -> its mirror, and what its names have before them in C."""
SCALARS = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "size_t": ctypes.c_size_t,
    "cudaError_t": ctypes.c_int,
    "cudaStream_t": ctypes.c_void_p,
}


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def ctype(words: str) -> Any:
    """Return the ctypes type of a C type; pointers other than to char and structs are void pointers."""
    plain = words.replace("const ", "").strip()
    if plain == "void":
        return None
    if plain in SCALARS:
        return SCALARS[plain]
    assert plain.endswith("*"), words
    target = plain[:-1].strip()
    if target in STRUCTS:
        return ctypes.POINTER(STRUCTS[target])
    return ctypes.c_char_p if target == "char" else ctypes.c_void_p


def structs_of(header: str) -> dict[str, list[tuple[str, Any]]]:
    """Return the fields of each struct, with name and ctypes type."""
    found = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\}", without_comments(header), re.DOTALL):
        fields = []
        for declaration in filter(None, (line.strip() for line in body.split(";"))):
            match = re.fullmatch(r"((?:const )?\w+\s*\*?)\s*(\w.*)", declaration, re.DOTALL)
            assert match, declaration
            for variable in match[2].split(","):
                bare, _, length = variable.strip().partition("[")
                kind = ctype(match[1])
                fields.append((bare, kind * int(length.rstrip("]")) if length else kind))
        found[name] = fields
    return found


def enums_of(header: str) -> dict[str, dict[str, int]]:
    return {
        name: {key: int(value) for key, value in re.findall(r"(\w+) = (\d+)", body)}
        for name, body in re.findall(r"typedef enum (\w+) \{(.*?)\}", without_comments(header), re.DOTALL)
    }


def functions_of(header: str) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return the result type and argument types of each function."""
    found = {}
    pattern = r"LCCL_API ((?:const )?\w+\s*\*?)\s*(\w+)\(([^)]*)\);"
    for result, name, arguments in re.findall(pattern, without_comments(header)):
        written = [] if arguments.strip() == "void" else [re.sub(r"\s+", " ", a).strip() for a in arguments.split(",")]
        found[name] = (ctype(result), tuple(ctype(re.sub(r"\w+$", "", a)) for a in written))
    return found


@pytest.fixture(scope="module")
def header() -> str:
    return HEADER.read_text()


def test_structs(header: str) -> None:
    assert structs_of(header) == {name: list(mirror._fields_) for name, mirror in STRUCTS.items()}


def test_enums(header: str) -> None:
    assert enums_of(header) == {
        name: {f"{prefix}{m.name}": m.value for m in mirror} for name, (mirror, prefix) in ENUMS.items()
    }


def test_functions(header: str) -> None:
    assert functions_of(header) == PROTOTYPES
    assert list(functions_of(header)) == list(PROTOTYPES)


def test_abi(header: str) -> None:
    (abi,) = re.findall(r"#define LCCL_CUDA_ABI (\d+)", header)
    assert int(abi) == interface.ABI
    words = re.sub(r"\s+(\* )?", " ", header)  # comments are wrapped
    assert "padded to a multiple of 8" in words
    assert interface.CHANNEL_PAD == 8
    assert f"aligned to {interface.ALIGNMENT} bytes" in words


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int32_t gate_r, gate_s;", "int32_t gate_s, gate_r;"),
        ("float density;", "int32_t density;"),
        ("pads[4]", "pads[2]"),
        ("const char* name;", "const char* title;"),
        ("int32_t sm_count;", ""),
    ],
)
def test_a_changed_struct_is_seen(header: str, before: str, after: str) -> None:
    assert before in header
    changed = structs_of(header.replace(before, after, 1))
    assert changed != {name: list(mirror._fields_) for name, mirror in STRUCTS.items()}


def test_a_changed_function_or_enum_is_seen(header: str) -> None:
    assert functions_of(header.replace("double lccl_conv_predict", "float lccl_conv_predict")) != PROTOTYPES
    swapped, count = re.subn(r"int32_t config,(\s+)void\* workspace,", r"void* workspace,\1int32_t config,", header)
    assert count == 1
    assert functions_of(swapped) != PROTOTYPES
    assert enums_of(header.replace("LCCL_NCHW = 1", "LCCL_NCHW = 2"))["lccl_layout"] != {m.name: m.value for m in Layout}


def test_offsets_are_the_compilers(tmp_path: Path) -> None:
    """Offsets of fields and sizes of structs are the compiler's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here to ask for offsets")
    (tmp_path / "cuda_runtime_api.h").write_text("typedef int cudaError_t;\ntypedef struct CUstream_st* cudaStream_t;\n")
    lines = ["#include <stdio.h>", f'#include "{HEADER}"', "int main(void) {"]
    expected = []
    for name, mirror in STRUCTS.items():
        lines.append(f'  printf("{name} %zu\\n", sizeof({name}));')
        expected.append(f"{name} {ctypes.sizeof(mirror)}")
        for field, *_ in mirror._fields_:
            lines.append(f'  printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
            expected.append(f"{name}.{field} {getattr(mirror, field).offset}")
    (tmp_path / "offsets.c").write_text("\n".join([*lines, "  return 0;", "}"]))
    subprocess.run([compiler, "-I", str(tmp_path), "offsets.c", "-o", "offsets"], cwd=tmp_path, check=True)
    out = subprocess.run([str(tmp_path / "offsets")], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == expected
