"""ONNX files: models with their external data, and a check of their weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lccl.errors import UserError, first_line
from lccl.files import require_file
from lccl.loading.soundness import bad_weight

if TYPE_CHECKING:
    import onnx

    from lccl.files.weights import WeightFile

_WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LCCLConv")
_VARIANCE = 4
"""The index of the variance among the inputs of a BatchNormalization."""


def load_onnx(path: str | Path, weights: WeightFile | None = None) -> onnx.ModelProto:
    """Load an ONNX file with its external data.

    Args:
        path: the file.
        weights: a file that takes the large weights, so that the model in memory is small.

    Raises:
        UserError: the file is missing, is no ONNX model, or has weights that are not finite.
    """
    source = _require_onnx(path)
    with _reading_onnx(source):
        import onnx

        model = onnx.load(str(source), load_external_data=weights is None)
        if weights is not None:
            model = weights.externalize(model, source.parent)
    if not model.HasField("graph") or not model.graph.node:
        raise UserError(f"{source} is not an ONNX model, or it is cut off (no graph in it): export or copy it again")
    _require_sound_weights(model, source)
    return model


def onnx_structure(path: str | Path) -> onnx.ModelProto:
    """Load an ONNX file without its external data.

    Raises:
        UserError: the file is missing or is no ONNX model.
    """
    source = _require_onnx(path)
    with _reading_onnx(source):
        import onnx

        return onnx.load(str(source), load_external_data=False)


def _require_onnx(path: str | Path) -> Path:
    """Return the path of a file that may be an ONNX model.

    Raises:
        UserError: there is no such file, or its first bytes are those of a PyTorch file.
    """
    source = require_file(path)
    with source.open("rb") as file:
        start = file.read(4)
    if start in (b"PK\x03\x04", b"\x80\x02}q"):
        raise UserError(f"{source} is a PyTorch file, not an ONNX model: load it with lccl.load_checkpoint and export it first")
    return source


def files_of_onnx(path: str | Path) -> frozenset[Path]:
    """Return the paths of an ONNX file and of its external data.

    Raises:
        UserError: the file is missing or is no ONNX model.
    """
    source = Path(path).resolve()
    entries = (e for tensor in onnx_structure(path).graph.initializer for e in tensor.external_data if e.key == "location")
    return frozenset({source, *((source.parent / e.value).resolve() for e in entries)})


@contextlib.contextmanager
def _reading_onnx(source: Path) -> Iterator[None]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        yield
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{source} is not an ONNX model, or it is cut off ({first_line(error)}): export or copy it again"
        ) from None
    except (onnx.checker.ValidationError, OSError) as error:
        raise UserError(
            f"{source} refers to weights that are not beside it ({first_line(error)}): copy its data file along with it"
        ) from None


def _require_sound_weights(model: onnx.ModelProto, path: Path) -> None:
    """Refuse NaN in any constant and infinity in weights.

    Other constants, such as masks, may be infinite.
    """
    import numpy as np
    import onnx

    from lccl.files.external import array

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    weights = {name for node in model.graph.node if node.op_type in _WEIGHTED_OPS for name in node.input[1:]}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    variances = {name for node in norms for name in node.input[_VARIANCE : _VARIANCE + 1]}
    for tensor in model.graph.initializer:
        if tensor.data_type in floats:
            values = array(tensor)
            if np.isnan(values).any():
                raise bad_weight(path, tensor.name, "NaN")
            if tensor.name in weights and np.isinf(values).any():
                raise bad_weight(path, tensor.name, "infinity")
            if tensor.name in variances and (values < 0).any():
                raise bad_weight(path, tensor.name, "a variance below 0")
