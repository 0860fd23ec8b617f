"""Large weights outside of ONNX models: in one file that several models share.

A model in protobuf copies its weights whenever it is copied, and ONNX Runtime copies them once more
from a model in memory. Within a :class:`WeightFile`, models keep their weights in one file as
ONNX's external data. The models are small, and ONNX Runtime opens them next to that file.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lccl.errors import UserError
from lccl.files import if_abandoned
from lccl.files.external import PLAIN_TYPES, as_bytes, bytes_of, file_of, open_files
from lccl.files.protos import SMALL, without_data, without_initializers

_ALIGNMENT = 64
"""The alignment of each tensor in a file, in bytes, which suits vector instructions."""
_INITIALIZERS_ALONE = 4
"""The first IR version in which initializers need not be inputs."""


class WeightFile:
    """A temporary file with the weights of models, which exists within the block.

    Args:
        beside: a file in whose folder the temporary file is created.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, beside: str | Path) -> None:
        self.name = secrets.token_hex(16)
        self._folder = Path(beside).resolve().parent / f".lccl.{self.name[:8]}.tmp"
        self._stored_at: dict[bytes, dict[str, int | str]] = {}
        self._blocks = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._writing():
            self._folder.mkdir()
            (self._folder / self.name).touch()
        self._blocks.enter_context(if_abandoned(self._remove))
        open_files[self.name] = self
        return self

    def __exit__(self, *_: object) -> None:
        del open_files[self.name]
        self._blocks.close()
        self._remove()

    def externalize(self, model: onnx.ModelProto, folder: str | Path | None = None) -> onnx.ModelProto:
        """Return a copy of the model whose large weights are external data in this file.

        Its initializers are no longer inputs. Tensors that subgraphs read or that the model returns
        stay in it.

        Args:
            model: the model.
            folder: the folder of the model's external data, if the model was loaded without it.

        Raises:
            UserError: external data is missing, or the disk is full.
        """
        out = without_initializers(model)
        if folder is not None:
            # This loads the data of nodes and subgraphs.
            onnx.external_data_helper.load_external_data_for_model(out, str(folder))
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in out.graph.input if value.name not in stored]
        del out.graph.input[:]
        out.graph.input.extend(inputs)
        out.ir_version = max(out.ir_version, _INITIALIZERS_ALONE)
        fixed = {value.name for value in model.graph.output} | set(_read_within(model.graph))
        given = (self._in_memory(tensor, folder) for tensor in model.graph.initializer)
        out.graph.initializer.extend(tensor if tensor.name in fixed else self._moved(tensor) for tensor in given)
        return out

    def tensor(self, name: str, values: NDArray[Any]) -> TensorProto:
        """Make a tensor of the values, with its data in this file unless it is small."""
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        if values.size <= SMALL or kind not in PLAIN_TYPES:
            return numpy_helper.from_array(values, name)
        return self._stored(TensorProto(name=name, data_type=kind, dims=values.shape), as_bytes(values))

    def _in_memory(self, tensor: TensorProto, folder: str | Path | None) -> TensorProto:
        """Load the tensor's data from another file.

        A tensor whose data is in this file stays as it is.
        """
        outside = tensor.data_location == TensorProto.EXTERNAL and tensor.external_data
        return _loaded(tensor, folder) if outside and file_of(tensor) is not self else tensor

    def _moved(self, tensor: TensorProto) -> TensorProto:
        if file_of(tensor) is self or math.prod(tensor.dims) <= SMALL or tensor.data_type not in PLAIN_TYPES:
            return tensor
        data = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        return self._stored(tensor, data) if len(data) == bytes_of(tensor) else tensor

    def _stored(self, tensor: TensorProto, data: bytes | NDArray[Any]) -> TensorProto:
        content = data.data if isinstance(data, np.ndarray) else data
        digest = hashlib.blake2b(content, digest_size=32).digest()
        place = self._stored_at.get(digest)
        if place is None:
            with self._writing(), (self._folder / self.name).open("ab") as stream:
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
                place = {"location": self.name, "offset": stream.tell(), "length": len(content)}
                stream.write(content)
            self._stored_at[digest] = place
        out = without_data(tensor)
        out.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            out.external_data.add(key=key, value=str(value))
        return out

    def map(self, place: Mapping[str, str], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Map values in this file into memory, read-only.

        Args:
            place: the tensor's external data, with its "offset" in bytes.
            dtype, shape: of the array.
        """
        return np.memmap(self._folder / self.name, dtype, "r", int(place["offset"]), shape)

    @contextlib.contextmanager
    def opened(self, model: onnx.ModelProto) -> Iterator[Path]:
        """Write the model next to its weights and give its path, within the block."""
        path = self._folder / f"{secrets.token_hex(8)}.onnx"
        try:
            with self._writing():
                path.write_bytes(model.SerializeToString())
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write the weights to {self._folder.parent}, where they are kept while the model is checked: "
                f"{error.strerror or error}; nothing was written: make room there, or choose another place"
            ) from None

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _read_within(graph: onnx.GraphProto, within: bool = False) -> Iterator[str]:
    """Yield the names that subgraphs read or return, their own included."""
    for node in graph.node:
        if within:
            yield from node.input
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _read_within(inner, True)
                yield from (value.name for value in inner.output)


def trim_memory() -> None:
    """Return freed memory to the system: glibc keeps what large sessions free.

    Other C libraries have no such call.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _loaded(tensor: TensorProto, folder: str | Path | None) -> TensorProto:
    """Return a copy of a tensor with its external data in it.

    Raises:
        UserError: the model was loaded without its external data.
    """
    if folder is None:
        raise UserError(f"the model was loaded without its external data (of {tensor.name}): pass the path of its file")
    out = TensorProto()
    out.CopyFrom(tensor)
    onnx.external_data_helper.load_external_data_for_tensor(out, str(folder))
    return out
