"""What Triton compiles the kernels to, on a machine without a GPU: a share of ``make kernels-check``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiled_triton import CAPABILITIES, TYPES, Compiled, compile_apart, everything, table
from lccl.backends.torch.triton.configurations import CONFIGURATIONS, misfit
from support.share import share

pytestmark = pytest.mark.slow
SHARE = (
    ("rows_128x128", "float16", 90),
    ("rows_64x64", "bfloat16", 86),
    ("rows_64x32", "float32", 120),
    ("boxes_2x64x64", "float16", 90),
    ("boxes_2x64x128", "bfloat16", 100),
    ("boxes_2x64x128_s3", "float16", 120),
    ("gate", "float16", 90),
    ("close", "bfloat16", 100),
)
"""Each family on each kind of tensor core, and each type."""


KERNELS = share(everything(), SHARE)


@pytest.fixture(scope="module")
def compiled() -> list[Compiled]:
    pytest.importorskip("triton", reason="pip install triton")
    return compile_apart(KERNELS)


@pytest.mark.parametrize("i", range(len(KERNELS)), ids=lambda i: "-".join(map(str, KERNELS[i])))
def test_kernels_are_as_they_should_be(compiled: list[Compiled], i: int) -> None:
    assert compiled[i].faults() == []


def test_the_check_finds_what_is_wrong(compiled: list[Compiled]) -> None:
    """Each of its questions, asked of a kernel that is changed to have the fault."""
    rows, boxes = (next(c for c in compiled if (c.name, c.dtype, c.capability) == kernel) for kernel in (SHARE[0], SHARE[3]))
    without = {opcode: n for opcode, n in rows.opcodes.items() if opcode != "LDGSTS"}
    assert replace(rows, opcodes={**rows.opcodes, "STL": 2}).faults() == [
        "has 2 accesses to local memory, and a stack of 0 bytes"
    ]
    assert replace(rows, shared=233_000).faults() == ["takes 233,000 bytes of shared memory of 232,448"]
    assert replace(rows, registers=257).faults() == ["takes 257 registers a thread, more than a multiprocessor has"]
    assert replace(rows, opcodes=without).faults() == ["has no LDGSTS"]
    assert replace(rows, opcodes={**rows.opcodes, "HMMA": 1}).faults() == ["has HMMA"]
    assert replace(boxes, opcodes={**boxes.opcodes, "LDGSTS": 1}).faults() == ["has LDGSTS"]
    assert replace(rows, before_wait=1).faults() == ["reads or writes memory 1 times ahead of the wait for the kernel before"]
    assert replace(rows, before_wait=-1).faults() == [
        "waits for the kernel before, or does not, where it should not, or should"
    ]


def test_the_whole_check_takes_every_configuration_on_every_architecture() -> None:
    kernels = everything()
    for capability in CAPABILITIES:
        for dtype in TYPES:
            names = {name for name, t, c in kernels if (t, c) == (dtype, capability)}
            fitting = {c.name for c in CONFIGURATIONS if not misfit(c, capability, 4 if dtype == "float32" else 2)}
            assert names == {"gate", "close"} | fitting
    assert {*SHARE} <= {*kernels}


def test_the_table_names_registers_and_shared_memory() -> None:
    one = Compiled("rows_64x32", "float32", 90, 32768, 154, 0, {}, 0)
    assert table([one]).splitlines() == [
        "| kernel | 8.0 | 8.6 | 8.9 | 9.0 | 10.0 | 12.0 |",
        "|---|---|---|---|---|---|---|",
        "| rows_64x32, float32 | - | - | - | 154, 32 KiB | - | - |",
    ]
