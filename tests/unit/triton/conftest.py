"""Triton's interpreter without what costs it most of its time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("triton", reason="pip install triton")


@pytest.fixture(autouse=True, scope="session")
def quick() -> Iterator[None]:
    from support.hosts.triton import quick_interpreter

    with quick_interpreter():
        yield
