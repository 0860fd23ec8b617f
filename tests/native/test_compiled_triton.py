"""What Triton compiles the kernels to, on a machine without a GPU: a share of ``make kernels-check``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from compiled_triton import CAPABILITIES, TYPES, Compiled, ahead_of_the_wait, compile_apart, everything, read, table
from lccl.backends.torch.triton import ahead
from lccl.backends.torch.triton.configurations import CONFIGURATIONS, misfit
from support.builds.cuda import RECORDED_KERNELS
from support.builds.triton import cubin_of, run_outside
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


@pytest.mark.parametrize("name", RECORDED_KERNELS)
def test_cubins_of_libraries_wait_ahead_of_their_first_access(name: str) -> None:
    """With programmatic launch what the kernel before wrote is not there yet; it lets the next one start after that."""
    pytest.importorskip("triton", reason="pip install triton")
    _, opcodes = read(cubin_of(name).cubin)
    assert ahead_of_the_wait(opcodes) == 0
    assert not {"STL", "LDL"} & {opcode.split(".")[0] for opcode in opcodes}
    assert ("PREEXIT" in opcodes) == (not name.startswith("close")), "the last kernel lets none start"


def test_a_read_ahead_of_the_wait_is_found(tmp_path: Path) -> None:
    """A fault in the source: the kernel waits only before it writes."""
    pytest.importorskip("triton", reason="pip install triton")
    source = Path(ahead.__file__).with_name("kernels.py").read_text()
    head, close = source.split("def close_pixels(")
    wait, store = "    after_the_kernel_before(PDL, LAST=True)\n", "    tl.store(y + place"
    assert (close.count(wait), close.count(store)) == (1, 1)
    faulty = tmp_path / "faulty.py"
    faulty.write_text(head + "def close_pixels(" + close.replace(wait, "").replace(store, wait + store))
    run_outside(
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import faulty; import lccl.backends.torch.triton as folder\n"
        "folder.kernels = sys.modules['lccl.backends.torch.triton.kernels'] = faulty\n"
        "from lccl.backends.torch.triton import ahead\n"
        "close = ahead.Variant('close', 'float16', '', True, False)\n"
        "Path(sys.argv[1], 'cubin').write_bytes(ahead.compile_variant(close, 90).cubin)",
        str(tmp_path),
    )
    assert ahead_of_the_wait(read((tmp_path / "cubin").read_bytes())[1]) > 0


def test_the_oldest_triton_is_laid_out_too() -> None:
    """On 8.0 its descriptors have one flag, not two."""
    folder = os.environ.get("LCCL_OLDEST_TRITON")
    if folder is None:
        pytest.skip("LCCL_OLDEST_TRITON names no folder: pip install --target FOLDER --no-deps triton==3.6.0")
    run_outside(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lccl.backends.torch.triton import ahead\n"
        "import triton; assert triton.__file__.startswith(sys.argv[1]), triton.__file__\n"
        "assert ahead.main(['--probe']) == 0\n"
        "boxes = next(v for v in ahead.variants(90) if v.kernel == 'boxes')\n"
        "kinds = [[p.kind for p in ahead.compile_variant(boxes, c).parameters if p.name == 'w'] for c in (80, 90)]\n"
        "after = ['size'] * 3 + ['stride'] * 3\n"
        "assert kinds[0] == ['pointer', *['long_size'] * 3, *['stride'] * 3, 'flag', *after], kinds\n"
        "assert kinds[1] == ['descriptor', *after], kinds",
        folder,
    )


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
