"""The mirror of ``lccl_cuda.h`` in ctypes, which a test compares with the header."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from enum import IntEnum, IntFlag
from typing import Any

ABI = 4
"""LCCL_CUDA_ABI, the version of the interface."""
ALIGNMENT = 16
"""The alignment of every pointer of a call, in bytes."""
CHANNEL_PAD = 8
"""The multiple to which the channels of an NHWC tensor are padded."""


class Dtype(IntEnum):
    """lccl_dtype: the type T of a call's tensors."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2


class Layout(IntEnum):
    """lccl_layout: the order of a tensor's dimensions in memory."""

    NHWC = 0
    NCHW = 1


class Family(IntEnum):
    """lccl_family: how a configuration finds its work."""

    DENSE = 1
    BLOCK = 2
    PIXEL = 3


class Math(IntEnum):
    """lccl_math: how a configuration multiplies."""

    SIMT = 0
    MMA = 1
    TRITON = 5


class Kernels(IntFlag):
    """lccl_kernel: the kernels of a call.

    ``ConvParams.kernels`` is 0 for the op, or selects kernels to time.
    """

    PACK = 1
    GATE = 2
    MAIN = 4


class ConvParams(Structure):
    """lccl_conv_params: one call."""

    _fields_ = (
        ("abi", c_uint32),
        ("dtype", c_int32),
        ("layout", c_int32),
        ("n", c_int32),
        ("c", c_int32),
        ("h", c_int32),
        ("w", c_int32),
        ("k", c_int32),
        ("r", c_int32),
        ("s", c_int32),
        ("strides", c_int32 * 2),
        ("pads", c_int32 * 4),
        ("dilations", c_int32 * 2),
        ("gate_r", c_int32),
        ("gate_s", c_int32),
        ("gate_strides", c_int32 * 2),
        ("gate_pads", c_int32 * 4),
        ("gate_dilations", c_int32 * 2),
        ("grid", c_int32),
        ("post_scale_size", c_int32),
        ("post_bias_size", c_int32),
        ("has_gate_weight", c_int32),
        ("has_gate", c_int32),
        ("has_residual", c_int32),
        ("activation_alpha", c_float),
        ("gate_slope", c_float),
        ("gate_max", c_float),
        ("gate_threshold", c_float),
        ("post_alpha", c_float),
        ("density", c_float),
        ("simulate_gate", c_int32),
        ("kernels", c_int32),
        ("x", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("gate_weight", c_void_p),
        ("gate_bias", c_void_p),
        ("gate", c_void_p),
        ("post_scale", c_void_p),
        ("post_bias", c_void_p),
        ("residual", c_void_p),
        ("y", c_void_p),
    )


class Device(Structure):
    """lccl_device: the properties of a GPU that planning needs."""

    _fields_ = (
        ("compute_capability", c_int32),
        ("sm_count", c_int32),
        ("shared_per_block", c_int32),
        ("shared_per_sm", c_int32),
    )


class ConvConfig(Structure):
    """lccl_conv_config: one row of the table of configurations."""

    _fields_ = (
        ("id", c_int32),
        ("name", c_char_p),
        ("family", c_int32),
        ("math", c_int32),
        ("tile_m", c_int32),
        ("tile_n", c_int32),
        ("tile_k", c_int32),
        ("stages", c_int32),
        ("warps_m", c_int32),
        ("warps_n", c_int32),
        ("shared_bytes", c_int32),
        ("max_registers", c_int32),
        ("blocks_per_sm", c_int32),
    )


class Rates(Structure):
    """lccl_rates: the constants of the time model, per second."""

    _fields_ = (
        ("tensor_flops", c_double),
        ("core_flops", c_double),
        ("tile_base", c_double),
        ("tile_reuse", c_double),
        ("tile_most", c_double),
        ("cache_bytes", c_double),
        ("dram_bytes", c_double),
        ("first_launch", c_double),
        ("next_launch", c_double),
        ("gate_latency", c_double),
        ("main_latency", c_double),
        ("gate_bytes", c_double),
        ("fill_bytes", c_double),
        ("fill_residual_bytes", c_double),
        ("rows_flops", c_double),
        ("boxes_flops", c_double),
    )


CUDA_ERROR = c_int
"""cudaError_t."""
CUDA_STREAM = c_void_p
"""cudaStream_t."""

_CALL = (POINTER(ConvParams), POINTER(Device), c_int32)

PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "lccl_conv_config_count": (c_int32, ()),
    "lccl_conv_config_at": (POINTER(ConvConfig), (c_int32,)),
    "lccl_device_query": (CUDA_ERROR, (c_int32, POINTER(Device))),
    "lccl_conv_resident_blocks": (c_int32, (POINTER(Device), c_int32)),
    "lccl_conv_supported": (c_int32, (*_CALL, c_char_p, c_size_t)),
    "lccl_conv_choose": (c_int32, (POINTER(ConvParams), POINTER(Device))),
    "lccl_conv_rates": (None, (POINTER(Device), POINTER(Rates))),
    "lccl_conv_predict": (c_double, (*_CALL, POINTER(Rates))),
    "lccl_conv_workspace": (c_size_t, _CALL),
    "lccl_conv_load": (CUDA_ERROR, _CALL),
    "lccl_conv_check": (c_int32, (*_CALL, c_void_p, c_size_t, c_char_p, c_size_t)),
    "lccl_conv_launch": (CUDA_ERROR, (*_CALL, c_void_p, c_size_t, CUDA_STREAM)),
}
"""The result type and argument types of each function, in the header's order."""

SUCCESS, INVALID_VALUE, NOT_SUPPORTED = 0, 1, 801
"""The values of cudaError_t that the header documents."""
