"""The op on torch tensors through the kernels' library, and the kernels as ``torch.ops.lccl.conv`` on CUDA tensors.

Tensors keep PyTorch's shapes; what differs is memory. float16 and bfloat16 lie in NHWC with channels padded to 8: a
channels_last tensor of a multiple of 8 channels is such memory already and is used where it is, every other tensor is copied
into it. float32 lies as X does, in NCHW or, where X is channels_last, in NHWC.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lccl.backends.torch.cuda.interface import ALIGNMENT, ConvParams, Device, Dtype, Layout
from lccl.backends.torch.cuda.library import Library, load, why_none
from lccl.backends.torch.cuda.planning import POINTERS, conv_params, default_layout, padded, real_inputs
from lccl.errors import ContractError
from lccl.op.contract import INPUT_NAMES, INPUTS, Attributes, Shape, output_shape
from lccl.op.torch_op import OP_DEFINITION, TORCH_ATTRIBUTES, compute, match_memory_format, memory_format_of, unpack

DTYPES = {torch.float32: Dtype.FLOAT32, torch.float16: Dtype.FLOAT16, torch.bfloat16: Dtype.BFLOAT16}


def type_refusal(inputs: dict[str, Tensor]) -> str:
    """Why the kernels cannot take these tensors as they are, whatever their shapes; empty if they can."""
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
    """Memory of a [n, channels, h, w] tensor as the kernels have it: [n, h, w, padded channels] or [n, channels, h, w]."""
    n, channels, h, w = shape
    return like.new_empty((n, h, w, padded(channels)) if layout == Layout.NHWC else shape)


def image_view(memory: Tensor, shape: Shape, layout: Layout) -> Tensor:
    """The [n, channels, h, w] tensor that lies in memory made by :func:`empty_image`."""
    return memory[..., : shape[1]].permute(0, 3, 1, 2) if layout == Layout.NHWC else memory


def as_image(tensor: Tensor, layout: Layout) -> Tensor:
    """A tensor [n, channels, h, w] with the same values whose memory is as the kernels read it; itself if it is already."""
    shape = tuple(tensor.shape)
    dense = torch.channels_last if layout == Layout.NHWC else torch.contiguous_format
    whole = layout == Layout.NCHW or padded(shape[1]) == shape[1]
    if whole and tensor.is_contiguous(memory_format=dense) and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    image = image_view(empty_image(shape, layout, tensor), shape, layout)
    return image.copy_(tensor)


def _as_row(tensor: Tensor) -> Tensor:
    """A contiguous tensor of aligned memory with the same values."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


@dataclass(frozen=True)
class Prepared:
    """A call with its tensors in place: what ``params`` points to lives as long as this does."""

    params: ConvParams
    inputs: dict[str, Tensor]
    """The real inputs in the kernels' memory, under their contract names."""
    memory: Tensor
    """What y is written into, padding included."""
    output: Tensor
    """Y [N, K, Ho, Wo], a view of ``memory``."""


@dataclass(frozen=True)
class _Template:
    """A call without its tensors."""

    params: bytes
    """A ConvParams without addresses."""
    real: frozenset[str]
    shape: Shape
    """Of Y."""
    layout: Layout


@lru_cache(maxsize=4096)
def _template(shapes: tuple[Shape, ...], attributes: Attributes, dtype: Dtype, layout: Layout) -> _Template:
    """Made once for each layer and input size."""
    named = dict(zip(INPUT_NAMES, shapes, strict=True))
    params = bytes(conv_params(named, attributes, dtype, layout))
    return _Template(params, real_inputs(named, attributes), output_shape(named, attributes), layout)


def _template_of(inputs: dict[str, Tensor], attributes: Attributes, layout: Layout) -> _Template:
    shapes = tuple(tuple(inputs[name].shape) for name in INPUT_NAMES)
    return _template(shapes, attributes, DTYPES[inputs["X"].dtype], layout)


def _place(inputs: dict[str, Tensor], template: _Template, memory: Tensor | None = None) -> Prepared:
    """The call of a template with these tensors in the kernels' memory."""
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
    """The layout in which X is handed over: NHWC, but for float32 that is not channels_last."""
    if memory_format_of(x) == torch.channels_last:
        return Layout.NHWC
    return default_layout(DTYPES[x.dtype])


def prepare(
    inputs: dict[str, Tensor], attributes: Attributes, *, layout: Layout | None = None, memory: Tensor | None = None
) -> Prepared:
    """Brings the inputs into the kernels' memory and notes their addresses.

    Args:
        inputs: the nine inputs under their contract names, on one device.
        layout: of x, residual and y; None: see :func:`layout_of`.
        memory: what y is written into, from :func:`empty_image` of Y's shape; None: new memory. It may be the residual's own.

    Raises:
        ContractError: types or shapes that the kernels do not take.
    """
    reason = type_refusal(inputs)
    if reason:
        raise ContractError(reason)
    layout = layout_of(inputs["X"]) if layout is None else layout
    return _place(inputs, _template_of(inputs, attributes, layout), memory)


def new_workspace(size: int, like: Tensor) -> Tensor:
    """``size`` bytes (at least one alignment's worth) on the device of ``like``."""
    return torch.empty(max(size, ALIGNMENT), dtype=torch.uint8, device=like.device)


def launch(
    library: Library, device: Device, call: Prepared, config: int, workspace: Tensor, stream: int | None = None
) -> Tensor:
    """Enqueues a prepared call and returns its output.

    Args:
        config: the id of a configuration.
        workspace: uint8; see ``Library.workspace``.
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


def run(
    library: Library,
    device: Device,
    inputs: dict[str, Tensor],
    attributes: Attributes,
    *,
    config: int = 0,
    stream: int | None = None,
    workspace: Tensor | None = None,
    layout: Layout | None = None,
) -> Tensor:
    """Runs the op: CUDA tensors with the kernels' library, CPU tensors with the emulator's.

    Args:
        inputs: the nine inputs under their contract names.
        config: the id of a configuration; 0: the one with the smallest predicted time.
        stream: a cudaStream_t; None: PyTorch's current one.
        workspace: uint8, as many bytes as ``Library.workspace`` says; None: new memory.
        layout: of the tensors in memory; None: see :func:`layout_of`.

    Returns:
        Y [N, K, Ho, Wo] of X's type; in NHWC a channels_last view of memory [N, Ho, Wo, K padded to 8].

    Raises:
        ContractError: types, shapes or attributes that the kernels, or this configuration, do not take.
        UserError: the workspace is too small, or CUDA refused a launch.
    """
    with _on_stream(inputs["X"], stream):
        call = prepare(inputs, attributes, layout=layout)
        chosen = config or library.choose(call.params, device)
        if chosen == 0:
            raise ContractError(library.supported(call.params, device).reason)
        if workspace is None:
            workspace = new_workspace(library.workspace(call.params, device, chosen), inputs["X"])
        return launch(library, device, call, chosen, workspace, stream)


def _on_stream(x: Tensor, stream: int | None) -> AbstractContextManager[Any]:
    """Copies and new memory belong to the stream of the call, so that the allocator does not hand them on too early."""
    if stream is None or not x.is_cuda:
        return nullcontext()
    external: Any = torch.cuda.ExternalStream
    return torch.cuda.stream(external(stream, device=x.device))


@lru_cache(maxsize=64)
def device_of(device: torch.device) -> Device:
    """What planning needs to know of a CUDA device, as PyTorch has it."""
    facts: Any = torch.cuda.get_device_properties(device)
    return Device(
        facts.major * 10 + facts.minor,
        facts.multi_processor_count,
        facts.shared_memory_per_block_optin,
        facts.shared_memory_per_multiprocessor,
    )


class _Kernel:
    """``torch.ops.lccl.conv`` on one type of device: the kernels, or PyTorch's own ops with the reason told once."""

    def __init__(self, library: Library | None, device: Device | None) -> None:
        self._given = library
        self._device = device
        self._told: set[str] = set()

    def __call__(self, *arguments: Any) -> Tensor:
        inputs, attributes = unpack(dict(zip((*INPUT_NAMES, *TORCH_ATTRIBUTES), arguments, strict=True)))
        output_shape({name: tuple(t.shape) for name, t in inputs.items()}, attributes)
        x = inputs["X"]
        y = self._by_kernels(inputs, attributes)
        return match_memory_format(compute(inputs, attributes) if y is None else y, x)

    def _by_kernels(self, inputs: dict[str, Tensor], attributes: Attributes) -> Tensor | None:
        library = self._given or _installed()
        if library is None:
            self._tell(why_none())
            return None
        reason = type_refusal(inputs)
        if reason:
            self._tell(reason)
            return None
        device = self._device or device_of(inputs["X"].device)
        template = _template_of(inputs, attributes, layout_of(inputs["X"]))
        choice = _choose(library, bytes(device), template.params)
        if choice.reason:
            self._tell(choice.reason)
            return None
        return launch(library, device, _place(inputs, template), choice.config, new_workspace(choice.workspace, inputs["X"]))

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            warnings.warn(f"LCCL layers compute every pixel in PyTorch's own ops: {reason}", stacklevel=2)


@dataclass(frozen=True)
class _Choice:
    config: int
    workspace: int
    """Bytes."""
    reason: str
    """Why there is none; empty if there is one."""


@lru_cache(maxsize=4096)
def _choose(library: Library, device: bytes, params: bytes) -> _Choice:
    """Decided once for each layer and input size; ``params`` holds no address."""
    call, gpu = ConvParams.from_buffer_copy(params), Device.from_buffer_copy(device)
    config = library.choose(call, gpu)
    if config == 0:
        return _Choice(0, 0, library.supported(call, gpu).reason)
    return _Choice(config, library.workspace(call, gpu, config), "")


@lru_cache(maxsize=1)
def _installed() -> Library | None:
    """The library, looked for once; None if the package has none and the environment names none.

    Raises:
        UserError: the library that the environment names is missing, or the one found is not this version's.
    """
    return None if why_none() else load()


def register(library: Library | None = None, device_type: str = "cuda", device: Device | None = None) -> None:
    """Makes the kernels the implementation of ``torch.ops.lccl.conv`` for a type of device.

    What the kernels do not take (float64, say) is computed in PyTorch's own ops, with one warning for each reason. Gradients
    are not affected: the kernels are the forward pass only, and the op's backward pass computes it again in PyTorch's ops.

    Args:
        library: None: the one that ``lccl.backends.torch.cuda.library.load`` finds, looked for at the first call.
        device_type: "cuda", or "cpu" with the emulator's library.
        device: what to plan for; None: the device of the tensors.
    """
    OP_DEFINITION.register_kernel(device_type, _Kernel(library, device))
