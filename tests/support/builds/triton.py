"""Triton for tests: its interpreter, and what it compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from lccl.backends.torch.triton import ahead
from support.builds.cuda import CUBIN_CACHE


@pytest.fixture(scope="module")
def quick_triton() -> Iterator[None]:
    """Triton's interpreter without what costs it most of its time."""
    pytest.importorskip("triton", reason="pip install triton")
    from support.hosts.triton import quick_interpreter

    with quick_interpreter():
        yield


def cubin_of(name: str, capability: int = 90) -> ahead.Compiled:
    """A kernel from the cache, or compiled by a process of its own: the interpreter is on in this one."""
    known = {v.name: v for c in (90, 120) for v in ahead.variants(c)}
    key = ahead.key_of(known[name], capability, version("triton"))
    if not (CUBIN_CACHE / f"{key}.json").is_file():
        run_outside(
            "import sys; from pathlib import Path; from lccl.backends.torch.triton import ahead\n"
            "known = {v.name: v for c in (90, 120) for v in ahead.variants(c)}\n"
            "ahead.compile_cached(known[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3]))",
            name, str(capability), str(CUBIN_CACHE),
        )  # fmt: skip
    return ahead.compile_cached(known[name], capability, CUBIN_CACHE)


def run_outside(program: str, *arguments: str) -> None:
    """Run a program in a process that has no interpreter."""
    outside = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, env=outside)
