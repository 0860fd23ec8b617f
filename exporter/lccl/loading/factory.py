"""Factories: the networks that weights belong to, by calls that cannot end the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lccl.errors import Fix, UserError, first_line, kind_of
from lccl.loading.checkpoint import Checkpoint
from lccl.loading.importing import import_object
from lccl.loading.state_dict import matched_names
from lccl.loading.types import Factory

if TYPE_CHECKING:
    from torch import nn

TRUSTED_FACTORIES = ("lccl.models.resnet:cifar_resnet",)
"""The factories that a file may name itself; the caller must name any other."""


def label_of(factory: Factory) -> str:
    """Return a factory's name for messages."""
    return factory if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))


def build_module(checkpoint: Checkpoint, factory: Factory | None, path: Path, option: str) -> nn.Module:
    """Build the network that a checkpoint's weights belong to.

    Args:
        checkpoint: what the file holds.
        factory: the caller's factory; None: the one that the file names, if it is one of lccl's
            own.
        path: the file, for messages.
        option: the keyword that a message names for the factory.

    Raises:
        UserError: no factory, one that is not trusted, or one that fails.
    """
    from torch import nn

    from lccl.torch_calls import unwrapped

    chosen = factory or checkpoint.factory
    if chosen is None:
        raise UserError(
            f"{path} holds weights but not the network", Fix(option, "pkg.module:factory", "with a function that builds it")
        )
    name = label_of(chosen)
    if not factory and name not in TRUSTED_FACTORIES:
        raise UserError(f"{path} asks to run {name}; if you trust it, name it", Fix(option, name))
    kwargs = dict(checkpoint.kwargs) if chosen == checkpoint.factory else {}
    build = import_object(chosen, "factory") if isinstance(chosen, str) else chosen
    if not callable(build):
        raise UserError(f"{name} is not callable; a factory is a function or class that builds the network")
    try:
        module = build(**kwargs)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a SystemExit too, which would end this program
        raise UserError(f"the factory {name} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"the factory {name} returned {kind_of(module)}, not an nn.Module")
    return unwrapped(module)


def gate_module(module: nn.Module, recipe: Sequence[object], path: Path, prefix: str | None = None) -> None:
    """Gate the factory's network in place as the checkpoint's recipe says.

    Names of the recipe may have a wrapper's name in front, as those of the weights.

    Args:
        module: the dense network.
        recipe: what :func:`lccl.nn.recipe` returned.
        path: the file, for messages.
        prefix: what the network's names begin with in the file; None: to be found.

    Raises:
        UserError: the recipe does not fit the network.
    """
    from lccl.nn import apply_recipe

    try:
        apply_recipe(module, _with_own_names(recipe, module, prefix))
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.fixes) from None


def _with_own_names(recipe: Sequence[object], module: nn.Module, prefix: str | None) -> Sequence[object]:
    """Return the recipe under the network's names; as it is, where no prefix makes them fit."""
    entries = [entry for entry in recipe if isinstance(entry, Mapping)]
    names = [entry[key] for entry in entries for key in ("conv", "norm") if isinstance(entry.get(key), str)]
    mapped = matched_names(names, dict(module.named_modules(remove_duplicate=False)), prefix)
    if mapped is None or len(entries) < len(recipe):
        return recipe
    return [{k: mapped(v) if k in ("conv", "norm") and isinstance(v, str) else v for k, v in e.items()} for e in entries]
