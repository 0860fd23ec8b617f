"""Where a native library of the package is: named by the caller, named in the environment, or beside the package's code."""

from __future__ import annotations

import os
from pathlib import Path

from lccl.errors import UserError
from lccl.files import require_file

FOLDER = Path(__file__).parent / "lib"


def find_native(given: str | Path | None, environment: str, packaged: Path) -> Path | None:
    """The given library, the one that the environment's variable names, or the package's own; None if it has none.

    Raises:
        UserError: a library is named and is not there.
    """
    named = given if given is not None else os.environ.get(environment)
    if named:
        try:
            return require_file(named).absolute()  # the loader looks for a bare name elsewhere
        except UserError as error:
            raise (error if given is not None else UserError(f"{error}, which {environment} names")) from None
    return packaged if packaged.is_file() else None


def require_native(found: Path | None, name: str, how_to_get: str, environment: str) -> Path:
    """What was found.

    Raises:
        UserError: nothing was.
    """
    if found is None:
        raise UserError(f"there is no {name}: {how_to_get}, or name one in {environment}")
    return found
