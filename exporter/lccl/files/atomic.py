"""Files: atomic writing, checks before reading and writing, digests."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lccl.errors import UserError, first_line, shown

_unfinished: set[Path] = set()
_abandoned: list[Callable[[], None]] = []


def _forget() -> None:
    """Forget unfinished files in a forked child: they belong to its parent."""
    _unfinished.clear()
    _abandoned.clear()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path that replaces ``path`` if the block succeeds, else is removed.

    A reader sees the old file or the whole new one. A symbolic link stays; its target is replaced.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    require_writable(path)
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    _unfinished.add(temporary)
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise _write_error(target, error) from None
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


@contextmanager
def if_abandoned(action: Callable[[], None]) -> Iterator[None]:
    """Register an action within the block, which :func:`discard_unfinished` calls."""
    _abandoned.append(action)
    try:
        yield
    finally:
        _abandoned.remove(action)


def discard_unfinished() -> None:
    """Clean up after open blocks in a process that ends without leaving them, last one first."""
    for action in reversed(_abandoned):
        action()
    for temporary in tuple(_unfinished):
        temporary.unlink(missing_ok=True)


def require_writable(path: str | Path) -> None:
    """Refuse a path that cannot be written, before any long work begins.

    Raises:
        UserError: ``path`` cannot be written.
    """
    try:
        target = Path(path).resolve()
        is_folder = target.is_dir()
    except RuntimeError:
        raise UserError(f"{path} is a symbolic link that leads nowhere: name a file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(str(path))} cannot be the name of a file: {_reason(error)}") from None
    if is_folder:
        raise UserError(f"{path} is a folder: name a file in it")
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is a device or a pipe, which a file cannot replace: name a file")
    if not target.parent.is_dir():
        raise UserError(f"the folder {target.parent} does not exist: create it, or write somewhere else")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise UserError(f"no permission to write {path}: choose another place")


def require_file(path: str | Path) -> Path:
    """Return the path if it is a readable file.

    Raises:
        UserError: it is not.
    """
    source = Path(path)
    try:
        known = source.exists()
    except (OSError, ValueError) as error:  # a name that no file system takes
        raise UserError(f"{shown(str(path))} cannot be the name of a file: {_reason(error)}") from None
    if not known:
        raise UserError(f"no such file: {source}")
    if not source.is_file():
        raise UserError(f"{source} is not a file")
    if not os.access(source, os.R_OK):
        raise UserError(f"no permission to read {source}")
    return source


def sha256(path: str | Path) -> str:
    """Return the SHA-256 digest of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def _write_error(target: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {target}: {error.strerror or error}; nothing was written")
