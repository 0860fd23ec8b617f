"""Cases for the host program (``host/``), which plays TensorRT's part, and its answers.

Files are little-endian. A text is an int32 length and its bytes. The file of cases: int32 count;
for each: name; int32 number of fields, each with name, int32 type, int32 length, int32 bytes, data;
int32 number of inputs, each a tensor; the output, a tensor. A tensor: int32 rank, int64 dimensions,
int32 type, int32 format, int64 bytes, data. The file of results: for each case: text problem, text
facts (JSON), int32 number of outputs, each with text label, int64 bytes, data.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from lccl.backends.torch.cuda.interface import Dtype
from lccl.backends.torch.cuda.planning import padded
from lccl.op.contract import ATTRIBUTES, INPUT_NAMES, INPUTS, Attributes, conv_hw, output_shape
from lccl.op.reference import lccl_conv
from support.cases.op_cases import Case
from support.hosts.emulator import STORAGE, Array, image_memory

DATA_TYPES = {Dtype.FLOAT32: 0, Dtype.FLOAT16: 1, Dtype.BFLOAT16: 7}
"""nvinfer1::DataType."""
LINEAR, HWC8 = 0, 2
"""nvinfer1::TensorFormat."""
FIELD_TYPES = {"ints": 5, "int": 5, "floats": 1, "float": 1, "string": 6}
"""nvinfer1::PluginFieldType of an attribute's kind."""

TOLERANCE = {Dtype.FLOAT32: 2e-6, Dtype.FLOAT16: 1e-3, Dtype.BFLOAT16: 8e-3}
"""Relative to max(1, largest |Y|), as of the kernels themselves."""

Field = tuple[str, int, int, bytes]
"""Name, nvinfer1::PluginFieldType, length, data."""


def field_of(name: str, kind: str, value: Any) -> Field:
    """An attribute as TensorRT's ONNX parser passes it."""
    if kind == "string":
        return name, FIELD_TYPES[kind], len(value) + 1, value.encode() + b"\0"
    values = value if isinstance(value, tuple) else (value,)
    return name, FIELD_TYPES[kind], len(values), np.array(values, np.int32 if kind.startswith("int") else np.float32).tobytes()


def fields_of(attributes: Attributes) -> dict[str, Field]:
    """All attributes of a node."""
    return {spec.name: field_of(spec.name, spec.kind, getattr(attributes, spec.name)) for spec in ATTRIBUTES}


@dataclass(frozen=True)
class Layer:
    """A case for the host."""

    name: str
    attributes: Attributes
    inputs: Mapping[str, Array]
    dtype: Dtype
    fields: Mapping[str, Field]

    @classmethod
    def of(cls, case: Case, dtype: Dtype, **changes: Array) -> Layer:
        """A named case; ``changes`` replaces inputs."""
        inputs = case.inputs(STORAGE[dtype]) | changes
        return cls(f"{case.name}-{dtype.name.lower()}", case.attributes, inputs, dtype, fields_of(case.attributes))

    def output(self, memory: bytes) -> Array:
        """[N, K, Ho, Wo] of the memory that the plugin has written.

        Padded channels have to be 0.
        """
        n, k, h, w = output_shape({name: self.inputs[name].shape for name in INPUT_NAMES}, self.attributes)
        flat = np.frombuffer(memory, STORAGE[self.dtype])
        if self.dtype == Dtype.FLOAT32:
            return flat.reshape(n, k, h, w)
        whole = flat.reshape(n, h, w, padded(k))
        assert not whole[..., k:].astype(np.float32).any(), "padding of Y is not 0"
        return np.moveaxis(whole[..., :k], 3, 1)


@dataclass(frozen=True)
class Answer:
    """What the host has seen of a layer."""

    problem: str
    facts: dict[str, Any]
    outputs: dict[str, bytes]


def run(
    program: Path, layers: list[Layer], folder: Path, *libraries: Path, walk: str = "", timeout: float = 900
) -> tuple[list[Answer], str]:
    """The host's answers, and what it printed on stderr.

    The plugin's messages go there without an engine.

    Fails where the program does: a sanitizer's report is in the message.

    Args:
        libraries: the plugin's, and TensorRT's before it; none where the plugin is linked in.
        walk: another one than through a life: engine, workspace, pointers or gpus.
    """
    cases, results = folder / "cases.bin", folder / "results.bin"
    cases.write_bytes(_pack(layers))
    command = [program, *([f"--{walk}"] if walk else []), cases, results, *libraries]
    done = subprocess.run([str(a) for a in command], capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]
    return list(_unpack(results.read_bytes())), done.stderr


def assert_close(layer: Layer, y: Array) -> None:
    """Y against the reference."""
    expected = lccl_conv(dict(layer.inputs), layer.attributes)
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0)))
    np.testing.assert_allclose(
        y.astype(np.float64), expected, rtol=0, atol=TOLERANCE[layer.dtype] * scale, equal_nan=True, err_msg=layer.name
    )


def by_tactic(answer: Answer, who: str) -> dict[int, bytes]:
    """Outputs that ``who`` has written, by tactic."""
    return {int(label.split()[-1]): y for label, y in answer.outputs.items() if label.rpartition(" ")[0] == who}


def _text(text: str) -> bytes:
    return struct.pack("<i", len(text.encode())) + text.encode()


def _tensor(shape: tuple[int, ...], data_type: int, form: int, memory: bytes) -> bytes:
    return struct.pack(f"<i{len(shape)}qiiq", len(shape), *shape, data_type, form, len(memory)) + memory


def _pack(layers: list[Layer]) -> bytes:
    packed = struct.pack("<i", len(layers))
    for layer in layers:
        packed += _text(layer.name) + struct.pack("<i", len(layer.fields))
        for name, kind, length, data in layer.fields.values():
            packed += _text(name) + struct.pack("<iii", kind, length, len(data)) + data
        packed += _tensors(layer)
    return packed


def _tensors(layer: Layer) -> bytes:
    """The nine inputs and the output, each in the format that the plugin takes."""
    shapes = {name: tuple(layer.inputs[name].shape) for name in INPUT_NAMES}
    wide = layer.dtype == Dtype.FLOAT32
    image = LINEAR if wide else HWC8
    packed = struct.pack("<i", len(INPUTS))
    a = layer.attributes
    ho, wo = conv_hw(shapes["X"][2:], shapes["W"][1:3], a.strides, a.pads, a.dilations)
    shape = (shapes["X"][0], shapes["W"][0], ho, wo)
    images = {"X"} if shapes["residual"] == (1, 1, 1, 1) != shape else {"X", "residual"}
    for spec in INPUTS:
        value = layer.inputs[spec.name]
        memory = image_memory(value, nhwc=spec.name in images and not wide)
        form = image if spec.name in images else LINEAR
        packed += _tensor(shapes[spec.name], DATA_TYPES[layer.dtype] if spec.is_tensor_type else 0, form, memory.tobytes())
    n, k, h, w = shape
    size = n * h * w * (k if wide else padded(k)) * np.dtype(STORAGE[layer.dtype]).itemsize
    return packed + _tensor(shape, DATA_TYPES[layer.dtype], image, b"\xff" * size)


def _unpack(results: bytes) -> Iterator[Answer]:
    stream = BytesIO(results)

    def number(form: str) -> int:
        return int(struct.unpack(form, stream.read(struct.calcsize(form)))[0])

    def text() -> str:
        return stream.read(number("<i")).decode()

    while stream.tell() < len(results):
        problem, facts = text(), text()
        outputs = {text(): stream.read(number("<q")) for _ in range(number("<i"))}
        yield Answer(problem, json.loads(facts) if facts else {}, outputs)
