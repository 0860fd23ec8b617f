"""Helpers around PyTorch modules: wrappers, modes, outputs, parameters, MACs, unsound weights."""

from __future__ import annotations

import inspect
import math
import operator
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network that a wrapper holds.

    Wrappers are DataParallel, DistributedDataParallel, AveragedModel and what torch.compile
    returns, one in another too. They change how a network is run or trained, not what it computes.
    """
    inner = inner_name(model)
    while inner is not None:
        model = model.get_submodule(inner)
        inner = inner_name(model)
    return model


def inner_name(module: nn.Module) -> str | None:
    """Return the name under which a wrapper holds its network; None for any other module."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
        return "module"
    return "_orig_mod" if "_orig_mod" in dict(module.named_children()) else None


def plain_name(model: nn.Module, name: str) -> str:
    """Return a module's name without what wrappers of parts of the model add to it."""
    parts, at = [], model
    for part in name.split(".") if name else ():
        if part != inner_name(at):
            parts.append(part)
        at = at.get_submodule(part)
    return ".".join(parts)


def flatten(outputs: object) -> list[Tensor]:
    """Return the tensors of a model's nested outputs in order.

    Bfloat16, which NumPy lacks, as float32.
    """
    tensors = [t for t in _pytree.tree_leaves(outputs) if isinstance(t, Tensor)]
    return [t.float() if t.dtype == torch.bfloat16 else t for t in tensors]


def layer_macs(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> int:
    """Return the multiply-accumulates per image of one call of a layer.

    Args:
        module: a convolution, a transposed convolution or a linear layer.
        args: the positional arguments of the call.
        output: its result.
    """
    weight: Tensor = module.weight  # type: ignore[assignment]
    if isinstance(module, _ConvTransposeNd):
        positions = math.prod(args[0].shape[2:])
    elif isinstance(module, _ConvNd):
        positions = math.prod(output.shape[2:])
    else:
        positions = output[0].numel() // output.shape[-1]
    return int(weight.numel() * positions)


def forward_parameters(model: nn.Module) -> dict[str, bool]:
    """Return, for each parameter of ``forward``, whether it has a default.

    TorchScript modules included. ``*args`` and ``**kwargs`` are no parameters with a name.
    """
    if isinstance(model, torch.jit.ScriptModule):
        schema: Any = model.forward.schema  # type: ignore[attr-defined]
        return {a.name: a.has_default_value() for a in schema.arguments[1:]}
    parameters = inspect.signature(model.forward).parameters
    return {name: p.default is not p.empty for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def takes_any_name(model: nn.Module) -> bool:
    """Return whether ``forward`` takes ``**kwargs`` alone, so inputs by any name."""
    if isinstance(model, torch.jit.ScriptModule):
        return False
    return [p.kind for p in inspect.signature(model.forward).parameters.values()] == [inspect.Parameter.VAR_KEYWORD]


def required_parameters(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters of ``forward`` that every call passes."""
    required = [name for name, has_default in forward_parameters(model).items() if not has_default]
    if isinstance(model, torch.jit.ScriptModule):
        return tuple(required)
    parameters = inspect.signature(model.forward).parameters
    return tuple(name for name in required if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)


def unsound_weight(model: nn.Module) -> str | None:
    """Describe the first parameter or statistic that is not finite, or is a negative variance.

    None if all are sound.

    Other buffers, such as masks, may be infinite.
    """
    statistics = [(n, b) for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))]
    for name, tensor in (*model.named_parameters(), *statistics):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{name} holds {'NaN' if bool(torch.isnan(tensor).any()) else 'infinity'}"
        if name.endswith("running_var") and bool((tensor < 0).any()):
            return f"{name} holds a variance below 0"
    return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode within the block.

    Afterwards every module has its own mode again. A program of torch.export has no modes.
    """
    modes = {module: module.training for module in model.modules()}
    with suppress(NotImplementedError):
        model.eval()
    try:
        yield
    finally:
        set_modes(modes)


def has_own_train(module: nn.Module) -> bool:
    """Return whether a change of mode runs more of the module's code than setting flags."""
    return type(module).train is not nn.Module.train or "train" in vars(module)


def set_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Give every module its own mode.

    Modules with a ``train`` of their own keep more than the flag (torchvision's feature extractors
    a graph, LoRA layers merged weights), so theirs is called. That of a program of torch.export
    raises NotImplementedError: it has no modes.

    Args:
        modes: by module, parents first, whether it is in training mode.
    """
    for module, training in modes.items():
        if has_own_train(module):
            with suppress(NotImplementedError):
                module.train(training)
    for module, training in modes.items():
        module.training = training


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo, after the block, what it sets on the model's modules or in plain containers on them.

    The values of tensors and objects of other classes are not restored.
    """
    ahead: list[Any] = [model]
    seen: set[int] = set()
    kept: list[tuple[Any, list[Any]]] = []
    while ahead:
        value = ahead.pop()
        value = vars(value) if isinstance(value, nn.Module) else value
        if isinstance(value, (dict, list, set, deque, tuple)) and id(value) not in seen:
            seen.add(id(value))
            kept.append((value, _content(value)))
            ahead.extend(value.values() if isinstance(value, dict) else value)
    try:
        yield
    finally:
        for value, content in kept:
            now = _content(value)
            if len(now) == len(content) and all(map(operator.is_, now, content)):
                continue  # proxies cannot be compared by value
            value.clear()
            if isinstance(value, dict):
                half = len(content) // 2
                value.update(zip(content[:half], content[half:], strict=True))
            else:
                (value.update if isinstance(value, set) else value.extend)(content)


def _content(container: Iterable[Any]) -> list[Any]:
    """Return a container's items; for a dict its keys, then its values."""
    return [*container.keys(), *container.values()] if isinstance(container, dict) else [*container]


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes of a distributed run."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    summed = values.clone()
    distributed.all_reduce(summed)
    return summed / distributed.get_world_size()
