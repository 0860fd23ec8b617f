"""The profile of a PyTorch module, counted by hooks on every convolution and linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lccl.errors import UserError, first_line, kind_of
from lccl.nn.conv import LCCLConv2d
from lccl.nn.folded import FoldedLCCLConv2d
from lccl.op.contract import dense_macs, gate_macs, grid_hw
from lccl.op.torch_op import gate_map, neutral, upsample_gate
from lccl.profiling.profiles import LayerProfile, NetworkProfile
from lccl.torch_calls import evaluating, layer_macs, unwrapped


class _Counter:
    """Sums over all images by layer name, in order of execution.

    A layer that is called twice counts twice.
    """

    def __init__(self) -> None:
        self.active: dict[str, float] = {}
        self.pixels: dict[str, int] = {}
        self.kinds: dict[str, str] = {}
        self.dense_macs: dict[str, int] = {}
        self.gate_macs: dict[str, int] = {}

    def add(self, name: str, kind: str, images: int, dense: int, own: int = 0, gate: Tensor | None = None) -> None:
        """Count one call of a layer.

        Args:
            name, kind: the layer's, as in :class:`LayerProfile`.
            images: the number of images in the batch.
            dense: MACs per image of the convolution or linear layer, every pixel computed.
            own: MACs per image of the gate.
            gate: the gate map at every output pixel; None for a layer without a gate.
        """
        self.kinds[name] = kind
        self.dense_macs[name] = self.dense_macs.get(name, 0) + images * dense
        self.gate_macs[name] = self.gate_macs.get(name, 0) + images * own
        if gate is not None:
            self.active[name] = self.active.get(name, 0.0) + float((gate > 0).sum())
            self.pixels[name] = self.pixels.get(name, 0) + gate.numel()

    def result(self, images: int) -> NetworkProfile:
        """Return the profile: MACs per image and densities over all images."""
        layers = (
            LayerProfile(
                name,
                kind,
                round(self.dense_macs[name] / images),
                round(self.gate_macs[name] / images),
                self.active[name] / self.pixels[name] if name in self.pixels else None,
            )
            for name, kind in self.kinds.items()
        )
        return NetworkProfile(tuple(layers), images)


def profile_module(model: nn.Module, batches: Iterable[object], took: Callable[[object], None] | None = None) -> NetworkProfile:
    """Profile a module in eval mode, as :func:`lccl.profiling.profile` does.

    Its training mode is restored. Of a wrapper it is the network inside.

    Args:
        model: the module.
        batches: as for :func:`lccl.profiling.profile`.
        took: called with the outputs of each batch.
    """
    model = unwrapped(model)
    counter = _Counter()
    images = 0
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    with evaluating(model), _hooks(model, counter), torch.no_grad():
        for batch in batches:
            args, kwargs = model_inputs(batch, dtype)
            outputs = call_model(model, args, kwargs)
            if took is not None:
                took(outputs)
            images += len(args[0] if args else next(iter(kwargs.values())))
    if not images:
        raise UserError("the data holds no batch, so there is nothing to profile")
    return counter.result(images)


def call_model(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> object:
    """Return the model's outputs for one batch.

    Raises:
        UserError: the batch does not fit the model.
    """
    try:
        return model(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(str(list(t.shape)) for t in (*args, *kwargs.values()))
        raise UserError(f"a batch of shape {shapes} does not fit the model: {first_line(error)}") from error


def model_inputs(batch: object, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Turn a batch into the model's positional and named inputs, without labels.

    Args:
        batch: an input, a tuple or list whose first item is the input, or a dict of inputs by name.
        dtype: the model's type, to which float64, NumPy's default, is converted.

    Raises:
        UserError: the batch holds no input, or something that is no tensor.
    """

    def tensor(value: object) -> Tensor:
        try:
            given = torch.as_tensor(value)
        except Exception as error:
            raise UserError(f"a batch is a tensor or an array of numbers, not {kind_of(value)}") from error
        return given.to(dtype) if given.dtype == torch.float64 else given

    if isinstance(batch, Mapping):
        return (), {str(name): tensor(value) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)) and not batch:
        raise UserError("a batch is empty: it is an input, or a tuple or list whose first item is one")
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    return (tensor(first),), {}


@contextmanager
def _hooks(model: nn.Module, counter: _Counter) -> Iterator[None]:
    handles = []
    gated = [m for m in model.modules() if isinstance(m, (LCCLConv2d, FoldedLCCLConv2d))]
    inside = {child for m in gated for child in m.modules() if child is not m}
    for path, module in model.named_modules():
        name = path or "(model)"
        if module in gated:
            handles.append(module.register_forward_hook(_count_gated(name, counter), with_kwargs=True))
        elif isinstance(module, (_ConvNd, nn.Linear)) and module not in inside:
            handles.append(module.register_forward_hook(_count_dense(name, counter)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _count_gated(name: str, counter: _Counter) -> Callable[..., None]:
    def hook(module: LCCLConv2d | FoldedLCCLConv2d, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        x = args[0] if args else kwargs["x"]
        external = args[1] if len(args) > 1 else kwargs.get("gate")
        hw = (output.shape[2], output.shape[3])
        if isinstance(module, LCCLConv2d) and module.calls_parts():
            counter.add(name, "gated", len(x), *_macs_of_parts(module, hw), module.gate_values(x, external, hw))
            return
        constants, attributes = module.fold()
        weight, gate_weight = constants["W"], constants["gate_W"]
        gate = neutral("gate", x, k=weight.shape[0], c=weight.shape[3]) if external is None else external
        g = upsample_gate(gate_map({**constants, "X": x, "gate": gate}, attributes), attributes.grid, hw)
        fused = attributes.gate_source == "fused"
        own = gate_macs(gate_weight.shape, grid_hw(hw, attributes.grid)) if fused else 0
        counter.add(name, "gated", len(x), dense_macs(weight.shape, hw), own, g)

    return hook


def _macs_of_parts(layer: LCCLConv2d, hw: tuple[int, int]) -> tuple[int, int]:
    """Return the MACs per image of a layer's convolution and of its gate, from their weights."""
    k, c, r, s = layer.weight.shape
    dense = dense_macs((k, r, s, c), hw)
    if layer.gate is None:
        return dense, 0
    _, c, r, s = layer.gate.conv.weight.shape
    return dense, gate_macs((1, r, s, c), grid_hw(hw, layer.gate_size))


def _count_dense(name: str, counter: _Counter) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        kind = "linear" if isinstance(module, nn.Linear) else "conv"
        counter.add(name, kind, len(output), layer_macs(module, args, output))

    return hook
