"""Old spellings of keywords, fields and names in a module, which work for one more release."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lccl.errors import UserError

GONE_IN = "0.3"
"""The release in which old spellings stop working."""

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def sentence(old: str, new: str) -> str:
    """What a warning about an old spelling says."""
    return f"{old} is now {new}; the old spelling goes away in {GONE_IN}"


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn of an old spelling, at the line that uses it."""
    warnings.warn(sentence(old, new), FutureWarning, stacklevel=stacklevel)


def renamed_keywords(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take old keywords too: ``@renamed_keywords(dense="dense_twin")``.

    Raises:
        UserError: the function is called with both spellings.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            _rename(kwargs, renamed)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_fields(**renamed: str) -> Callable[[C], C]:
    """Let a dataclass take, and have, its fields by their old names too."""

    def decorate(kind: C) -> C:
        initialise = kind.__init__  # type: ignore[misc]

        @functools.wraps(initialise)
        def initialise_with_old_names(self: object, *args: object, **kwargs: object) -> None:
            _rename(kwargs, renamed)
            initialise(self, *args, **kwargs)

        kind.__init__ = initialise_with_old_names  # type: ignore[misc]
        for old, new in renamed.items():
            setattr(kind, old, property(_reader(old, new)))
        return kind

    return decorate


def renamed_names(module: str, renamed: dict[str, tuple[str, Callable[[], object]]]) -> Callable[[str], object]:
    """A module's ``__getattr__`` that gives its names by their old spelling.

    Args:
        module: the module's ``__name__``.
        renamed: old name -> new name, and what gives the object.
    """

    def find(name: str) -> object:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, give = renamed[name]
        warn(f"{module}.{name}", new if "." in new else f"{module}.{new}")
        return give()

    return find


def _reader(old: str, new: str) -> Callable[[object], object]:
    def read(self: object) -> object:
        warn(old, new)
        return getattr(self, new)

    return read


def _rename(keywords: dict[str, object], renamed: dict[str, str]) -> None:
    for old, new in renamed.items():
        if old not in keywords:
            continue
        if new in keywords:
            raise UserError(f"{old} is the old spelling of {new}: give one of them")
        warn(f"{old}=", f"{new}=", stacklevel=4)
        keywords[new] = keywords.pop(old)
