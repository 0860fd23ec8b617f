"""Lookup of native libraries: named by the caller or the environment, or in the package."""

from __future__ import annotations

import os
from pathlib import Path

from lccl.errors import UserError
from lccl.files import require_file

FOLDER = Path(__file__).parents[1] / "lib"


def find_native(given: str | Path | None, environment: str, packaged: Path) -> Path | None:
    """Return the path of a native library; None if the package has none.

    Args:
        given: the caller's choice, which goes first.
        environment: an environment variable that may name the library, which goes second.
        packaged: where the package has it.

    Raises:
        UserError: a library is named and does not exist.
    """
    named = given if given is not None else os.environ.get(environment)
    if named:
        try:
            return require_file(named).absolute()  # the loader looks for a bare name elsewhere
        except UserError as error:
            raise (
                error if given is not None else UserError(f"{error.message}, which {environment} names", error.fixes)
            ) from None
    return packaged if packaged.is_file() else None


def require_native(found: Path | None, name: str, how_to_get: str, environment: str) -> Path:
    """Return the path that :func:`find_native` found.

    Args:
        found: its result.
        name: the library's name, for the message.
        how_to_get: how to build or install it, for the message.
        environment: the environment variable that may name it, for the message.

    Raises:
        UserError: nothing was found.
    """
    if found is None:
        raise UserError(f"there is no {name}: {how_to_get}, or name one in {environment}")
    return found
