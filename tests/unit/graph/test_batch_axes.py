"""Where the batch stands in inputs and outputs: first as a rule, elsewhere in states, nowhere in rates and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from lccl.graph.batch_axes import BatchAxes, Dims, find_batch_axes


@dataclass(frozen=True)
class Case:
    """Sizes of inputs and outputs, and the axes that are expected."""

    name: str
    inputs: dict[str, Dims]
    expected: dict[str, int | None]
    outputs: dict[str, Dims] = field(default_factory=dict)
    expected_outputs: dict[str, int] = field(default_factory=dict)


CASES = (
    Case("an image", {"x": ["batch", 3, "h", "w"]}, {"x": 0}, {"y": ["batch", 10]}, {"y": 0}),
    Case("two images whose batches have two names", {"a": ["N", 3], "b": ["M", 3]}, {"a": 0, "b": 0}),
    Case("sizes without names", {"a": [None, 3, None, None], "b": [-1, 4]}, {"a": 0, "b": 0}),
    Case(
        "a state and a rate",
        {"x": ["batch", "sequence"], "state": [2, "batch", 128], "rate": []},
        {"x": 0, "state": 1, "rate": None},
        {"y": ["batch", 1], "new state": ["k", "batch", 128]},
        {"y": 0, "new state": 1},
    ),
    Case("the state comes first", {"state": [2, "b", 4], "x": ["b", 3, 8, 8]}, {"state": 1, "x": 0}),
    Case("time leads, the batch has its name", {"x": ["time", "batch_size", 40]}, {"x": 1}, {"y": ["batch_size"]}, {"y": 0}),
    Case(
        "a state without names",
        {"x": [None, None], "state": [2, None, 128], "rate": []},
        {"x": 0, "state": 1, "rate": None},
        {"y": [None, 1], "new state": [None, None, None], "other": [4, None]},
        {"y": 0, "new state": 1, "other": 1},
    ),
    Case("a table beside a batch", {"x": ["batch", 3], "table": [10, 4]}, {"x": 0, "table": None}),
    Case("a length that another input has", {"x": ["N", "L", 4], "mask": ["L", "L"]}, {"x": 0, "mask": None}),
    Case(
        "every size is fixed",
        {"x": [1, 576], "state": [2, 1, 128], "rate": []},
        {"x": 0, "state": None, "rate": None},
        {"y": [1, 1], "new state": [2, 1, 128]},
        {"y": 0, "new state": 1},
    ),
    Case(
        "every size is fixed, the state comes first",
        {"h": [2, 4, 8], "x": [4, 3]},
        {"h": None, "x": 0},
        {"y": [4, 9]},
        {"y": 0},
    ),
    Case(
        "every size is fixed, and the outputs say nothing", {"x": [4, 3], "m": [4, 1]}, {"x": 0, "m": 0}, {"y": [7]}, {"y": 0}
    ),
    Case("single numbers alone", {"a": [], "b": []}, {"a": None, "b": None}, {"y": []}, {"y": 0}),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_where_the_batch_stands(case: Any) -> None:
    assert find_batch_axes(case.inputs, case.outputs) == BatchAxes(case.expected, case.expected_outputs)
