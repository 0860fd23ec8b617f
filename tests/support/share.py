"""How much of what could be tested a run tests: a fixed share, or all where LCCL_TESTS=all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

ALL = os.environ.get("LCCL_TESTS", "").lower() == "all"
"""Whether `make thorough` runs. `make test` takes the same share each time."""


def share(everything: Sequence[T], some: Sequence[T]) -> Sequence[T]:
    """Return everything for a thorough run, else some of it."""
    return everything if ALL else some
