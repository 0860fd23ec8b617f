"""What TensorRT's ONNX parser refuses, in words: which node of which op, and why.

The parser's own text is a line of its source, such as "false", where it does not have an op.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from lccl.errors import first_line

MOST_NAMED = 3
"""Refusals that a message names; it counts the others."""
_QUOTED = re.compile(r'&&\s*((?:"(?:[^"\\]|\\.)*"\s*)+)$')
"""The message of a C++ assertion, in one or more literals behind its condition."""
_ASSERTED = re.compile(r"^Assertion failed: .*\): (?P<said>.+)$")
_NOT_SUPPORTED = "the op is not supported"


@dataclass(frozen=True)
class Refusal:
    """One node or input that the parser does not take."""

    where: str
    """The node by its name and op, or the input."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def refusals(parser: Any, model: onnx.ModelProto) -> list[Refusal]:
    """Return what a parser that has failed says of the model."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return [Refusal(_where(error, model), _reason(error.desc() or "")) for error in errors]


def listed(found: Sequence[Refusal]) -> str:
    """Return the first refusals as text, with the number of the others."""
    more = len(found) - MOST_NAMED
    return "; ".join(map(str, found[:MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")


def _where(error: Any, model: onnx.ModelProto) -> str:
    number, name, op = error.node(), _asked(error, "node_name", ""), _asked(error, "node_operator", "")
    stack = list(_asked(error, "local_function_stack", ()))
    own = model.graph.node[number] if not stack and 0 <= number < len(model.graph.node) else None
    if number < 0:
        source = _asked(error, "file", "")  # the name of an input, where it is one that is refused
        return f"input {source}" if source in {v.name for v in model.graph.input} else "the graph"
    if own is not None and op in ("", own.op_type):
        name, op = name or f"that gives {', '.join(own.output)}", own.op_type
    inside = f" in {' in '.join(reversed(stack))}" if stack else ""
    return f"node {name or number} ({op or 'an op without a name'}){inside}"


def _asked(error: Any, name: str, default: Any) -> Any:
    """Ask an error what the versions of TensorRT do not all tell."""
    method = getattr(error, name, None)
    return (method() if method is not None else None) or default


def _reason(said: str) -> str:
    """Return the part of an error's text that is written for people."""
    text = " ".join(said.split())
    if text in ("", "false", "Assertion failed: false"):
        return _NOT_SUPPORTED
    if "Plugin not found" in text:
        return f"{_NOT_SUPPORTED}, and there is no plugin of its name"
    literals = _QUOTED.search(text)
    if literals:
        text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals[1]))
    elif asserted := _ASSERTED.match(text):
        text = asserted["said"]
    return first_line(ValueError(text)).rstrip("!")
