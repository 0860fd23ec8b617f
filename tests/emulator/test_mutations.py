"""Breaks the kernels one line at a time and sees that the emulated machine notices: its silence means something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT
from support.share import share

KERNELS = ROOT / "trt_plugin" / "kernel"
EMULATOR = ROOT / "tests" / "emulator"
FLAGS = ("-O1", "-std=c++17", "-fPIC", "-fno-strict-aliasing", "-fvisibility=hidden", "-w")


@dataclass(frozen=True)
class Mutation:
    """One line of the kernels, wrong."""

    name: str
    file: str
    right: str
    wrong: str
    seen: str
    """Words of the report."""


LOOP_BARRIER = "machine::cpAsyncWaitGroup<kStages - 2>();\n                    machine::syncThreads();"
BEFORE_GATES = "            machine::syncThreads();\n            active += decideRound"
AFTER_TABLE = "        before += counts[i];\n    }\n    machine::syncThreads();\n"
MUTATIONS = (
    Mutation("copies are not waited for", "gemm.h", LOOP_BARRIER, "machine::syncThreads();", "copy of thread"),
    Mutation("no barrier after the wait", "gemm.h", LOOP_BARRIER, "machine::cpAsyncWaitGroup<kStages - 2>();", "shared memory"),
    Mutation("a stage is read that was never filled", "gemm.h", "if (!last || step + 1 < range.end)", "if (true)", "has not written"),
    Mutation(
        "no barrier between tiles",
        "gemm.h",
        "                }\n                machine::syncThreads();\n            }\n        }\n    }\n\nprivate",
        "                }\n            }\n        }\n    }\n\nprivate",
        "no barrier between",
    ),
    Mutation("parts are delivered without a fence", "gemm.h", "        machine::fenceDevice();\n        machine::syncThreads();", "        machine::syncThreads();", "fence"),
    Mutation("parts are taken without a fence", "gemm.h", "        machine::fenceDevice();\n        acc = {};", "        acc = {};", "fence"),
    Mutation("weights beyond the last channel", "gemm.h", "inside && column < a.k", "inside", "out of bounds"),
    Mutation("border blocks are not clipped", "rows.h", "ho < a.ho && wo < a.wo};", "true};", "out of bounds"),
    Mutation("counters are left as they were", "gate.h", "machine::storeGlobal(a.tileCounters + i, 0);", "", "nothing has written"),
    Mutation("lanes of a fragment are mixed up", "index.h", "(step * 2) ^ (lane >> 4)};", "(step * 2) ^ ((lane >> 3) & 1)};", "Not equal"),
    Mutation("a closed pixel's sum is looked at", "epilogue.h", "gate > 0.0F ? u * gate : 0.0F", "u * gate", "Not equal"),
    Mutation("padding of x is multiplied", "gemm.h", "? a.lastChunkBytes : 16;", "? 16 : 16;", "Not equal"),
    Mutation("padding of x is gated", "gate.h", "kWhole || e < channels ? xs", "true ? xs", "active that should not"),
    Mutation("gates are decided before their sums are there", "gate.h", BEFORE_GATES, "            active += decideRound", "shared memory"),
    Mutation("a round's counts are read too early", "gate.h", "        machine::syncThreads();\n        // Each lane", "        // Each lane", "shared memory"),
    Mutation("a part of the fill is left out", "fill.h", "round < end; ++round", "round < end - 1; ++round", "never written"),
    Mutation("blocks without a tile do not fill", "gemm.h", "units > 0 ? units : 1", "units", "never written"),
    Mutation("lines of a border block are not clipped", "fill.h", "smaller(a.grid, a.wo - p.wo)", "a.grid", "two blocks"),
    Mutation("closed channels of the padding keep what is there", "fill.h", "channel + e < a.k ? leaky(", "true ? leaky(", "padding of y"),
    Mutation("the table of segments is read too early", "rows.h", AFTER_TABLE, AFTER_TABLE.replace("    machine::syncThreads();\n", ""), "shared memory"),
    Mutation("the table of segments lies over the rows", "gemm.h", "kStages * kStageBytes + kTableBytes}, thread", "kStages * kStageBytes}, thread", "shared memory"),
    Mutation("segments begin one cell too late", "rows.h", "(thread * kOwn + i) * 4, before);", "(thread * kOwn + i) * 4, before + 1);", "written"),
)  # fmt: skip
QUICK = (
    "parts are delivered without a fence",
    "border blocks are not clipped",
    "counters are left as they were",
    "lanes of a fragment are mixed up",
    "a closed pixel's sum is looked at",
    "a part of the fill is left out",
)
"""One for each file; `make thorough` takes all."""

SCRIPT = """
import sys
sys.path[:0] = sys.argv[2:]
import test_kernels as t
from support.hosts.emulator import Emulator
from lccl.backends.torch.cuda.library import Library
emulator = Emulator(Library(sys.argv[1]))
for case in t.CASES:
    inputs = t.inputs_of(case, t.Dtype.FLOAT16)
    for config in t.configs_for(emulator.library, case.grid, t.Dtype.FLOAT16)[2:9:5]:
        t.check(case, inputs, t.Dtype.FLOAT16, emulator.run(inputs, case.attributes, t.Dtype.FLOAT16, t.BIG, config.id))
t.test_blocks_that_share_a_tile(emulator, 100)
t.test_blocks_that_take_several_tiles(emulator, 1)
"""


OF_A_GPU = {"device_query", "launch_triton", "without_cuda_kernels"}
"""Files that the emulated machine leaves out."""
INCLUDES = (EMULATOR / "include", EMULATOR, ROOT)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The emulated machine itself, compiled once: no mutation touches it."""
    folder = tmp_path_factory.mktemp("machine")
    sources = [p for p in sorted(EMULATOR.glob("*.cpp")) if not p.name.startswith(("selftest", "index_check"))]
    flags = (*FLAGS, *(f"-I{p}" for p in (KERNELS, *INCLUDES)))
    subprocess.run(["g++", *flags, "-c", *sources], check=True, capture_output=True, cwd=folder)
    return sorted(folder.glob("*.o"))


def broken_library(mutation: Mutation | None, folder: Path, emulator: Path, machine: list[Path]) -> Path:
    """The emulator library with kernels of which one line is wrong.

    Args:
        emulator: the right library, beside which CMake has written the files that instantiate kernels.
        machine: object files.
    """
    kernels = folder / "kernel"
    shutil.copytree(KERNELS, kernels)
    if mutation:
        file = kernels / mutation.file
        text = file.read_text()
        assert text.count(mutation.right) == 1, (
            f"{mutation.name}: the line is not there once; change the mutation with the code"
        )
        file.write_text(text.replace(mutation.right, mutation.wrong))
    written = emulator.parent / "trt_plugin" / "kernel" / "instantiate"
    sources = [p for p in sorted(kernels.glob("*.cpp")) if p.stem not in OF_A_GPU] + sorted(written.glob("*.cu"))
    unity = folder / "unity.cpp"
    unity.write_text("".join(f'#include "{p}"\n' for p in sources))
    library = folder / "liblccl_emulator.so"
    includes = [f"-I{p}" for p in (kernels, *INCLUDES)]
    command = ["g++", *FLAGS, *includes, "-shared", "-o", library, unity, *machine]
    subprocess.run(command, check=True, capture_output=True)
    return library


def verdict(library: Path) -> subprocess.CompletedProcess[str]:
    paths = (EMULATOR, ROOT / "tests", ROOT / "exporter")
    command = [sys.executable, "-c", SCRIPT, library, *paths]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("mutation", share(MUTATIONS, [m for m in MUTATIONS if m.name in QUICK]), ids=lambda m: m.name)
def test_a_wrong_line_is_seen(mutation: Mutation, tmp_path: Path, emulator_library_path: Path, machine: list[Path]) -> None:
    outcome = verdict(broken_library(mutation, tmp_path, emulator_library_path, machine))
    assert "AssertionError" in outcome.stderr, outcome.stderr
    assert mutation.seen in outcome.stderr, outcome.stderr[-3000:]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_quick_run_breaks_every_file() -> None:
    assert {m.file for m in MUTATIONS if m.name in QUICK} == {m.file for m in MUTATIONS}
    assert len(QUICK) == len({m.file for m in MUTATIONS})


def test_the_right_lines_pass(tmp_path: Path, emulator_library_path: Path, machine: list[Path]) -> None:
    outcome = verdict(broken_library(None, tmp_path, emulator_library_path, machine))
    assert outcome.returncode == 0, outcome.stderr[-3000:]
