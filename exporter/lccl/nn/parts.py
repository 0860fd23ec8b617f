"""The parts of a layer as a call would find them: computed weights, and code of their own.

In eval mode a layer folds its convolutions and norms instead of calling them. What would run at a
call has to run then too, or the parts have to be called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules import module as _every
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lccl.nn.gate import Gate
from lccl.torch_calls import evaluating

_METHODS = ("forward", "_conv_forward", "activate", "_normalize", "curve")
"""What a call of a part runs; an instance or a subclass may have its own."""
HookT = TypeVar("HookT", bound=Callable[..., Any])
_COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)
"""PyTorch's forward pre-hooks that compute a parameter, and read nothing but the module."""


def refresh(module: nn.Module) -> None:
    """Compute what weight_norm, spectral_norm and pruning keep in a module, as a call of it does.

    Between calls that is stale: after a step of training, or after ``load_state_dict``. What
    ``torch.nn.utils.parametrize`` computes is never stale.
    """
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _COMPUTING)]
    if not hooks:
        return
    with evaluating(module) if module.training else nullcontext():  # training takes a step of spectral_norm
        for hook in hooks:
            hook(module, ())


def observes(hook: HookT) -> HookT:
    """Mark a hook that changes nothing in eval mode, so that :func:`own_code` leaves it out."""
    hook.observes = True  # type: ignore[attr-defined]
    return hook


def own_code(parts: Mapping[str, nn.Module]) -> str:
    """Return what a call of a layer's parts would run besides the code that folding knows.

    Args:
        parts: by name, the layer's convolutions and norms, and its gate.

    Returns:
        What it is, as in "conv has hooks"; empty if it is nothing. What :func:`refresh` runs does
        not count, nor does what :func:`observes` marks. A norm's class does not count either:
        folding refuses those that it does not know.
    """
    for name, part in parts.items():
        if has_own_hooks(part):
            return f"{name} has hooks"
        if any(method in vars(part) for method in _METHODS) or not (name.endswith("norm") or _runs_known_code(part)):
            return f"{name} ({type(part).__name__}) has code of its own"
    return ""


def has_own_hooks(module: nn.Module) -> bool:
    """Return whether a call of the module runs hooks that :func:`own_code` counts.

    Hooks for every module of the process count as its own.
    """
    return bool(
        _every._global_forward_hooks
        or _every._global_forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or any(not isinstance(hook, _COMPUTING) for hook in module._forward_pre_hooks.values())
        or any(not getattr(hook, "observes", False) for hook in module._forward_hooks.values())
    )


def _runs_known_code(part: nn.Module) -> bool:
    if isinstance(part, Gate):
        own = (getattr(type(part), name, None) is getattr(Gate, name, None) for name in _METHODS)
        return all(own)
    return computes_as_conv2d(part)


def computes_as_conv2d(module: nn.Module) -> bool:
    """Return whether the module's class computes what ``nn.Conv2d`` computes."""
    if not isinstance(module, nn.Conv2d):
        return False
    kind = type(module)
    return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward


def is_set_from_outside(module: nn.Module) -> bool:
    """Return whether weight or bias is a plain tensor, which code outside of the module sets.

    What a hook of PyTorch's or a parametrization computes is not.
    """
    known = [_name_computed(hook) for hook in module._forward_pre_hooks.values()]
    return any(isinstance(vars(module).get(name), Tensor) and name not in known for name in ("weight", "bias"))


def _name_computed(hook: object) -> str | None:
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name
    return hook.name if isinstance(hook, (WeightNorm, SpectralNorm)) else None
