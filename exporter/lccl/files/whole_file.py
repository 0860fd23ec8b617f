"""ONNX models as single files, with their large weights copied in from other files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from lccl.errors import UserError
from lccl.files import atomic_path
from lccl.files.external import array, as_bytes, outside_bytes
from lccl.files.protos import field_key, without_data, without_initializers

MAX_FILE_BYTES = 2**31 - 2**20
"""Protobuf's limit for one file, with room for the variants' metadata."""


def write_whole(model: onnx.ModelProto, path: Path) -> None:
    """Write the model as one file with its weights in it.

    The weights are copied from file to file, since protobuf would hold them in memory three times.
    The fields of a message may come in any order, so that the graph is the model's last field and
    the weights are the graph's.

    Raises:
        OSError: the disk is full.
    """
    rest = without_initializers(model)
    graph = rest.graph.SerializeToString()
    rest.ClearField("graph")
    inside = [_head(tensor) for tensor in model.graph.initializer]
    sizes = [len(head) + outside_bytes(tensor) for head, tensor in zip(inside, model.graph.initializer, strict=True)]
    keys = [field_key(onnx.GraphProto, "initializer", size) for size in sizes]
    with path.open("wb") as stream:
        stream.write(rest.SerializeToString())
        stream.write(field_key(onnx.ModelProto, "graph", len(graph) + sum(map(len, keys)) + sum(sizes)))
        stream.write(graph)
        for key, head, tensor in zip(keys, inside, model.graph.initializer, strict=True):
            stream.write(key + head)
            if outside_bytes(tensor):
                stream.write(as_bytes(array(tensor)).data)


def whole_size(model: onnx.ModelProto) -> int:
    """Return the bytes of the model with its weights in it, to within a few per weight."""
    return int(model.ByteSize()) + sum(map(outside_bytes, model.graph.initializer))


def _head(tensor: TensorProto) -> bytes:
    """Serialize a tensor, up to its data if that is in a file."""
    if not outside_bytes(tensor):
        return bytes(tensor.SerializeToString())
    return bytes(without_data(tensor).SerializeToString()) + field_key(TensorProto, "raw_data", outside_bytes(tensor))


def write_files(files: Mapping[Path, onnx.ModelProto]) -> None:
    """Write all of the files or none, each with its weights in it.

    Raises:
        UserError: a model is too large for one file.
        OSError: the disk is full.
    """
    with contextlib.ExitStack() as stack:
        for path, model in files.items():
            if whole_size(model) > MAX_FILE_BYTES:
                raise UserError(f"the model is over 2 GB, the limit of one ONNX file; this version cannot split {path}")
            temporary = stack.enter_context(atomic_path(path))
            write_whole(model, temporary)
