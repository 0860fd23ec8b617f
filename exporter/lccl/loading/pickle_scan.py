"""A scan of torch files for the code that unpickling would run, without unpickling them."""

from __future__ import annotations

import _compat_pickle
import contextlib
import pickletools
from pathlib import Path
from typing import IO


def pickled_classes(path: Path) -> list[str]:
    """Return the classes and functions that unpickling the file would call.

    Empty if it cannot be read.
    """
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        return pickled_globals(path)
    return sorted(names)


def pickled_globals(path: Path) -> list[str]:
    """Return the same for torch's old format, a stream of pickles, read opcode by opcode."""
    from torch import _weights_only_unpickler as unpickler

    found: set[str] = set()
    with path.open("rb") as stream, contextlib.suppress(Exception):
        while True:
            _collect_globals(stream, found)
    allowed = {**unpickler._get_allowed_globals(), **unpickler._get_user_allowed_globals()}  # type: ignore[no-untyped-call]
    return sorted(found - set(allowed))


def _collect_globals(stream: IO[bytes], found: set[str]) -> None:
    """Add the names that one pickle looks up, memoised ones included."""
    strings: list[str] = []
    memo: dict[int, str | None] = {}
    top: str | None = None
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if argument is None else int(argument)] = top
            continue
        if name == "GLOBAL":
            found.add(_modern_name(*str(argument).split(" ", 1)))
        elif name == "STACK_GLOBAL" and len(strings) >= 2:
            found.add(_modern_name(*strings[-2:]))
        top = memo.get(int(argument)) if name.endswith("GET") and argument is not None else None
        if isinstance(argument, str) and name != "GLOBAL" and "PERSID" not in name:
            top = argument
        if top is not None:
            strings.append(top)


def _modern_name(module: str, name: str) -> str:
    """Return a global's name in Python 3, as the unpickler maps it."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
