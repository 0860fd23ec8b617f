"""Sessions of ONNX Runtime that skip closed pixels if the op's library can be used."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lccl.backends.onnxruntime.library import ISA_ENVIRONMENT, OLD_ISA_ENVIRONMENT, check_library
from lccl.errors import UserError
from lccl.errors.arguments import BYTES, FILE, NONE, ONNX_MODEL, THREADS, instance_of, takes
from lccl.files import require_file

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Provider: TypeAlias = "str | tuple[str, dict[str, object]]"
"""An execution provider of ONNX Runtime, by its name, or with its options."""
Model: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto"
"""A file, the bytes of one, or a model in memory."""
Openable: TypeAlias = "Path | bytes | onnx.ModelProto"
"""The same, of fewer types."""
_MARKS = (b"LCCLConv", b"gate_upsample", b"lccl.op", b"ThresholdedRelu")
"""Bytes of which each file has some that calls the op by any name, or has its body in the graph:
the op's name, an attribute that all calls have, the exporter's note, an op of the body."""
_EXTERNAL = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's option for the folder of weights outside of a model in memory."""
_warned: set[str] = set()
"""What this process has been warned of: "library", "lost nodes"."""


@takes(
    model=FILE | BYTES | ONNX_MODEL,
    threads=THREADS | NONE,
    options=instance_of("onnxruntime", "SessionOptions", "onnxruntime.SessionOptions") | NONE,
    library=FILE | NONE,
)
def session(
    model: Model,
    *,
    providers: Sequence[Provider] = ("CPUExecutionProvider",),
    threads: int | None = None,
    options: onnxruntime.SessionOptions | None = None,
    library: str | Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open a session of ONNX Runtime that skips closed pixels if the op's library can be used.

    If there is no library, ONNX Runtime does not load it, or it does not support a layer (a kernel
    above 7 x 7), the model runs through the op's function body, which gives the same outputs and
    computes every pixel. A warning says so, once per process. A model without LCCLConv nodes runs
    as in any session; a warning says so where a tool has replaced the nodes that it had.

    Args:
        model: a file, the bytes of one, or a model in memory. The op is found by its function where
            a tool has renamed it, as ``onnx.compose.merge_models`` does with a prefix.
        providers: ONNX Runtime's execution providers; the op runs on the CPU whatever they are.
        threads: threads of one inference; None: as in ``options``, whose default is one per core.
        options: the session's options, to which the library and ``threads`` are added; use new ones
            for each session. With options of your own, a layer that the library does not support is
            an error, because a library cannot be removed from them.
        library: the op's library; None: the one that LCCL_ORT_LIBRARY names, or the package's own.

    Raises:
        UserError: a library is named and does not exist, LCCL_CPU_ISA names no instruction set of
            this machine, or ONNX Runtime cannot load the model.
    """
    import onnxruntime

    from lccl.backends.onnxruntime.opening import open_session, register_library

    if isinstance(providers, str):
        providers = [providers]
    chosen = onnxruntime.SessionOptions() if options is None else options
    if threads is not None:
        chosen.intra_op_num_threads = threads
    given = _look_into(model)
    if given.folder is not None:
        chosen.add_session_config_entry(_EXTERNAL, str(given.folder))
    found = check_library(library)
    reason = found.reason
    if found and found.path is not None:
        register_library(chosen, found.path)
        try:
            opened = open_session(given.model, chosen, providers)
        except UserError as error:
            names_isa = any(name in error.message for name in (ISA_ENVIRONMENT, OLD_ISA_ENVIRONMENT))
            if options is not None or names_isa or not given.has_nodes:
                raise
            reason = error.message
        else:
            _warn_of_lost_nodes(given)
            return opened
        chosen = onnxruntime.SessionOptions()
        if threads is not None:
            chosen.intra_op_num_threads = threads
        if given.folder is not None:
            chosen.add_session_config_entry(_EXTERNAL, str(given.folder))
    try:
        opened = open_session(given.model, chosen, providers)
    except UserError as error:
        if found:
            raise UserError(reason) from error
        if given.has_nodes:
            raise UserError(f"{error.message}; the op's library could not help ({reason})", error.fixes) from error
        raise
    _warn_of_lost_nodes(given)
    if "library" not in _warned and given.has_nodes:
        _warned.add("library")
        warnings.warn(
            f"gated convolutions compute every pixel, through the op's function: {reason}", RuntimeWarning, stacklevel=3
        )
    return opened


def _warn_of_lost_nodes(given: _Given) -> None:
    from lccl.graph.intake import HOW_TO_RESTORE, LOST_NODES

    if "lost nodes" not in _warned and given.has_lost_nodes:
        _warned.add("lost nodes")
        warnings.warn(f"{LOST_NODES}, which compute every pixel: {HOW_TO_RESTORE}", RuntimeWarning, stacklevel=4)


@dataclass(frozen=True)
class _Given:
    """The model of a session."""

    model: Openable
    """What ONNX Runtime opens: what was given, or the model with the op's own names and types."""
    structure: onnx.ModelProto | None
    """The model as far as it was read; None if nothing in it tells of the op, or it is no model."""
    folder: Path | None = None
    """Where the weights outside of ``model`` are, if that was read from a file."""

    @property
    def has_nodes(self) -> bool:
        from lccl.graph.intake import has_nodes

        return self.structure is not None and has_nodes(self.structure)

    @property
    def has_lost_nodes(self) -> bool:
        from lccl.graph.intake import has_lost_nodes

        return self.structure is not None and has_lost_nodes(self.structure)


def _look_into(model: Model) -> _Given:
    """Look for the op in the model.

    Raises:
        UserError: there is no such file.
    """
    import onnx

    from lccl.graph.intake import with_nodes

    given = _openable(model)
    structure = given if isinstance(given, onnx.ModelProto) else _structure(given)
    if structure is None:
        return _Given(given, None)
    opened = with_nodes(structure)
    if opened is structure:
        return _Given(given, structure)
    return _Given(opened, opened, given.absolute().parent if isinstance(given, Path) else None)


def _openable(model: Model) -> Openable:
    if isinstance(model, (str, os.PathLike)):
        return require_file(os.fspath(model))
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model)
    return model


def _structure(model: Path | bytes) -> onnx.ModelProto | None:
    """Read a model without its external data; None if nothing in its bytes tells of the op."""
    import onnx

    try:
        if isinstance(model, bytes):
            return onnx.load_from_string(model) if any(mark in model for mark in _MARKS) else None
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if all(content.find(mark) < 0 for mark in _MARKS):
                return None
        return onnx.load(str(model), load_external_data=False)
    except Exception:  # a DecodeError, or an error of a format that onnx guesses from the name
        return None
