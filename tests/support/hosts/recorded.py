"""Calls of the Triton kernels through the C interface, over a driver that records.

Each launch's parameters are read where the cubin says that they are, and the kernel's own source
then runs with them on Triton's interpreter, in the memory that they point to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_int,
    c_uint,
    c_uint64,
    c_void_p,
    cast,
    memmove,
    string_at,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from lccl.backends.torch.cuda.interface import ConvParams, Device, Dtype, Layout
from lccl.backends.torch.cuda.library import Library
from lccl.backends.torch.cuda.planning import POINTERS, conv_params, real_inputs
from lccl.backends.torch.triton import ahead, kernels
from lccl.op.contract import INPUT_NAMES, Attributes, output_shape
from support.builds.cuda import CUBIN_CACHE, RECORDED_KERNELS
from support.hosts.emulator import STORAGE, Array, aligned, image_memory

H200 = Device(90, 132, 232448, 233472)
FLOATS = {"slope", "bound", "threshold", "simulated", "alpha", "post_alpha", "dense_share"}
OF_TYPE = {"x", "w", "gate_w", "external", "residual", "y"}
INTEGERS = {"cells", "count"}
MENDED = 0x20
"""Bit 21 of a descriptor's second word, in its third byte."""
TORCH = {Dtype.FLOAT32: torch.float32, Dtype.FLOAT16: torch.float16, Dtype.BFLOAT16: torch.bfloat16}
_LOAD = CFUNCTYPE(c_int, c_void_p, POINTER(c_uint64))
_FIND = CFUNCTYPE(c_int, c_uint64, c_char_p, POINTER(c_uint64))
_PREPARE = CFUNCTYPE(c_int, c_uint64, c_int, c_int, c_int)
_ENCODE = CFUNCTYPE(
    c_int,
    c_void_p,
    c_int,
    c_uint,
    c_void_p,
    POINTER(c_uint64),
    POINTER(c_uint64),
    POINTER(c_uint),
    POINTER(c_uint),
    POINTER(c_int),
)
_LAUNCH = CFUNCTYPE(c_int, c_uint64, POINTER(c_uint), c_uint64, c_void_p, POINTER(c_void_p), c_int)
_PLACE = CFUNCTYPE(c_int, c_uint64, c_int)
_CLEAR = CFUNCTYPE(c_int, c_void_p, c_int, c_uint64, c_void_p)


class _Recorder(Structure):
    _fields_ = (
        ("load", _LOAD),
        ("find", _FIND),
        ("prepare", _PREPARE),
        ("encode", _ENCODE),
        ("launch", _LAUNCH),
        ("place", _PLACE),
        ("clear", _CLEAR),
    )


@dataclass(frozen=True)
class Described:
    """A tensor as cuTensorMapEncodeTiled was told of it; axes from the outermost one."""

    address: int
    element_type: int
    sizes: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    """Without that of the last axis."""
    box: tuple[int, ...]
    steps: tuple[int, ...]
    options: tuple[int, ...]
    """Interleave, swizzle, promotion into L2, fill."""


@dataclass(frozen=True)
class Launch:
    """A kernel that was started."""

    compiled: ahead.Compiled
    grid: tuple[int, ...]
    threads: int
    shared: int
    stream: int
    values: dict[str, Any]
    """Of each argument; of a descriptor its :class:`Described`."""
    repeated: dict[str, tuple[int, ...]]
    """Sizes, then strides in elements, that follow a descriptor."""


@dataclass
class Recorded:
    """The library, and what its driver was asked for."""

    path: Path
    launches: list[Launch] = field(default_factory=list)
    cleared: list[tuple[int, int]] = field(default_factory=list)
    """Addresses and bytes that were set to 0."""
    prepared: list[tuple[str, int, int]] = field(default_factory=list)
    """Functions, their dynamic shared memory, devices."""
    mended: list[str] = field(default_factory=list)
    """Descriptors of small tensors that were changed for older drivers."""
    placed: list[tuple[str, int]] = field(default_factory=list)
    """Functions, devices that they were loaded on."""
    loads: int = 0
    decodes: bool = True
    """Read the parameters, whose places the table has to say."""
    runs: bool = True
    """Run the kernels on the interpreter."""
    fails: dict[str, int] = field(default_factory=dict)
    """Error codes by what fails: load, find, prepare, place, encode, launch, clear."""

    def __post_init__(self) -> None:
        self.library = Library(self.path)
        self.driver = CDLL(str(self.path))
        wanted = [(v, 90) for v in ahead.variants(90) if v.name in RECORDED_KERNELS]
        self._known = {c.cubin: c for c in ahead.compile_all(wanted, CUBIN_CACHE, 1)}
        self._codes: list[ahead.Compiled] = []
        self._described: list[Described] = []
        self._memory: list[Array] = []
        self._error: Exception | None = None
        self._callbacks = _Recorder(
            _LOAD(self._guarded("load", self._load)),
            _FIND(self._guarded("find", self._find)),
            _PREPARE(self._guarded("prepare", self._prepare)),
            _ENCODE(self._guarded("encode", self._encode)),
            _LAUNCH(self._guarded("launch", self._launch)),
            _PLACE(self._guarded("place", self._place)),
            _CLEAR(self._guarded("clear", self._clear)),
        )
        self.driver.lccl_recorded_set(byref(self._callbacks))

    def _guarded(self, name: str, function: Any) -> Any:
        def call(*arguments: Any) -> int:
            if name in self.fails:
                return self.fails[name]
            try:
                function(*arguments)
            except Exception as error:
                self._error = self._error or error
                return 999
            return 0

        return call

    def _load(self, code: int, library: Any) -> None:
        self.loads += 1
        head = string_at(code, 64)
        (programs, sections) = struct.unpack_from("<QQ", head, 0x20)
        program_bytes, program_count, section_bytes, section_count = struct.unpack_from("<HHHH", head, 0x36)
        ends = [programs + program_bytes * program_count, sections + section_bytes * section_count]
        table = string_at(code + sections, section_bytes * section_count)
        for i in range(section_count):
            kind, offset, size = struct.unpack_from("<4xI16xQQ", table, i * section_bytes)
            ends.append(offset + (0 if kind == 8 else size))
        self._codes.append(self._known[string_at(code, max(ends))])
        library[0] = len(self._codes)

    def _find(self, library: int, name: bytes, kernel: Any) -> None:
        assert name.decode() == self._codes[library - 1].function
        kernel[0] = library

    def _prepare(self, kernel: int, attribute: int, value: int, device: int) -> None:
        assert attribute == 8, "cudaFuncAttributeMaxDynamicSharedMemorySize"
        self.prepared.append((self._codes[kernel - 1].function, value, device))

    def _place(self, kernel: int, device: int) -> None:
        self.placed.append((self._codes[kernel - 1].function, device))

    def _encode(
        self, to: int, kind: int, rank: int, address: int, sizes: Any, strides: Any, box: Any, steps: Any, o: Any
    ) -> None:
        outer_first = lambda values, count: tuple(reversed(values[:count]))  # noqa: E731
        made = Described(
            address, kind, outer_first(sizes, rank), outer_first(strides, rank - 1), outer_first(box, rank),
            outer_first(steps, rank), tuple(o[:4]),
        )  # fmt: skip
        self._described.append(made)
        memmove(to, struct.pack("<Q", len(self._described)) + bytes([255] * 120), 128)

    def _clear(self, address: int, value: int, count: int, stream: int) -> None:
        assert value == 0
        self.cleared.append((address, count))
        memmove(address, bytes(count), count)

    def _launch(self, kernel: int, shape: Any, shared: int, stream: int, arguments: Any, attributes: int) -> None:
        compiled = self._codes[kernel - 1]
        if not self.decodes:
            self.launches.append(Launch(compiled, tuple(shape[:3]), shape[3], shared, stream or 0, {}, {}))
            return
        places = ahead.parameter_places(compiled.cubin, compiled.function)
        raw = [string_at(arguments[i], size) for i, (_, size) in enumerate(places)]
        first = arguments[0] - places[0][0]
        assert [arguments[i] - first for i in range(len(places))] == [offset for offset, _ in places]
        values, repeated = self._decode(compiled.variant, iter(raw))
        assert attributes == int(compiled.function != "gate_cells"), "programmatic launch, where a kernel of ours is ahead"
        made = Launch(compiled, tuple(shape[:3]), shape[3], shared, stream or 0, values, repeated)
        assert tuple(shape[4:6]) == (1, 1)
        self.launches.append(made)
        if self.runs:
            self._interpret(made)

    def _decode(self, variant: ahead.Variant, raw: Iterator[bytes]) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
        """Follow the source's own list of arguments."""
        constants = ahead.constants_of(variant, 90)
        described = ahead.descriptors_of(variant)
        values: dict[str, Any] = {}
        repeated: dict[str, tuple[int, ...]] = {}
        for name in ahead.arguments_of(variant):
            if name in constants:
                continue
            data = next(raw)
            if name in described:
                number = struct.unpack_from("<Q", data)[0]
                assert data[8:] in (bytes([255] * 120), bytes([255] * 2 + [255 - MENDED] + [255] * 117))
                if data[10] == 255 - MENDED:
                    self.mended.append(name)
                values[name] = self._described[number - 1]
                rank = len(values[name].sizes)
                kinds = ["<i"] * rank + ["<q"] * rank
                repeated[name] = tuple(struct.unpack(kind, next(raw))[0] for kind in kinds)
            else:
                values[name] = struct.unpack("<f" if name in FLOATS else "<i" if len(data) == 4 else "<q", data)[0]
        rest = list(raw)
        assert len(rest) <= 2
        assert not any(map(any, rest)), "scratch that nobody asked for"
        return values, repeated

    def _interpret(self, launch: Launch) -> None:
        variant = launch.compiled.variant
        function = getattr(kernels, ahead.FUNCTIONS[variant.kernel])
        dtype = Dtype[variant.dtype.upper()]
        arguments: dict[str, Any] = ahead.constants_of(variant, 90) | {"PDL": False}
        if "OPERAND" in arguments:
            arguments["OPERAND"] = tl.float32
        for name, value in launch.values.items():
            if isinstance(value, Described):
                strides = [s // STORAGE[dtype]().itemsize for s in value.strides_bytes] + [1]
                arguments[name] = TensorDescriptor(
                    self._tensor(value.address, TORCH[dtype]), list(value.sizes), strides, list(value.box)
                )
            elif name in OF_TYPE or name in ahead.POINTERS:
                kind = TORCH[dtype] if name in OF_TYPE else torch.int32 if name in INTEGERS else torch.float32
                arguments[name] = self._tensor(value, kind)
            else:
                arguments[name] = value
        function[launch.grid](**arguments)

    def _tensor(self, address: int, kind: torch.dtype) -> torch.Tensor:
        """The memory from an address on; of no address one NaN."""
        if address == 0:
            return torch.full((1,), float("nan"), dtype=kind)
        for array in self._memory:
            offset = address - array.ctypes.data
            if 0 <= offset < array.nbytes:
                size = torch.empty(0, dtype=kind).element_size()
                data = array.reshape(-1).view(np.uint8)[offset:]
                return torch.from_numpy(data[: data.nbytes // size * size]).view(kind)
        raise AssertionError(f"a kernel was given {address:#x}, which is in no tensor")

    def run(
        self,
        inputs: Mapping[str, Array],
        attributes: Attributes,
        dtype: Dtype,
        config: int,
        *,
        layout: Layout | None = None,
        in_place: bool = False,
        given: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        planned: Device = H200,
    ) -> tuple[Array, Array]:
        """Launch the op.

        Args:
            inputs: the nine inputs under their contract names.
            attributes: the node's.
            dtype: T.
            config: a configuration's id.
            layout: of x and y.
            in_place: the residual's memory is the output's.
            given: fields of the call to change.
            without: vectors that the call says that it has not.
            planned: the device that the call is planned for.

        Returns:
            y, [N, K, Ho, Wo], and its padding, [N, Ho, Wo, padding].
        """
        shapes = {name: inputs[name].shape for name in INPUT_NAMES}
        params = conv_params(shapes, attributes, dtype, layout)
        shape = output_shape(shapes, attributes)
        nhwc = params.layout == Layout.NHWC
        memory = {
            name: image_memory(inputs[name], nhwc=nhwc and name in ("X", "residual"), padding=np.nan)
            for name in real_inputs(shapes, attributes)
        }
        n, k, ho, wo = shape
        y = memory["residual"] if in_place else aligned((n, ho, wo, -(-k // 8) * 8) if nhwc else shape, STORAGE[dtype])
        if not in_place:
            y.reshape(-1).view(np.uint8)[...] = 0xFF
        for field_name, value in (given or {}).items():
            setattr(params, field_name, value)
        workspace = aligned((self.library.workspace(params, planned, config),), np.uint8)
        workspace[...] = np.random.default_rng(0).integers(0, 256, workspace.shape, np.uint8)
        for name, pointer in POINTERS.items():
            setattr(params, pointer, memory[name].ctypes.data if name in memory and name not in without else None)
        for name in without:
            setattr(params, f"{name}_size", 0)
        params.y = y.ctypes.data
        self._memory = [*memory.values(), y, workspace]
        self.launch(params, config, workspace, planned)
        whole = np.moveaxis(y, 3, 1) if nhwc else y
        return whole[:, :k], np.moveaxis(whole[:, k:], 1, 3)

    def launch(self, params: ConvParams, config: int, workspace: Array, device: Device = H200) -> None:
        """Start a call, and raise what went wrong in a callback."""
        self.launches.clear()
        self.cleared.clear()
        self._described.clear()
        self.mended.clear()
        self._error = None
        try:
            self.library.launch(params, device, config, workspace.ctypes.data, workspace.nbytes, stream=7)
        finally:
            if self._error is not None:
                raise self._error


def spoil(recorded: Recorded, cubin: int, parameter: int, row: bytes) -> None:
    """Change a row of a cubin's table of parameters; no cubin (-1): put all back."""
    recorded.driver.lccl_recorded_spoil(cubin, parameter, cast(c_char_p(row), c_void_p))
