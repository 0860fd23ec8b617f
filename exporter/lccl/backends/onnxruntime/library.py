"""The CPU op of ``lccl::LCCLConv`` for ONNX Runtime: where its library is, and whether it can be used here."""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from lccl.backends.native import FOLDER, find_native, require_native
from lccl.errors import UserError

LIBRARY = "liblccl_ort.so"
ENVIRONMENT = "LCCL_ORT_LIBRARY"
ISA_ENVIRONMENT = "LCCL_CPU_ISA"
OLD_ISA_ENVIRONMENT = "LCCL_CPU_LEVEL"
"""The variable's name before 0.2; the library reads it and warns, until 0.3."""
PACKAGED = FOLDER / LIBRARY
OLDEST = (1, 20)
"""ONNX Runtime that the library is tested with; one before 1.17 would load it and take no op from
it."""
HOW_TO_GET = "install lccl again with g++ and CMake at hand, or run make ort in a checkout"


@dataclass(frozen=True)
class Found:
    """A library that ONNX Runtime takes, or why there is none; true where there is one."""

    path: Path | None
    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


def find_library(library: str | Path | None = None) -> Path | None:
    """The op's library: the given one, the one that LCCL_ORT_LIBRARY names, or the package's own.

    None if it has none.

    Raises:
        UserError: a library is named and is not there.
    """
    return find_native(library, ENVIRONMENT, PACKAGED)


def library_path() -> Path:
    """Path of the op's library, as ``SessionOptions.register_custom_ops_library`` takes it.

    Raises:
        UserError: there is none.
    """
    return require_native(find_library(), LIBRARY, HOW_TO_GET, ENVIRONMENT)


def look_for_library(library: str | Path | None = None) -> Found:
    """The op's library, tried on the ONNX Runtime here.

    Args:
        library: as of :func:`find_library`.

    Raises:
        UserError: a library is named and is not there.
    """
    path = find_library(library)
    if path is None:
        return Found(None, f"there is no {LIBRARY}: {HOW_TO_GET}")
    import onnxruntime

    from lccl.backends.onnxruntime.runner import register_library

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if version < OLDEST:
        needed = ".".join(map(str, OLDEST))
        return Found(path, f"ONNX Runtime {onnxruntime.__version__} is older than {needed}: pip install -U onnxruntime")
    try:
        register_library(onnxruntime.SessionOptions(), path)
    except UserError as error:
        named = library is None and os.environ.get(ENVIRONMENT)
        fix = f"{ENVIRONMENT} names it: unset that" if named else HOW_TO_GET
        return Found(path, f"{error}; is it {LIBRARY}, built for this machine? {fix}")
    return Found(path)


def asked_isa() -> tuple[str, str] | None:
    """The environment variable that asks for an instruction set, and its value.

    None where neither spelling is set.
    """
    return next(((name, value) for name in (ISA_ENVIRONMENT, OLD_ISA_ENVIRONMENT) if (value := os.environ.get(name))), None)


def cpu_isa(library: str | Path | None = None) -> str | None:
    """Return the instruction set that the library's kernels use on this machine.

    It is "avx512", "avx2", "neon" or "portable". It is None where there is no library, or where LCCL_CPU_ISA names an
    instruction set that this machine does not run: then no session opens.

    Raises:
        UserError: a library is named and is not there.
    """
    path = find_library(library)
    if path is None:
        return None
    try:
        describe = ctypes.CDLL(str(path)).lccl_ort_describe
    except (OSError, AttributeError):
        return None
    describe.restype, describe.argtypes = ctypes.c_char_p, []
    said = describe()
    return said.decode(errors="replace") if said else None


def cpu_level(library: str | Path | None = None) -> str | None:
    """Return :func:`cpu_isa`, by its old name, which goes away in 0.3."""
    warnings.warn("lccl.ort.cpu_level is now lccl.ort.cpu_isa; the old name goes away in 0.3", FutureWarning, stacklevel=2)
    return cpu_isa(library)
