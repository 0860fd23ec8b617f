"""The CPU op's library for ONNX Runtime: lookup, a check that it loads, its instruction set."""

from __future__ import annotations

import ctypes
import os
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
"""The oldest ONNX Runtime that the library is tested with. Those before 1.17 load it and find no op
in it."""
HOW_TO_GET = "install lccl again with g++ and CMake at hand, or run make ort in a checkout"


@dataclass(frozen=True)
class LibraryCheck:
    """Whether ONNX Runtime can use the library; true if it can."""

    path: Path | None
    """The library's path; None if there is none."""
    reason: str = ""
    """Why it cannot be used; empty if it can."""

    def __bool__(self) -> bool:
        return not self.reason


def find_library(library: str | Path | None = None) -> Path | None:
    """Return the path of the op's library.

    None if there is none. :func:`check_library` says whether it can be used.

    Args:
        library: the caller's choice; None: the one that LCCL_ORT_LIBRARY names, or the package's
            own.

    Raises:
        UserError: a library is named and does not exist.
    """
    return find_native(library, ENVIRONMENT, PACKAGED)


def library_path() -> Path:
    """Return the path of the op's library, for ``SessionOptions.register_custom_ops_library``.

    Raises:
        UserError: there is no library.
    """
    return require_native(find_library(), LIBRARY, HOW_TO_GET, ENVIRONMENT)


def check_library(library: str | Path | None = None) -> LibraryCheck:
    """Find the op's library and check that the installed ONNX Runtime can load it.

    Args:
        library: as in :func:`find_library`.

    Raises:
        UserError: a library is named and does not exist.
    """
    path = find_library(library)
    if path is None:
        return LibraryCheck(None, f"there is no {LIBRARY}: {HOW_TO_GET}")
    import onnxruntime

    from lccl.backends.onnxruntime.opening import register_library

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if version < OLDEST:
        needed = ".".join(map(str, OLDEST))
        return LibraryCheck(path, f"ONNX Runtime {onnxruntime.__version__} is older than {needed}: pip install -U onnxruntime")
    try:
        register_library(onnxruntime.SessionOptions(), path)
    except UserError as error:
        named = library is None and os.environ.get(ENVIRONMENT)
        fix = f"{ENVIRONMENT} names it: unset that" if named else HOW_TO_GET
        return LibraryCheck(path, f"{error.message}; is it {LIBRARY}, built for this machine? {fix}")
    return LibraryCheck(path)


def asked_isa() -> tuple[str, str] | None:
    """Return the environment variable that asks for an instruction set, and its value.

    None if none is set.
    """
    return next(((name, value) for name in (ISA_ENVIRONMENT, OLD_ISA_ENVIRONMENT) if (value := os.environ.get(name))), None)


def cpu_isa(library: str | Path | None = None) -> str | None:
    """Return the instruction set that the library's kernels use on this machine.

    Args:
        library: as in :func:`find_library`.

    Returns:
        "avx512", "avx2", "neon" or "portable"; None if there is no library, or if LCCL_CPU_ISA
        names an instruction set that this machine does not run, so that no session opens.

    Raises:
        UserError: a library is named and does not exist.
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
