"""The CPU op of ``lccl::LCCLConv`` for ONNX Runtime: where its library is, and sessions that use it.

With the library registered, ONNX Runtime computes a gated convolution only where its gate is open. Without it, the same file
runs through the op's model-local function, which computes every pixel. ``python -m lccl.ort`` prints what is here.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lccl.errors import UserError
from lccl.native import FOLDER, find_native, require_native

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["Found", "cpu_level", "find_library", "library_path", "look_for_library", "session"]

LIBRARY = "liblccl_ort.so"
ENVIRONMENT = "LCCL_ORT_LIBRARY"
LEVEL_ENVIRONMENT = "LCCL_CPU_LEVEL"
PACKAGED = FOLDER / LIBRARY
OLDEST = (1, 20)
"""ONNX Runtime that the library is tested with; one before 1.17 would load it and take no op from it."""
HOW_TO_GET = "install lccl again with g++ and CMake at hand, or run make ort in a checkout"
_state = {"warned": False}


@dataclass(frozen=True)
class Found:
    """A library that ONNX Runtime takes, or why there is none; true where there is one."""

    path: Path | None
    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


def find_library(library: str | Path | None = None) -> Path | None:
    """The op's library: the given one, the one that LCCL_ORT_LIBRARY names, or the package's own; None if it has none.

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

    from lccl.run.onnxruntime import register_library

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


def cpu_level(library: str | Path | None = None) -> str | None:
    """The instructions that the library's kernels use on this machine: "avx512", "avx2", "neon" or "portable".

    None where there is no library, or where LCCL_CPU_LEVEL names none that this machine runs: no session opens then.

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


def session(
    model: str | Path | onnx.ModelProto,
    *,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    threads: int | None = None,
    options: onnxruntime.SessionOptions | None = None,
    library: str | Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime that skips closed pixels, as far as the op's library is here.

    Where it is not, ONNX Runtime does not take it, or it does not take a layer (a kernel above 7 x 7), the model runs through
    the op's function: the same outputs, every pixel computed. A warning says so, once per process. A model without LCCLConv
    nodes runs as in any session.

    Args:
        model: a file, or a model in memory.
        providers: ONNX Runtime's execution providers; the op runs on the CPU whatever they are.
        threads: of one inference; by default as in ``options``, which is one per core.
        options: of the session; the library and ``threads`` are added to them, so take new ones for each session. A library
            cannot be taken out of them again: with options of your own, a layer that the library does not take is an error.
        library: the op's library; by default the one that LCCL_ORT_LIBRARY names, or the package's own.

    Raises:
        UserError: a library is named and is not there, LCCL_CPU_LEVEL names no level of this machine, or ONNX Runtime cannot
            load the model.
    """
    import onnxruntime

    from lccl.run.onnxruntime import open_session, register_library

    if threads is not None and not (isinstance(threads, int) and threads >= 1):
        raise UserError(f"threads is a whole number from 1, not {threads!r}")
    if isinstance(providers, str):
        providers = [providers]
    chosen = onnxruntime.SessionOptions() if options is None else options
    if threads is not None:
        chosen.intra_op_num_threads = threads
    found = look_for_library(library)
    reason = found.reason
    if found and found.path is not None:
        register_library(chosen, found.path)
        try:
            return open_session(model, chosen, providers)
        except UserError as error:
            if options is not None or LEVEL_ENVIRONMENT in str(error) or not _has_nodes(model):
                raise
            reason = str(error)
        chosen = onnxruntime.SessionOptions()
        if threads is not None:
            chosen.intra_op_num_threads = threads
    try:
        opened = open_session(model, chosen, providers)
    except UserError as error:
        if found:
            raise UserError(reason) from error
        if _has_nodes(model):
            raise UserError(f"{error}; the op's library could not help ({reason})") from error
        raise
    if not _state["warned"] and _has_nodes(model):
        _state["warned"] = True
        warnings.warn(
            f"gated convolutions compute every pixel, through the op's function: {reason}", RuntimeWarning, stacklevel=2
        )
    return opened


def _has_nodes(model: str | Path | onnx.ModelProto) -> bool:
    """Whether the model has LCCLConv nodes; False where it is none that can be read."""
    import onnx

    from lccl.op.onnx_op import is_lccl_node

    if not isinstance(model, onnx.ModelProto):
        try:
            model = onnx.load(str(model), load_external_data=False)
        except Exception:  # a DecodeError, or whatever a format that onnx guesses from the name raises
            return False

    def among(nodes: Iterable[onnx.NodeProto]) -> bool:
        """Or in the branches and bodies of these nodes."""
        return any(
            is_lccl_node(node) or any(among(graph.node) for a in node.attribute for graph in (a.g, *a.graphs)) for node in nodes
        )

    return among(model.graph.node) or any(among(f.node) for f in model.functions)
