"""The op on torch tensors by the Triton kernels: memory, arguments, launches.

Importing this module imports Triton.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

import triton
from lccl.backends.torch.triton import kernels
from lccl.backends.torch.triton.configurations import (
    CONFIGURATIONS,
    DENSE_SHARE,
    PROGRAMMATIC_LAUNCH,
    SIDE,
    Configuration,
    Layer,
    choose,
    in_eights,
    misfit,
    refusal,
)
from lccl.errors import ContractError, UserError
from lccl.op.contract import INPUT_NAMES, Attributes, grid_hw, output_shape
from lccl.op.torch_op import compute
from triton import language as tl

TRITON = (int(triton.__version__.split(".")[0]), int(triton.__version__.split(".")[1]))
GATE_TILE = (64, 64)
"""Cells and channels of the gate's tile."""
FILL_TILE = (64, 64)
ALIGNMENT = 16
"""Of memory, in bytes: a copy's."""
PROGRAMS_PER_MULTIPROCESSOR = 2
_OPERANDS = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
INTERPRETED_PROGRAMS = 3
"""Programs on a CPU; more than one, so that each has several tiles and all share the work."""


def layer_of(inputs: dict[str, Tensor], attributes: Attributes, capability: int) -> Layer:
    """Describe a call for the choice of its configuration."""
    n, _, ho, wo = output_shape({name: tuple(inputs[name].shape) for name in INPUT_NAMES}, attributes)
    k, r, s, c = inputs["W"].shape
    hg, wg = grid_hw((ho, wo), attributes.grid)
    h, w = inputs["X"].shape[2:]
    return Layer(c, k, (r, s), attributes, n * hg * wg, inputs["X"].element_size(), capability, (h, w), TRITON)


def run(
    inputs: dict[str, Tensor],
    attributes: Attributes,
    *,
    capability: int | None = None,
    configuration: str | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """Run the op.

    Args:
        inputs: the nine inputs under their contract names, in the contract's types, on one device:
            CUDA, or the CPU under Triton's interpreter.
        attributes: the node's attributes.
        capability: compute capability to choose for, as 10 * major + minor; None: the device's.
        configuration: the name of a configuration; None: the choice of
            :func:`lccl.backends.torch.triton.configurations.choose`.
        into: the memory that y is written to, in the form of :func:`memory_of`; None: new memory.
            It may be the residual's own.

    Returns:
        Y [N, K, Ho, Wo] of X's type, channels_last in memory, K padded to 8.

    Raises:
        ContractError: shapes that version 1 does not allow, or a form that no configuration, or not
            this one, takes.
    """
    device = inputs["X"].device
    layer = layer_of(inputs, attributes, capability or _capability(device))
    chosen = choose(layer) if configuration is None else _named(configuration)
    if chosen is None:
        raise ContractError(refusal(layer, "rows"))
    reason = refusal(layer, chosen.family) or misfit(chosen, layer.capability, layer.element_bytes)
    if reason:
        raise ContractError(f"{chosen.name} does not take this layer: {reason}")
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _launch(inputs, attributes, layer, chosen, into)


def run_checked(inputs: dict[str, Tensor], attributes: Attributes) -> Tensor:
    """Run the op; the first call of each configuration, type and device is compared with PyTorch's.

    So a compiler or a GPU on which a configuration goes wrong at its first call costs time, but
    gives no wrong result. Later calls, also those of other sizes, are not compared.

    Args:
        inputs, attributes: as for :func:`run`.

    Raises:
        ContractError: as for :func:`run`.
        UserError: the outputs differ; so they do in every later call.
    """
    device = inputs["X"].device
    chosen = choose(layer_of(inputs, attributes, _capability(device)))
    key = (device, chosen.name if chosen else "", inputs["X"].dtype)
    if _agrees.get(key) is False:
        raise UserError(_DIFFERS)
    y = run(inputs, attributes)
    if key not in _agrees and y.numel():
        _agrees[key] = _agree(compute(inputs, attributes), y)
        if not _agrees[key]:
            raise UserError(_DIFFERS)
    return y


_agrees: dict[tuple[torch.device, str, torch.dtype], bool] = {}
"""What the first calls showed."""
_DIFFERS = "what Triton compiles here gives other outputs than PyTorch's ops: please report it, with the versions of both"
_TOLERANCES = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 4e-3}
"""Relative to max(1, largest output). PyTorch's own convolutions round float32 to TF32."""
_MOST_DIFFERENT = 1e-3
"""Share of outputs: a logit at the edge may open or close a gate by its rounding."""


def _agree(want: Tensor, got: Tensor) -> bool:
    """Return whether nearly all outputs are equal within the type's tolerance, NaN for NaN."""
    allowed = _TOLERANCES[want.dtype] * max(1.0, float(want.abs().nan_to_num(0.0, 0.0, 0.0).max()))
    near = ((want - got).abs() <= allowed) | (want == got) | (want.isnan() & got.isnan())
    return float((~near).sum()) <= _MOST_DIFFERENT * near.numel()


def _launch(inputs: dict[str, Tensor], a: Attributes, layer: Layer, chosen: Configuration, into: Tensor | None) -> Tensor:
    n, _, h, w = inputs["X"].shape
    shape = output_shape({name: tuple(inputs[name].shape) for name in INPUT_NAMES}, a)
    _, k, ho, wo = shape
    hg, wg = grid_hw((ho, wo), a.grid)
    c, kp = in_eights(layer.channels), in_eights(k)
    y = inputs["X"].new_empty((n, ho, wo, kp)) if into is None else into
    if y.numel() == 0:
        return _image(y, k)
    x, residual = memory_of(inputs["X"]), inputs["residual"]
    has_residual = tuple(residual.shape) == shape
    added = memory_of(residual) if has_residual else y
    weights = {name: _in_eights(inputs[name]) for name in ("W", "gate_W")}
    weights |= {name: inputs[name].contiguous() for name in ("B", "gate_B", "post_scale", "post_bias")}
    external = inputs["gate"].contiguous()
    gmap = torch.empty(layer.cells, dtype=torch.float32, device=x.device)
    cells = torch.empty(layer.cells, dtype=torch.int32, device=x.device)
    count = torch.zeros(1, dtype=torch.int32, device=x.device)
    rg, sg = weights["gate_W"].shape[1:3]
    x_strides, y_strides = (h * w * c, c, 1), (ho * wo * kp, kp, 1, kp)
    is_programmatic = x.is_cuda and layer.capability >= PROGRAMMATIC_LAUNCH
    common: dict[str, Any] = {"EIGHTS": True, "PDL": is_programmatic, "launch_pdl": is_programmatic, "enable_fp_fusion": True}
    kernels.gate_cells[(triton.cdiv(layer.cells, GATE_TILE[0]),)](
        x, weights["gate_W"], weights["gate_B"], external, gmap, cells, count,
        layer.cells, h, w, hg, wg, c, rg, sg, *a.gate_strides, *a.gate_pads[:2], *a.gate_dilations, *x_strides,
        a.gate_slope, a.gate_max, a.gate_threshold, int(external.numel() == layer.cells), 1, -1.0, 0,
        FUSED=a.gate_source == "fused", BM=GATE_TILE[0], BC=GATE_TILE[1], **common,
    )  # fmt: skip
    vectors = (weights["B"], weights["post_scale"], weights["post_bias"])
    scale_stride, offset_stride = (int(weights[name].numel() == k) for name in ("post_scale", "post_bias"))
    geometry = (a.pads[0], a.pads[1], *a.dilations)
    rest = (a.activation_alpha, a.post_alpha, scale_stride, offset_stride, int(has_residual), DENSE_SHARE)
    options: dict[str, Any] = {
        "PRECISION": "tf32x3" if x.dtype == torch.float32 else "ieee",
        "OPERAND": _OPERANDS[x.dtype] if x.is_cuda else tl.float32,
        "BN": chosen.tile_n,
        "BK": chosen.tile_k,
        "EN": chosen.part_n,
        "num_warps": chosen.warps,
        "num_stages": chosen.stages,
    }
    r, s = layer.kernel
    grid = (_programs(x.device, layer, chosen),)
    if chosen.family == "rows":
        kernels.conv_rows[grid](
            x, weights["W"], *vectors, added, gmap, cells, count, y,
            layer.cells, h, w, ho, wo, hg, wg, c, k, r, s, a.grid, *a.strides, *geometry, *x_strides, *y_strides, *rest,
            BM=chosen.tile_m, **options, **common,
        )  # fmt: skip
    else:
        box, part = [1, SIDE, SIDE, chosen.tile_k], [1, SIDE, SIDE, chosen.part_n]
        common.pop("EIGHTS")
        described = (
            _described(x, box),
            _described(weights["W"].reshape(k, r * s, c), [chosen.tile_n, 1, chosen.tile_k]),
            _described(added, part),
            _described(y, part),
        )
        kernels.conv_boxes[grid](
            *described, *vectors, gmap, cells, count, layer.cells, hg, wg, c, k, r, s, a.grid, *geometry, *rest,
            SIDE=SIDE, **options, **common,
        )  # fmt: skip
    pixels = n * ho * wo
    keeps = int(has_residual and added.data_ptr() == y.data_ptr() and a.post_alpha == 1)
    kernels.close_pixels[(triton.cdiv(pixels, FILL_TILE[0]), triton.cdiv(kp, FILL_TILE[1]))](
        weights["post_bias"], added, gmap, y, pixels, ho, wo, hg, wg, k, a.grid,
        *y_strides, a.post_alpha, offset_stride, int(has_residual), keeps,
        BM=FILL_TILE[0], BN=FILL_TILE[1], **common | {"EIGHTS": True},
    )  # fmt: skip
    return _image(y, k)


def _programs(device: torch.device, layer: Layer, chosen: Configuration) -> int:
    """The number of programs that share the tiles, at most one a tile."""
    tiles = triton.cdiv(layer.cells * layer.attributes.grid**2, chosen.tile_m) * triton.cdiv(layer.filters, chosen.tile_n)
    most = PROGRAMS_PER_MULTIPROCESSOR * _multiprocessors(device) if device.type == "cuda" else INTERPRETED_PROGRAMS
    return int(max(1, min(tiles, most)))


@lru_cache(maxsize=64)
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache(maxsize=64)
def _capability(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def memory_of(tensor: Tensor) -> Tensor:
    """Return [N, C, H, W] as the kernels take it: [N, H, W, C in eights], contiguous and aligned.

    Lanes beyond C are 0. There is no copy of a channels_last tensor whose C is a multiple of 8.
    """
    memory = _in_eights(tensor.permute(0, 2, 3, 1))
    return memory if memory.data_ptr() % ALIGNMENT == 0 else memory.clone()


def _described(tensor: Tensor, box: list[int]) -> TensorDescriptor:
    """Describe a contiguous tensor by the strides of its sizes.

    Along an axis of one element PyTorch's own strides may be anything: those of a permuted
    [2, 16, 1, 1] are no multiples of 16 bytes.
    """
    sizes = list(tensor.shape)
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    return TensorDescriptor(tensor, sizes, strides, box)


def _in_eights(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor, its last axis filled up with zeros to a multiple of 8."""
    extra = in_eights(tensor.shape[-1]) - tensor.shape[-1]
    return torch.nn.functional.pad(tensor, (0, extra)).contiguous() if extra else tensor.contiguous()


def _image(memory: Tensor, channels: int) -> Tensor:
    """Return [N, C, H, W], a view of :func:`memory_of`'s form."""
    return memory[..., :channels].permute(0, 3, 1, 2)


def _named(name: str) -> Configuration:
    found = next((c for c in CONFIGURATIONS if c.name == name), None)
    if found is None:
        raise ContractError(f"there is no configuration {name}; there are {', '.join(c.name for c in CONFIGURATIONS)}")
    return found
