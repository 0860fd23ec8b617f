"""What ``make check`` leaves out of tests with many cases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from conftest import few_of


def items(**counts: int) -> list[Any]:
    return [SimpleNamespace(nodeid=f"test_{name}[{i}]") for name, count in counts.items() for i in range(count)]


def test_cases_are_kept_evenly_and_in_order() -> None:
    kept = [item.nodeid for item in few_of(items(long=101, short=3), 5)]
    assert kept == [*(f"test_long[{i}]" for i in (0, 25, 50, 75, 100)), *(f"test_short[{i}]" for i in range(3))]


def test_every_test_keeps_a_case() -> None:
    assert [item.nodeid for item in few_of(items(a=9, b=9), 1)] == ["test_a[0]", "test_b[0]"]
    assert len(few_of(items(a=12), 12)) == 12
