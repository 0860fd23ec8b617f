"""The op by the CUDA kernels, also as ``torch.ops.lccl.conv`` on CUDA tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lccl.backends.torch.cuda.calls import launch, layout_of, new_workspace, place, prepare, template_of, type_refusal
from lccl.backends.torch.cuda.interface import ConvParams, Device, Layout
from lccl.backends.torch.cuda.library import Library, load, why_none
from lccl.errors import ContractError, UserError, first_line
from lccl.op.contract import INPUT_NAMES, Attributes, output_shape
from lccl.op.torch_op import OP_DEFINITION, TORCH_ATTRIBUTES, compute, match_memory_format, unpack


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
    """Run the op: CUDA tensors with the kernels' library, CPU tensors with the emulator's.

    Args:
        library: the kernels' or the emulator's library.
        device: the device to plan for.
        inputs: the nine inputs under their contract names.
        attributes: the node's attributes.
        config: the id of a configuration; 0: the one with the smallest predicted time.
        stream: a cudaStream_t; None: PyTorch's current one.
        workspace: a uint8 tensor of at least ``Library.workspace`` bytes; None: new memory.
        layout: the layout of the tensors in memory; None: see
            :func:`lccl.backends.torch.cuda.calls.layout_of`.

    Returns:
        Y [N, K, Ho, Wo] of X's type; in NHWC a channels_last view of memory [N, Ho, Wo, K padded to
        8].

    Raises:
        ContractError: types, shapes or attributes that the kernels, or this configuration, do not
            support.
        UserError: the workspace is too small, or CUDA refused a launch.
    """
    with _on_stream(inputs["X"], stream):
        call = prepare(inputs, attributes, layout=layout)
        chosen = config or library.choose(call.params, device)
        support = library.supported(call.params, device, chosen)
        if chosen == 0 or not support:  # a named one may have no code in this library, which no planning looks at
            raise ContractError(support.reason)
        if workspace is None:
            workspace = new_workspace(library.workspace(call.params, device, chosen), inputs["X"])
        return launch(library, device, call, chosen, workspace, stream)


def _on_stream(x: Tensor, stream: int | None) -> AbstractContextManager[Any]:
    """Bind new memory to the call's stream, so that the allocator does not reuse it too early."""
    if stream is None or not x.is_cuda:
        return nullcontext()
    external: Any = torch.cuda.ExternalStream
    return torch.cuda.stream(external(stream, device=x.device))


@lru_cache(maxsize=64)
def device_of(device: torch.device) -> Device:
    """Return what planning needs to know of a CUDA device, from PyTorch."""
    facts: Any = torch.cuda.get_device_properties(device)
    return Device(
        facts.major * 10 + facts.minor,
        facts.multi_processor_count,
        facts.shared_memory_per_block_optin,
        facts.shared_memory_per_multiprocessor,
    )


@dataclass(frozen=True)
class Outcome:
    """How one call of the op ran."""

    kernels: str
    """Whose kernels it was meant for: "library" or "Triton"."""
    reason: str
    """Why it ran in PyTorch's own ops; empty if the kernels ran it."""


_watchers: list[list[Outcome]] = []


@contextmanager
def watching() -> Iterator[list[Outcome]]:
    """Collect how calls of the op run within the block, on devices that have kernels."""
    outcomes: list[Outcome] = []
    _watchers.append(outcomes)
    try:
        yield outcomes
    finally:
        _watchers[:] = [watcher for watcher in _watchers if watcher is not outcomes]


class _Kernel:
    """``torch.ops.lccl.conv`` on one type of device, by the kernels or by PyTorch's own ops."""

    def __init__(self, library: Library | None, device: Device | None) -> None:
        self._given = library
        self._device = device
        self._warned: set[str] = set()

    def __call__(self, *arguments: Any) -> Tensor:
        inputs, attributes = unpack(dict(zip((*INPUT_NAMES, *TORCH_ATTRIBUTES), arguments, strict=True)))
        output_shape({name: tuple(t.shape) for name, t in inputs.items()}, attributes)
        x = inputs["X"]
        y = self._by_kernels(inputs, attributes)
        return match_memory_format(compute(inputs, attributes) if y is None else y, x)

    def _by_kernels(self, inputs: dict[str, Tensor], attributes: Attributes) -> Tensor | None:
        library = self._given or _installed()
        reason = type_refusal(inputs)
        kernels, y = "Triton" if library is None else "library", None
        if not reason:
            y, reason = (
                self._by_triton(inputs, attributes) if library is None else self._by_library(library, inputs, attributes)
            )
            if y is None and library is not None and self._given is None:  # it may hold no code for this GPU
                y, _ = self._by_triton(inputs, attributes)
                kernels, reason = ("library", reason) if y is None else ("Triton", "")
        for watcher in _watchers:
            watcher.append(Outcome(kernels, reason))
        if reason and reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(f"LCCL layers compute every pixel in PyTorch's own ops: {reason}", stacklevel=2)
        return y

    def _by_library(self, library: Library, inputs: dict[str, Tensor], attributes: Attributes) -> tuple[Tensor | None, str]:
        """Run the op by a library that was built; or say why not."""
        device = self._device or device_of(inputs["X"].device)
        template = template_of(inputs, attributes, layout_of(inputs["X"]))
        choice = _choose(library, bytes(device), template.params)
        if choice.reason:
            return None, choice.reason
        workspace = new_workspace(choice.workspace, inputs["X"])
        return launch(library, device, place(inputs, template), choice.config, workspace), ""

    def _by_triton(self, inputs: dict[str, Tensor], attributes: Attributes) -> tuple[Tensor | None, str]:
        """Run the op by kernels that Triton compiles now, or has compiled; or say why not."""
        if find_spec("triton") is None:
            return None, f"Triton, which the CUDA builds of PyTorch for Linux bring, is not installed, and {why_none()}"
        from lccl.backends.torch.triton.launch import run_checked

        try:
            return run_checked(inputs, attributes), ""
        except UserError as error:  # a form that no configuration takes, or outputs that differ
            return None, error.message
        except Exception as error:  # a compiler that is missing or fails; a fault of the GPU comes again below
            return None, f"Triton cannot compile the kernels here ({first_line(error)})"


@dataclass(frozen=True)
class _Choice:
    """The configuration for a call."""

    config: int
    """Its id; 0 if none can run the call."""
    workspace: int
    """The bytes of workspace that it needs."""
    reason: str
    """Why no configuration can run the call; empty if one can."""


@lru_cache(maxsize=4096)
def _choose(library: Library, device: bytes, params: bytes) -> _Choice:
    """Choose a configuration, once for each layer and input size; ``params`` holds no address."""
    call, gpu = ConvParams.from_buffer_copy(params), Device.from_buffer_copy(device)
    config = library.choose(call, gpu)
    if config == 0:
        return _Choice(0, 0, library.supported(call, gpu).reason)
    return _Choice(config, library.workspace(call, gpu, config), "")


@lru_cache(maxsize=1)
def _installed() -> Library | None:
    """Load the library once; None if the package has none and the environment names none.

    Raises:
        UserError: the library that the environment names is missing, or the one found is not this
            version's.
    """
    return None if why_none() else load()


def register(library: Library | None = None, device_type: str = "cuda", device: Device | None = None) -> None:
    """Make the kernels the implementation of ``torch.ops.lccl.conv`` for a type of device.

    Calls that the kernels do not support (of float64, for example) run in PyTorch's own ops, with
    one warning for each reason. Gradients do not change: the kernels compute the forward pass only,
    and the backward pass repeats it in PyTorch's ops, in which transforms of ``torch.func`` run as
    well.

    Args:
        library: the kernels' library; None: the one that ``lccl.backends.torch.cuda.library.load``
            finds at the first call.
        device_type: "cuda", or "cpu" with the emulator's library.
        device: the device to plan for; None: the device of the tensors.
    """
    OP_DEFINITION.register_kernel(device_type, _Kernel(library, device))
