"""Objects that a caller names, as "pkg.module:attribute": import, from the current folder too."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

from lccl.errors import UserError, first_line, shown

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
