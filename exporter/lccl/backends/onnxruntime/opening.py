"""The opening of ONNX Runtime's sessions: files, models in memory, libraries of custom ops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from lccl.errors import UserError
from lccl.files import require_file
from lccl.files.external import weight_file

CPU = ("CPUExecutionProvider",)


def register_library(options: Any, library: str | Path) -> None:
    """Add a library of custom ops to a session's options.

    Raises:
        UserError: ONNX Runtime does not load the library.
    """
    import onnxruntime

    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        raise UserError(f"ONNX Runtime {onnxruntime.__version__} does not take {library}: {one_line(error)}") from error


def open_session(model: str | Path | bytes | onnx.ModelProto, options: Any, providers: Sequence[Any] = CPU) -> Any:
    """Open an ``onnxruntime.InferenceSession`` of a file, of its bytes or of a model in memory.

    Raises:
        UserError: ONNX Runtime cannot load the model.
    """
    import onnxruntime

    try:
        with _source(model) as source:
            return onnxruntime.InferenceSession(source, options, providers=list(providers))
    except UserError:
        raise
    except Exception as error:
        said = one_line(error)
        if "Domain already set in registry" in said:
            said = "its options have the op's library already: take new SessionOptions for each session"
        raise UserError(f"ONNX Runtime cannot load {label_of(model)}: {said}") from error


@contextlib.contextmanager
def _source(model: str | Path | bytes | onnx.ModelProto) -> Iterator[str | bytes]:
    """Give what ONNX Runtime opens: a path if a file holds model or weights, else the bytes."""
    file = weight_file(model) if isinstance(model, onnx.ModelProto) else None
    if isinstance(model, bytes):
        yield model
    elif not isinstance(model, onnx.ModelProto):
        yield str(require_file(model))
    elif file is None:
        yield model.SerializeToString()
    else:
        with file.opened(model) as path:
            yield str(path)


def label_of(model: str | Path | bytes | onnx.ModelProto) -> str:
    """Return what messages call a model."""
    return str(model) if isinstance(model, (str, Path)) else "the model"


def one_line(error: BaseException) -> str:
    """Return ONNX Runtime's message on one line, without its code.

    The reason is often on its second line.
    """
    return " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")[:400]
