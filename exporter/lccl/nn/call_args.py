"""Positional arguments of one call of a network: tensors, also in containers, and other values.

PyTorch's exporter makes inputs of the tensors. Every other value becomes a constant of the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lccl.errors import UserError, kind_of

_CONSTANTS = (bool, int, float, complex, str, type(None))


@dataclass(frozen=True)
class CallArgs:
    """The arguments, taken apart."""

    leaves: tuple[Any, ...]
    """Tensors and other values, in the order in which the containers hold them."""
    structure: _pytree.TreeSpec
    """The containers."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, in the order of the exported file's inputs."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))

    def with_tensors(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the arguments of a call with other tensors in the same places."""
        return self.with_values(tensors, others=True)

    def with_values(self, values: Sequence[object], *, others: bool) -> tuple[Any, ...]:
        """Return the arguments with a value for each tensor, and others kept or as None."""
        rest = iter(values)
        leaves = [next(rest) if isinstance(leaf, Tensor) else leaf if others else None for leaf in self.leaves]
        filled: tuple[Any, ...] = _pytree.tree_unflatten(leaves, self.structure)
        return filled

    def constants(self, model: nn.Module) -> dict[str, object]:
        """Return the numbers and texts by the names of the parameters of ``forward``."""
        placed = _pytree.tree_flatten_with_path(_pytree.tree_unflatten(list(self.leaves), self.structure))[0]
        return {_name(model, path): value for path, value in placed if not isinstance(value, Tensor) and value is not None}


def call_args(args: Sequence[object], model: nn.Module | None = None) -> CallArgs:
    """Take arguments apart; arrays become tensors.

    Args:
        args: the positional arguments.
        model: the network that they are for; None: one that is known to take them.

    Raises:
        UserError: the network takes inputs by name alone, or a value is one that no network takes
            from a file.
    """
    if model is not None:
        _require_positional(model)
    leaves, structure = _pytree.tree_flatten(tuple(args))
    return CallArgs(tuple(map(_leaf, leaves)), structure)


def by_signature(model: nn.Module, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return one value per argument, as ``torch.export`` wants them: a tuple for ``*args``."""
    parameters = inspect.signature(model.forward).parameters.values()
    single = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = values[len(single) :]
    return (*values[: len(single)], rest) if rest else values


def _require_positional(model: nn.Module) -> None:
    """Check that ``forward`` takes an input by position.

    Raises:
        UserError: it takes inputs by name alone.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if all(k in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD) for k in kinds):
        raise UserError(
            f"{type(model).__name__}.forward takes inputs by name alone, and an export passes them by position: wrap the network "
            "in a module whose forward has them as parameters"
        )


def _leaf(value: object) -> object:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, _CONSTANTS) and not hasattr(value, "__array__"):
        return value
    if hasattr(value, "__array__"):
        return torch.as_tensor(value).clone()
    raise UserError(f"an input is a tensor, a number, or a list, tuple or dict of these, not {kind_of(value)}")


def _name(model: nn.Module, path: Sequence[Any]) -> str:
    """A value's name: its parameter's, and where it stands in that parameter's container."""
    first, *inner = path
    names = [] if isinstance(model, torch.jit.ScriptModule) else list(inspect.signature(model.forward).parameters)
    start = names[first.idx] if first.idx < len(names) else f"input {first.idx}"
    return start + "".join(map(str, inner))
