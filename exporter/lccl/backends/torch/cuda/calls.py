"""Calls of the kernels on torch tensors: memory, addresses and the launch.

Tensors keep PyTorch's shapes and differ in memory only. float16 and bfloat16 lie in NHWC with
channels padded to 8: a channels_last tensor with a multiple of 8 channels has that form already and
is used in place; every other tensor is copied. float32 lies as X does, in NCHW or, where X is
channels_last, in NHWC.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lccl.backends.torch.cuda.interface import ALIGNMENT, ConvParams, Device, Dtype, Layout
from lccl.backends.torch.cuda.library import Library
from lccl.backends.torch.cuda.planning import POINTERS, conv_params, default_layout, padded, real_inputs
from lccl.errors import ContractError
from lccl.op.contract import INPUT_NAMES, INPUTS, Attributes, Shape, output_shape
from lccl.op.torch_op import memory_format_of

DTYPES = {torch.float32: Dtype.FLOAT32, torch.float16: Dtype.FLOAT16, torch.bfloat16: Dtype.BFLOAT16}


def type_refusal(inputs: dict[str, Tensor]) -> str:
    """Return why the kernels do not support these tensors' types or devices; empty if they do."""
    x = inputs["X"]
    if x.dtype not in DTYPES:
        return f"the kernels take float32, float16 and bfloat16, not {_name(x.dtype)}"
    for spec in INPUTS:
        tensor = inputs[spec.name]
        wanted = x.dtype if spec.is_tensor_type else torch.float32
        if tensor.dtype != wanted:
            return f"{spec.name} must be {_name(wanted)} as the contract has it, not {_name(tensor.dtype)}"
        if tensor.device != x.device:
            return f"{spec.name} is on {tensor.device} and X on {x.device}: move both to one device"
    return ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def empty_image(shape: Shape, layout: Layout, like: Tensor) -> Tensor:
    """Allocate the kernels' memory for a tensor [n, channels, h, w].

    Args:
        shape: (n, channels, h, w).
        layout: NHWC or NCHW.
        like: a tensor of the same type and device.

    Returns:
        [n, h, w, padded channels] in NHWC, [n, channels, h, w] in NCHW.
    """
    n, channels, h, w = shape
    return like.new_empty((n, h, w, padded(channels)) if layout == Layout.NHWC else shape)


def image_view(memory: Tensor, shape: Shape, layout: Layout) -> Tensor:
    """Return the tensor [n, channels, h, w] that lies in memory from :func:`empty_image`."""
    return memory[..., : shape[1]].permute(0, 3, 1, 2) if layout == Layout.NHWC else memory


def as_image(tensor: Tensor, layout: Layout) -> Tensor:
    """Return the tensor [n, channels, h, w] if in the kernels' memory, else a copy that is."""
    shape = tuple(tensor.shape)
    dense = torch.channels_last if layout == Layout.NHWC else torch.contiguous_format
    whole = layout == Layout.NCHW or padded(shape[1]) == shape[1]
    if whole and tensor.is_contiguous(memory_format=dense) and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    image = image_view(empty_image(shape, layout, tensor), shape, layout)
    return image.copy_(tensor)


def _as_row(tensor: Tensor) -> Tensor:
    """Return the tensor if it is contiguous in aligned memory, else a copy that is."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


@dataclass(frozen=True)
class Prepared:
    """A call with its tensors, which keeps alive what ``params`` points to."""

    params: ConvParams
    inputs: dict[str, Tensor]
    """The inputs that are not neutral, in the kernels' memory, under their contract names."""
    memory: Tensor
    """The memory that y is written to, padding included."""
    output: Tensor
    """Y [N, K, Ho, Wo], a view of ``memory``."""


@dataclass(frozen=True)
class Template:
    """A call without its tensors."""

    params: bytes
    """A ConvParams without addresses."""
    real: frozenset[str]
    """Names of the inputs that are not neutral."""
    shape: Shape
    """Y's shape, [N, K, Ho, Wo]."""
    layout: Layout


@lru_cache(maxsize=4096)
def _template(shapes: tuple[Shape, ...], attributes: Attributes, dtype: Dtype, layout: Layout) -> Template:
    """Make the template once for each layer and input size."""
    named = dict(zip(INPUT_NAMES, shapes, strict=True))
    params = bytes(conv_params(named, attributes, dtype, layout))
    return Template(params, real_inputs(named, attributes), output_shape(named, attributes), layout)


def template_of(inputs: dict[str, Tensor], attributes: Attributes, layout: Layout) -> Template:
    """Return the template of a call with these inputs, types checked by :func:`type_refusal`."""
    shapes = tuple(tuple(inputs[name].shape) for name in INPUT_NAMES)
    return _template(shapes, attributes, DTYPES[inputs["X"].dtype], layout)


def place(inputs: dict[str, Tensor], template: Template, memory: Tensor | None = None) -> Prepared:
    """Bring tensors into the kernels' memory and complete a template with their addresses.

    Args:
        inputs: the nine inputs under their contract names.
        template: the call without its tensors.
        memory: the memory that y is written to; None: new memory.
    """
    layout = template.layout
    params = ConvParams.from_buffer_copy(template.params)
    placed = {
        name: as_image(inputs[name], layout) if name in ("X", "residual") else _as_row(inputs[name]) for name in template.real
    }
    for name, tensor in placed.items():
        setattr(params, POINTERS[name], tensor.data_ptr())
    if memory is None:
        memory = empty_image(template.shape, layout, inputs["X"])
    params.y = memory.data_ptr()
    return Prepared(params, placed, memory, image_view(memory, template.shape, layout))


def layout_of(x: Tensor) -> Layout:
    """Return the layout of X: NHWC, except for float32 that is not channels_last."""
    if memory_format_of(x) == torch.channels_last:
        return Layout.NHWC
    return default_layout(DTYPES[x.dtype])


def prepare(
    inputs: dict[str, Tensor], attributes: Attributes, *, layout: Layout | None = None, memory: Tensor | None = None
) -> Prepared:
    """Bring the inputs into the kernels' memory and make a call of them.

    Args:
        inputs: the nine inputs under their contract names, on one device.
        attributes: the node's attributes.
        layout: the layout of x, residual and y; None: see :func:`layout_of`.
        memory: the memory that y is written to, from :func:`empty_image` for Y's shape; None: new
            memory. It may be the residual's own.

    Raises:
        ContractError: types or shapes that the kernels do not support.
    """
    reason = type_refusal(inputs)
    if reason:
        raise ContractError(reason)
    layout = layout_of(inputs["X"]) if layout is None else layout
    return place(inputs, template_of(inputs, attributes, layout), memory)


def new_workspace(size: int, like: Tensor) -> Tensor:
    """Allocate ``size`` bytes, at least :data:`ALIGNMENT`, on the device of ``like``."""
    return torch.empty(max(size, ALIGNMENT), dtype=torch.uint8, device=like.device)


def launch(
    library: Library, device: Device, call: Prepared, config: int, workspace: Tensor, stream: int | None = None
) -> Tensor:
    """Enqueue a prepared call and return its output Y [N, K, Ho, Wo].

    Args:
        library: the kernels' library.
        device: the device to plan for.
        call: the call.
        config: the id of a configuration.
        workspace: a uint8 tensor of at least ``Library.workspace`` bytes.
        stream: a cudaStream_t; None: PyTorch's current one.

    Raises:
        ContractError: the configuration cannot run the call.
        UserError: the workspace is too small, or CUDA refused a launch.
    """
    x = call.memory
    if stream is None:
        stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        library.launch(call.params, device, config, workspace.data_ptr(), workspace.numel(), stream)
    return call.output
