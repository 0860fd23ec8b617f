"""The types that public functions take, checked when they are called.

A wrong type is one sentence, as every other mistake of a caller. Nothing heavy is imported: a value
can be of a library's type only if that library is loaded already.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

from lccl.errors import UserError, shown

_LONGEST_PATH = 4095
_LONGEST_NAME = 255
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Kind:
    """What an argument takes, in words, and whether a value is of it."""

    words: str
    accepts: Callable[[object], bool]

    def __or__(self, other: Kind) -> Kind:
        """Either of the two."""
        before = self.words.replace(" or ", ", ") if " or " in self.words else self.words
        return Kind(f"{before} or {other.words}", lambda value: self.accepts(value) or other.accepts(value))


def takes(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check arguments by their names before the function is called: ``@takes(path=FILE)``.

    Raises:
        UserError: an argument of another kind.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        unknown = set(kinds) - set(signature.parameters)
        assert not unknown, unknown

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in kinds:
                    require_kind(name, value, kinds[name])
            return function(*args, **kwargs)

        return call

    return decorate


def require_kind(name: str, value: object, kind: Kind) -> None:
    """Check one argument.

    Raises:
        UserError: it is of another kind.
    """
    if not kind.accepts(value):
        raise UserError(f"{name} takes {kind.words}, not {shown(value)}")


def instance_of(module: str, name: str, words: str) -> Kind:
    """The instances of a library's class, which is not imported for it."""

    def accepts(value: object) -> bool:
        kind = getattr(sys.modules.get(module), name, None)
        return isinstance(kind, type) and isinstance(value, kind)

    return Kind(words, accepts)


def one_of(*values: str) -> Kind:
    """One of these words."""
    return Kind(" or ".join(f'"{value}"' for value in values), lambda value: isinstance(value, str) and value in values)


def sequence_of(kind: Kind, words: str) -> Kind:
    """A list or tuple whose items are all of a kind."""
    return Kind(
        words,
        lambda value: isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(map(kind.accepts, value)),
    )


def _is_file(value: object) -> bool:
    """Whether the value can name a file: a text of a length that systems allow, without a zero."""
    if not isinstance(value, (str, os.PathLike)):
        return False
    text = os.fspath(value)
    return isinstance(text, str) and bool(text) and "\0" not in text and len(text.encode(errors="replace")) <= _LONGEST_PATH


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_shapes(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and SIZES.accepts(v) for k, v in value.items())


NONE = Kind("None", lambda value: value is None)
FILE = Kind("the path of a file", _is_file)
BYTES = Kind("its bytes", lambda value: isinstance(value, (bytes, bytearray, memoryview)))
FLAG = Kind("True or False", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
NAME = Kind("a name", lambda value: isinstance(value, str) and len(value) <= _LONGEST_NAME)
WHOLE = Kind("a whole number", lambda value: _is_whole(value) and abs(value) < 2**31)  # type: ignore[arg-type]
COUNT = Kind("a whole number from 1", lambda value: WHOLE.accepts(value) and value >= 1)  # type: ignore[operator]
THREADS = Kind("a whole number from 1 to 1024", lambda value: COUNT.accepts(value) and value <= 1024)  # type: ignore[operator]
NUMBER = Kind("a number", _is_number)
CALLABLE = Kind("a callable", callable)
FACTORY = Kind('"pkg.module:callable"', NAME.accepts) | CALLABLE
NAMES = sequence_of(TEXT, "a list of names")
SIZES = Kind(
    "a list of whole numbers",
    lambda value: isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(map(WHOLE.accepts, value)),
)
SHAPES = Kind("a dict of shapes by the input's name", _is_shapes)
TEXTS_BY_NAME = Kind(
    "a dict of texts by name",
    lambda value: isinstance(value, Mapping) and all(isinstance(part, str) for item in value.items() for part in item),
)
VALUES_BY_NAME = Kind(
    "a dict of values by name", lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
)
MODULE = instance_of("torch.nn", "Module", "a torch.nn.Module")
ONNX_MODEL = instance_of("onnx", "ModelProto", "an ONNX model")
NETWORK = MODULE | ONNX_MODEL | FILE
