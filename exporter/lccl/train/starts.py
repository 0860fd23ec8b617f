"""Gates fitted in closed form to what they would drop, before any training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from lccl.errors import UserError, shown
from lccl.errors.arguments import CALLABLE, MODULE, NONE, NUMBER, one_of, takes
from lccl.nn.conv import LCCLConv2d
from lccl.nn.gate import Gate
from lccl.nn.plain import plain_maths
from lccl.torch_calls import evaluating, unwrapped
from lccl.train.batches import batch_list, loss_of, pair_list, run_batch

Importance = Literal["energy", "taylor"]
_SMALL = 1e-3
"""The deviation of a fitted gate's logits where it has no norm: its map stays open and flat."""
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@takes(model=MODULE, importance=one_of("energy", "taylor"), loss=CALLABLE | NONE, ridge=NUMBER)
def fit_gates(
    model: nn.Module,
    batches: Iterable[object],
    *,
    importance: Importance = "energy",
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ridge: float = 1e-2,
) -> dict[str, float]:
    """Fit each gate to the importance of the pixels that it would drop, by ridge regression.

    Gates that are open stay open, so that the outputs do not change: a :class:`DensitySchedule`
    then closes the least important pixels first. Five hundred images are enough. Without training
    a network loses much at low densities; this is a start.

    Args:
        model: a network with open gates, as :func:`lccl.nn.convert` returns it.
        batches: as for :func:`lccl.profile`; with "taylor", pairs of an input and a target.
        importance: of a pixel: "energy", the norm over the channels of what the gate multiplies,
            behind the ReLU that alone reads it; or "taylor", the root of what it adds to the loss
            to first order.
        loss: for "taylor": called with outputs and targets; a mean over samples.
        ridge: the penalty on weights, relative to the mean square of the inputs.

    Returns:
        By layer, the fraction of the importance's variance that the gate explains (R squared).

    Raises:
        UserError: the network has no gate that reads a layer's input, there is no batch, or
            "taylor" comes without a loss.
    """
    if (importance == "taylor") != (loss is not None):
        raise UserError('importance="taylor" needs a loss, which no other importance takes')
    if not 0 < ridge < 1e9:
        raise UserError(f"ridge is a number above 0 and below a billion, not {shown(ridge)}")
    network = unwrapped(model)
    fits = {
        path or "(model)": _Fit(module, module.gate, importance == "taylor")
        for path, module in network.named_modules()
        if isinstance(module, LCCLConv2d) and module.gate is not None
    }
    if not fits:
        raise UserError("the network has no gated layer whose gate reads its input, so there is nothing to fit")
    data = batch_list(batches, "gates cannot be fitted")
    if loss is not None:
        data = list(pair_list(data, "gates cannot be fitted", next(network.parameters()).device))
    with ExitStack() as stack:
        stack.enter_context(evaluating(network))
        stack.enter_context(plain_maths(network, "as built" if loss else "open"))
        for fit in fits.values():
            stack.callback(fit.layer.register_forward_pre_hook(fit.before, with_kwargs=True).remove)
            stack.callback(fit.layer.register_forward_hook(fit.after).remove)
        for batch in data:
            if loss is None:
                with torch.no_grad(), _Readers(fits.values()):
                    run_batch(network, batch)
            else:
                _differentiate(network, batch, loss, list(fits.values()))
            for fit in fits.values():
                fit.add()
    return {name: fit.solve(ridge) for name, fit in fits.items()}


def _differentiate(network: nn.Module, batch: Any, loss: Callable[[Tensor, Tensor], Tensor], fits: Sequence[_Fit]) -> None:
    """Take the gradients of the loss by each layer's probe."""
    with torch.enable_grad():
        value = loss_of(loss, run_batch(network, batch), batch[1]) * len(batch[0])
        calls = [call for fit in fits for call in fit.calls]
        gradients = torch.autograd.grad(value, [call.probe for call in calls if call.probe is not None], allow_unused=True)
    for call, gradient in zip(calls, gradients, strict=True):
        call.gradient = gradient


@dataclass
class _Call:
    """One call of a layer."""

    x: Tensor
    probe: Tensor | None = None
    """A map of ones that the gate is multiplied with: the gradient by it is the sum over the
    channels of u * dL/du."""
    gradient: Tensor | None = None
    output: Tensor | None = None
    relu: bool = False
    """Whether a ReLU reads the output."""


@dataclass
class _Fit:
    """The normal equations of one gate: inputs of its kernel's window, and the importance."""

    layer: LCCLConv2d
    gate: Gate
    probed: bool
    calls: list[_Call] = field(default_factory=list)
    squares: Tensor | None = None
    products: Tensor | None = None
    sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    """Of the importance, and of its square."""

    def before(
        self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Remember the input, and put a probe beside the gate."""
        x = args[0] if args else kwargs["x"]
        call = _Call(x.detach())
        self.calls.append(call)
        if not self.probed:
            return None
        given = args[1] if len(args) > 1 else kwargs.get("gate")
        with torch.no_grad():
            call.probe = torch.ones_like(self.gate(x)).requires_grad_(True)
        changed = call.probe if given is None else given * call.probe
        return (x, changed, *args[2:]), {name: value for name, value in kwargs.items() if name not in ("x", "gate")}

    def after(self, _layer: nn.Module, _args: object, output: Tensor) -> None:
        """Remember the output, to see what reads it."""
        self.calls[-1].output = output

    @torch.no_grad()
    def add(self) -> None:
        """Add the calls since the last time to the equations."""
        for call in self.calls:
            importance = self._importance(call).double().flatten(1)
            kernel, stride, dilation = self.gate.conv.kernel_size, self.gate.conv.stride, self.gate.conv.dilation
            top, left, bottom, right = self.gate.pads
            for x, wanted in zip(call.x, importance, strict=True):  # the windows of a whole batch take much memory
                rows = F.unfold(F.pad(x[None], (left, right, top, bottom)), kernel, dilation, 0, stride)[0].T.double()
                rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
                squares, products = rows.T @ rows, rows.T @ wanted
                self.squares = squares if self.squares is None else self.squares + squares
                self.products = products if self.products is None else self.products + products
            self.sums += torch.stack([importance.sum(), importance.square().sum()]).cpu()
        self.calls.clear()

    def _importance(self, call: _Call) -> Tensor:
        """Return the importance of each gate value, [N, 1, Hg, Wg]."""
        if call.probe is not None:
            return torch.zeros_like(call.probe) if call.gradient is None else call.gradient.abs().sqrt()
        layer = self.layer
        top, left, bottom, right = layer.pads
        u = layer.conv(F.pad(call.x, (left, right, top, bottom)))
        u = F.leaky_relu(layer.norm(u) if layer.order == "paper" else u, layer.activation_alpha)
        if call.relu or (layer.post_alpha == 0 and layer.order == "paper"):
            u = u.relu()
        energy, grid = u.square().sum(1, keepdim=True), layer.gate_size
        if grid > 1:
            height, width = (-size % grid for size in energy.shape[2:])
            energy = F.avg_pool2d(F.pad(energy, (0, width, 0, height)), grid) * grid**2
        return energy.sqrt()

    @torch.no_grad()
    def solve(self, ridge: float) -> float:
        """Set the gate's weights so that its logits are the importance, centred and scaled."""
        if self.squares is None or self.products is None:
            return 0.0  # the layer was not called
        a, b, n = self.squares, self.products, float(self.squares[-1, -1])
        penalty = ridge * a.diagonal()[:-1].mean().clamp(min=1e-12) * torch.eye(len(a), dtype=a.dtype, device=a.device)
        penalty[-1, -1] = 0
        w = torch.linalg.solve(a + penalty, b)
        total, squares = self.sums.tolist()
        variance = squares - total**2 / n
        explained = 1 - float(squares - 2 * w @ b + w @ a @ w) / variance if variance > 0 else 0.0
        weights = w[:-1]
        mean = float(weights @ a[:-1, -1]) / n
        deviation = math.sqrt(max(float(weights @ a[:-1, :-1] @ weights) / n - mean**2, 0.0))
        if deviation == 0:
            return 0.0  # the same at all pixels: there is nothing to learn
        scale = (1 if isinstance(self.gate.norm, _BatchNorm) else _SMALL) / deviation
        self.gate.conv.weight.copy_((weights * scale).view_as(self.gate.conv.weight))
        if isinstance(self.gate.norm, _BatchNorm):
            if self.gate.norm.running_mean is not None and self.gate.norm.running_var is not None:
                self.gate.norm.running_mean.fill_(mean * scale)
                self.gate.norm.running_var.fill_(1.0)
        elif self.gate.conv.bias is not None:
            self.gate.conv.bias.fill_((2.0 if self.gate.activation == "hardtanh" else 1.0) - mean * scale)
        return explained


class _Readers(TorchFunctionMode):
    """Sees which layers' outputs a ReLU reads, as a module, a function or a method."""

    def __init__(self, fits: Iterable[_Fit]) -> None:
        super().__init__()
        self._fits = list(fits)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function of PyTorch's, and note what a ReLU is applied to."""
        if func in _RELUS and args:
            for fit in self._fits:
                for call in fit.calls:
                    if call.output is args[0]:
                        call.relu = True
        return func(*args, **(kwargs or {}))
