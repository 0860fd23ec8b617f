"""Calls of the CUDA kernels' own source on the emulated machine.

They take NumPy arrays, and every access is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import CDLL, c_char_p, c_int32, c_size_t, c_uint64, c_void_p, create_string_buffer
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lccl.backends.torch.cuda.interface import Device, Dtype, Family, Layout
from lccl.backends.torch.cuda.library import Library
from lccl.backends.torch.cuda.planning import POINTERS, conv_params, padded, real_inputs
from lccl.op.contract import INPUT_NAMES, Attributes, output_shape

Array = npt.NDArray[Any]

STORAGE = {Dtype.FLOAT32: np.float32, Dtype.FLOAT16: np.float16, Dtype.BFLOAT16: ml_dtypes.bfloat16}
READ_ONLY, OUTPUT, PARTLY_IN_PLACE, IN_PLACE, SCRATCH = 0, 2, 3, 4, 5
"""lccl_emulator_access; outputs must be written completely, but for PARTLY_IN_PLACE."""


@dataclass(frozen=True)
class Emulated:
    """What a call left behind."""

    y: Array
    """[N, K, Ho, Wo] in T."""
    padding: Array
    """Padded channels of y, [N, Ho, Wo, padding]; empty in NCHW."""
    errors: str
    """What a GPU would have done wrong in silence, a sentence each; empty: nothing."""
    active: int
    """Active cells, or -1 where the configuration makes no list."""
    gates: Array
    """Gate of each cell, [N * Hg * Wg] float32."""


class Emulator:
    """The emulated machine's own functions, beside the kernels' in the same library."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.must_fill = False
        """Report pixels that are left alone, too."""
        loaded = CDLL(str(library.path))
        self._begin = loaded.lccl_emulator_begin
        self._begin.restype, self._begin.argtypes = None, (c_uint64, c_int32)
        self._register = loaded.lccl_emulator_register
        self._register.restype, self._register.argtypes = c_int32, (c_void_p, c_size_t, c_int32, c_char_p)
        self._finish = loaded.lccl_emulator_finish
        self._finish.restype, self._finish.argtypes = c_int32, (c_char_p, c_size_t)

    def run(
        self,
        inputs: Mapping[str, Array],
        attributes: Attributes,
        dtype: Dtype,
        device: Device,
        config: int,
        *,
        seed: int = 0,
        checked: bool = True,
        layout: Layout | None = None,
        in_place: bool = False,
        simulate: bool = False,
        padding: float = np.nan,
        kernels: Sequence[int] = (0,),
    ) -> Emulated:
        """The op on one configuration.

        Args:
            inputs: the nine inputs under their contract names; of T those that are T's.
            device: which the host code plans for.
            seed: of the order in which blocks and warps run, and of the workspace's garbage.
            in_place: the residual's memory is the output's.
            simulate: gates are simulated by density.
            padding: value of the padded channels of x and the residual.
            kernels: bits of ``Kernels`` of each launch, one after the other; 0: the whole op.
        """
        params = conv_params({name: inputs[name].shape for name in INPUT_NAMES}, attributes, dtype, layout)
        params.simulate_gate = simulate
        shape = output_shape({name: inputs[name].shape for name in INPUT_NAMES}, attributes)
        real = real_inputs({name: inputs[name].shape for name in INPUT_NAMES}, attributes)
        nhwc = params.layout == Layout.NHWC
        memory = {name: _as_memory(inputs[name], name, nhwc, padding) for name in real}
        y = memory["residual"] if in_place else aligned(_memory_shape(shape, nhwc), STORAGE[dtype])
        if not in_place:
            y.view(np.uint8)[...] = 0xFF
        workspace = aligned((self.library.workspace(params, device, config),), np.uint8)
        workspace[...] = np.random.default_rng(seed).integers(0, 256, workspace.shape, np.uint8)

        self._begin(seed, int(checked))
        for name, field in POINTERS.items():
            setattr(params, field, memory[name].ctypes.data if name in memory else None)
            if name in memory and not (name == "residual" and in_place):
                self._register(memory[name].ctypes.data, memory[name].nbytes, READ_ONLY, name.encode())
        params.y = y.ctypes.data
        self._register(y.ctypes.data, y.nbytes, self._access(inputs, attributes, nhwc, in_place, config), b"Y")
        self._register(workspace.ctypes.data, workspace.nbytes, SCRATCH, b"workspace")
        for bits in kernels:
            params.kernels = bits
            self.library.launch(params, device, config, workspace.ctypes.data, workspace.nbytes)
        report = create_string_buffer(8192)
        count = self._finish(report, len(report))
        errors = report.value.decode() if count else ""

        k = shape[1]
        whole = np.moveaxis(y, 3, 1) if nhwc else y
        n, _, hg, wg = shape[0], 1, -(-shape[2] // attributes.grid), -(-shape[3] // attributes.grid)
        gates = workspace[: n * hg * wg * 4].view(np.float32)
        return Emulated(whole[:, :k], np.moveaxis(whole[:, k:], 1, 3), errors, int((gates > 0).sum()), gates)

    def _access(self, inputs: Mapping[str, Array], attributes: Attributes, nhwc: bool, in_place: bool, config: int) -> int:
        """How Y has to be written.

        A closed pixel that keeps its residual, and nothing else, is left alone.
        """
        if not in_place:
            return OUTPUT
        bias = inputs["post_bias"]
        kept = attributes.post_alpha == 1 and bias.size == 1 and not bias.any() and not (nhwc and inputs["W"].shape[0] % 8)
        lists = self.library.config(config).family != Family.DENSE
        return PARTLY_IN_PLACE if kept and lists and not self.must_fill else IN_PLACE


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array whose memory begins at a multiple of 256 bytes; never of no bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 512, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + size].view(dtype).reshape(shape)


def _memory_shape(shape: tuple[int, ...], nhwc: bool) -> tuple[int, ...]:
    n, c, h, w = shape
    return (n, h, w, padded(c)) if nhwc else shape


def _as_memory(value: Array, name: str, nhwc: bool, padding: float) -> Array:
    """An input as the kernels take it: x and residual in the call's layout, all else as it is."""
    return image_memory(value, nhwc=nhwc and name in ("X", "residual"), padding=padding)


def image_memory(value: Array, *, nhwc: bool, padding: float = np.nan) -> Array:
    """The tensor in memory of its own: as it is, or [n, h, w, padded channels]."""
    memory = aligned(_memory_shape(value.shape, True) if nhwc else value.shape, value.dtype)
    if nhwc:
        memory[...] = padding
        memory[..., : value.shape[1]] = np.moveaxis(value, 1, 3)
    else:
        memory[...] = value
    return memory
