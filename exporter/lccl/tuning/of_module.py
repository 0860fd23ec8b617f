"""A PyTorch module whose gates are set: cut by threshold or bias, all open, or all closed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.errors import UserError
from lccl.forms.costs import ConvShape
from lccl.loading.data import Data
from lccl.nn.conv import LCCLConv2d
from lccl.nn.conv_shapes import conv_shapes
from lccl.nn.gate import Gate
from lccl.numerics import Array
from lccl.profiling import NetworkProfile
from lccl.profiling.of_module import profile_module
from lccl.torch_calls import evaluating, flatten, unwrapped
from lccl.tuning.cuts import AS_BUILT, GatedLayer, Setting, Settings, thinned

_CHUNK = 64


class TunableModule:
    """A copy of a module in eval mode, and the data that it runs on.

    Raises:
        UserError: the module has no gated layers of this package.
    """

    def __init__(self, model: nn.Module, data: Data) -> None:
        self.model = copy.deepcopy(unwrapped(model)).eval()
        self._layers = {path or "(model)": m for path, m in self.model.named_modules() if isinstance(m, LCCLConv2d)}
        if not self._layers:
            raise UserError(
                "the network has no lccl.nn.LCCLConv2d, whose gates could be tuned: export it, and tune the .onnx file"
            )
        self.layers = tuple(
            GatedLayer(
                name,
                "bias" if layer.gate is not None and layer.gate.activation == "binary" else "threshold",
                layer.gate is None,
                layer.gate_threshold,
            )
            for name, layer in self._layers.items()
        )
        self._batches: list[object] = list(data.chunks(tuple(data.inputs), _CHUNK))
        if len(data.inputs) == 1:
            self._batches = [next(iter(batch.values())) for batch in self._batches]  # type: ignore[attr-defined]

    def conv_shapes(self) -> dict[str, ConvShape]:
        """Return the shapes of the convolutions, as a table of costs has them."""
        return conv_shapes(self.model)

    def gate_values(self) -> dict[str, Array]:
        """Return values of each gate over the data: of a binary gate its logits, else its map."""
        seen: dict[str, list[Array]] = {name: [] for name in self._layers}

        def keep(name: str, cut: str) -> object:
            def hook(layer: LCCLConv2d, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], _output: Tensor) -> None:
                x = args[0] if args else kwargs["x"]
                external = args[1] if len(args) > 1 else kwargs.get("gate")
                values = external
                if layer.gate is not None:
                    logits = layer.gate(x)
                    values = logits if cut == "bias" else layer.gate.activate(logits)
                    values = values if external is None or cut == "bias" else values * external
                assert values is not None
                seen[name].append(values.float().cpu().numpy())

            return hook

        handles = [
            self._layers[layer.name].register_forward_hook(keep(layer.name, layer.cut), with_kwargs=True)  # type: ignore[arg-type]
            for layer in self.layers
        ]
        try:
            with self._set({name: Setting("cut", 0.0) for name in self._layers}):
                profile_module(self.model, self._batches)
        finally:
            for handle in handles:
                handle.remove()
        return {name: thinned(parts) if parts else np.zeros(0, np.float32) for name, parts in seen.items()}

    def run(self, settings: Settings) -> tuple[list[Array], NetworkProfile]:
        """Return the outputs over the data, and the profile, with gates set this way."""
        parts: list[list[Array]] = []
        with self._set(settings), evaluating(self.model):
            profile = profile_module(
                self.model, self._batches, lambda outputs: parts.append([t.cpu().numpy() for t in flatten(outputs)])
            )
        return [np.concatenate(values) for values in zip(*parts, strict=True)], profile

    def finished(self, settings: Settings, densities: dict[str, float]) -> nn.Module:
        """Return the network with gates set for good, which tells an export of its densities."""
        for name, setting in settings.items():
            _apply(self._layers[name], setting)
        for name, layer in self._layers.items():
            if layer.gate is not None:
                layer.gate.trained_density = densities.get(name)
        return self.model

    @contextmanager
    def _set(self, settings: Settings) -> Iterator[None]:
        before = [(layer, layer.gate_threshold, _values(layer.gate)) for layer in self._layers.values()]
        try:
            for name, setting in settings.items():
                _apply(self._layers[name], setting)
            yield
        finally:
            with torch.no_grad():
                for layer, threshold, values in before:
                    layer.gate_threshold = threshold
                    for parameter, value in values:
                        parameter.copy_(value)


def _values(gate: Gate | None) -> list[tuple[Tensor, Tensor]]:
    return [] if gate is None else [(p, p.detach().clone()) for p in gate.parameters()]


@torch.no_grad()
def _apply(layer: LCCLConv2d, setting: Setting) -> None:
    """Set a layer that is as built."""
    if setting == AS_BUILT:
        return
    gate = layer.gate
    shift = _shift_of(gate)
    if setting.state == "cut":
        if gate is not None and gate.activation == "binary":
            for parameter in shift:
                parameter.add_(setting.value)
        else:
            layer.gate_threshold = setting.value
        return
    assert gate is not None
    (gate.norm.weight if isinstance(gate.norm, _BatchNorm) else gate.conv.weight).zero_()
    for parameter in shift:
        parameter.fill_(1.0 if setting.state == "open" else -1.0)
    layer.gate_threshold = 0.0


def _shift_of(gate: Gate | None) -> Sequence[Tensor]:
    """Return the parameter that is added to a gate's logits."""
    if gate is None:
        return ()
    bias = gate.norm.bias if isinstance(gate.norm, _BatchNorm) else gate.conv.bias
    return () if bias is None else (bias,)
