"""Types of arguments: what passes, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lccl.errors import UserError
from lccl.errors.arguments import COUNT, FILE, FLAG, NAME, NONE, NUMBER, SHAPES, SIZES, THREADS, WHOLE, Kind, takes


@takes(path=FILE, count=COUNT | NONE, flag=FLAG)
def function(path: str | Path, count: int | None = None, *, flag: bool = False) -> tuple[object, ...]:
    """A summary."""
    return path, count, flag


def test_right_arguments_pass_by_position_and_by_name() -> None:
    assert function("a", 2, flag=True) == ("a", 2, True)
    assert function(path=Path("a")) == (Path("a"), None, False)
    assert function.__doc__ == "A summary."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"path": b"a"}, "path takes the path of a file, not a bytes"),
        ({"path": ""}, "path takes the path of a file, not ''"),
        ({"path": "a", "count": 0}, "count takes a whole number from 1 or None, not 0"),
        ({"path": "a", "count": True}, "count takes a whole number from 1 or None, not True"),
        ({"path": "a", "flag": 1}, "flag takes True or False, not 1"),
        ({"path": "a", "flag": "x" * 1000}, "flag takes True or False, not a str"),
        ({"path": "a", "flag": [object()]}, "flag takes True or False, not a list"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        function(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == sentence


def test_what_python_refuses_stays_pythons_error() -> None:
    with pytest.raises(TypeError, match="missing a required argument"):
        function()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword"):
        function("a", other=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (WHOLE, [0, -3, np.int64(2)], [1.0, True, 2**31, "1"]),
        (NUMBER, [1, 0.5, np.float32(1)], [True, "1", 1j, np.zeros(1)]),
        (NAME, ["", "fp16"], ["x" * 256, b"fp16", 1]),
        (SIZES, [(), [1, 2]], ["12", [1.0], [None], 3]),
        (SHAPES, [{}, {"x": (1, 3)}], [{"x": 1}, {1: (1,)}, [("x", (1,))]]),
        (THREADS, [1, 1024], [0, 1025]),
        (FILE, ["a", Path("a")], ["a\0b", "x" * 4096, b"a", 1]),
    ],
)
def test_kinds(kind: Kind, right: list[object], wrong: list[object]) -> None:
    assert [value for value in right if not kind.accepts(value)] == []
    assert [value for value in wrong if kind.accepts(value)] == []


def test_words_of_several_kinds() -> None:
    assert (FLAG | FILE | NONE).words == "True, False, the path of a file or None"
