"""Triton's interpreter for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def quick_triton() -> Iterator[None]:
    """Triton's interpreter without what costs it most of its time."""
    pytest.importorskip("triton", reason="pip install triton")
    from support.hosts.triton import quick_interpreter

    with quick_interpreter():
        yield
