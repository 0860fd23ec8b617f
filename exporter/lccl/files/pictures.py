"""The formats of pictures, checked before what is drawn is computed."""

from __future__ import annotations

from pathlib import Path

from lccl.errors import UserError
from lccl.files.atomic import require_writable

FORMATS = (".png", ".svg", ".pdf")


def require_picture(path: str | Path) -> None:
    """Check that a picture can be written there.

    Raises:
        UserError: the path cannot be written, or the format of its name is not known.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise UserError(f"{path} is no name of a picture: give one that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    require_writable(path)
