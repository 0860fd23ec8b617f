"""Functions that build networks, and other objects that a caller names: found by name, and called so that they cannot end the program."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lccl.checkpoint import Checkpoint
from lccl.errors import Fix, UserError, first_line
from lccl.text import kind_of
from lccl.types import Factory

if TYPE_CHECKING:
    from torch import nn

TRUSTED_FACTORIES = ("lccl.models.resnet:cifar_resnet",)
"""A file may name one of exactly these as its factory; any other has to be named by the caller."""
_PACKAGES = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Modules whose package has another name."""


def import_object(name: str, what: str) -> Any:
    """ "pkg.module:attribute" -> the object, looked up in the installed packages and the current folder.

    Args:
        what: what the object is to be, for messages: "factory", "loader".

    Raises:
        UserError: a malformed name, no such module or attribute, or a module that raises on import.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(f"a {what} is named pkg.module:callable, not {name!r}")
    try:
        with current_folder_last():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(_not_found(module_name, error.name)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a SystemExit too: the module must not choose this program's exit code
        raise UserError(f"importing {module_name} raised {type(error).__name__}: {first_line(error)}") from error
    try:
        value = module
        for part in attribute.split("."):
            value = getattr(value, part)
    except AttributeError:
        raise UserError(f"module {module_name} has no {attribute!r}") from None
    return value


def _not_found(module: str, missing: str | None) -> str:
    """What to do where a module, or one that it imports, is not there."""
    if missing is None or f"{module}.".startswith(f"{missing}."):
        return f"cannot import {module}: run from the folder it is in, or install it"
    top = missing.partition(".")[0]
    fix = f"pip install {_PACKAGES[top]}" if top in _PACKAGES else "install the package that has it, or run from its folder"
    return f"{module} needs {missing}, which is not installed: {fix}"


@contextlib.contextmanager
def current_folder_last() -> Iterator[None]:
    """The current folder importable within the block, behind everything installed, so that no file in it hides a package."""
    folder = os.getcwd()
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def title_of(factory: Factory) -> str:
    """A factory's name in messages."""
    return factory if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))


def build_module(checkpoint: Checkpoint, factory: Factory | None, path: Path, option: str) -> nn.Module:
    """The network that a checkpoint's weights are of, by the caller's factory or by one of lccl's own that the file names.

    Raises:
        UserError: no factory, one that is not trusted, or one that fails.
    """
    from torch import nn

    chosen = factory or checkpoint.factory
    if chosen is None:
        raise UserError(
            f"{path} holds weights but not the network", Fix(option, "pkg.module:factory", "with a function that builds it")
        )
    name = title_of(chosen)
    if not factory and name not in TRUSTED_FACTORIES:
        raise UserError(f"{path} asks to run {name}; if you trust it, say so", Fix(option, name))
    kwargs = dict(checkpoint.kwargs) if chosen == checkpoint.factory else {}
    build: Callable[..., Any] = import_object(chosen, "factory") if isinstance(chosen, str) else chosen
    if not callable(build):
        raise UserError(f"{name} is not callable; a factory is a function or class that builds the network")
    try:
        module = build(**kwargs)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a SystemExit too: the factory must not choose this program's exit code
        raise UserError(f"the factory {name} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"the factory {name} returned {kind_of(module)}, not an nn.Module")
    return module


def gate_module(module: nn.Module, recipe: Sequence[Any], path: Path) -> None:
    """Gates the factory's network as the checkpoint says."""
    from lccl.nn import apply_recipe

    try:
        apply_recipe(module, recipe)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
