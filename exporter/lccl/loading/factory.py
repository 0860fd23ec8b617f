"""Objects that a caller names, such as factories: import, and calls that cannot end the program."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lccl.errors import Fix, UserError, first_line, kind_of, shown
from lccl.loading.checkpoint import Checkpoint
from lccl.loading.state_dict import matched_names
from lccl.loading.types import Factory

if TYPE_CHECKING:
    from torch import nn

TRUSTED_FACTORIES = ("lccl.models.resnet:cifar_resnet",)
"""The factories that a file may name itself; the caller must name any other."""
_PACKAGES = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""By module, the name of its package where the two differ."""


def import_object(name: str, what: str) -> object:
    """Import an object from the installed packages or the current folder.

    Args:
        name: "pkg.module:attribute".
        what: what the object is for, in messages: "factory" or "loader".

    Raises:
        UserError: a malformed name, no such module or attribute, or a module that raises on import.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(f"a {what} is named pkg.module:callable, not {shown(name)}")
    try:
        with current_folder_last():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(_not_found(module_name, error.name)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a SystemExit too, which would end this program
        raise UserError(f"importing {module_name} raised {type(error).__name__}: {first_line(error)}") from error
    try:
        value: object = module
        for part in attribute.split("."):
            value = getattr(value, part)
    except AttributeError:
        raise UserError(f"module {module_name} has no {shown(attribute)}") from None
    return value


def _not_found(module: str, missing: str | None) -> str:
    """Say how to get a missing module, or one that it imports."""
    if missing is None or f"{module}.".startswith(f"{missing}."):
        return f"cannot import {module}: run from the folder it is in, or install it"
    top = missing.partition(".")[0]
    fix = f"pip install {_PACKAGES[top]}" if top in _PACKAGES else "install the package that has it, or run from its folder"
    return f"{module} needs {missing}, which is not installed: {fix}"


@contextlib.contextmanager
def current_folder_last() -> Iterator[None]:
    """Make the current folder importable within the block, after all installed packages."""
    folder = os.getcwd()
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


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
