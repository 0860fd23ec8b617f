"""Three kernels under Nsight Compute.

They are the gate kernel, and the main kernel of a pixel gate and of a grid gate.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.build import tool_path
from bench.gpu.process import ROOT, Process, end_of, last_lines
from bench.gpu.results import Record, Results, outcome

KERNELS = 3
SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "SchedulerStats",
    "WarpStateStats",
    "Occupancy",
    "LaunchStats",
)
LAYER, DENSITY = "128@28x32", 0.35


def ncu_path() -> str | None:
    """Nsight Compute, on the PATH, beside nvcc or in its own folder."""
    own = sorted(Path("/opt/nvidia/nsight-compute").glob("*/ncu"))
    return tool_path("ncu") or (str(own[-1]) if own else None)


def profile(library: Path, results: Results, until: float, without: Sequence[tuple[str, str]] = ()) -> Record:
    """The step's outcome; what was measured is in profile.log.

    Args:
        without: (configuration, type) that are not to run.
    """
    tool = ncu_path()
    if tool is None:
        return outcome("partial", "ncu is neither on the PATH nor beside nvcc, so nothing was profiled")
    # The clocks stay as they are: locking them asks for rights, and the other figures were taken
    # without.
    command = [tool, "--clock-control", "none", "--profile-from-start", "off", "--target-processes", "all", "--page", "details"]
    command += [argument for section in SECTIONS for argument in ("--section", section)]
    child = [sys.executable, str(ROOT / "bench" / "gpu" / "child.py"), "profiled", "--library", str(library)]
    child += ["--state", json.dumps({"without": list(without), "first": 0})]
    done = Process([*command, *child], results.log("profile")).wait(until)
    found = profiled_kernels(done.output)
    for kernel in found:
        results.add("profile", **kernel)
    if len(found) >= KERNELS:
        return outcome("passed", f"{len(found)} kernels in profile.log")
    errors = re.findall(r"==ERROR== ([^\n]+)", done.output)
    said = (errors or last_lines(done.output, 1) or ["it printed nothing"])[0].strip()
    return outcome(
        "partial", f"ncu could not profile: {said} ({end_of(done.code)}); {len(found)} of {KERNELS} kernels were seen"
    )


FIGURES = {
    "Duration": "duration",
    "Compute (SM) Throughput": "sm_percent",
    "DRAM Throughput": "dram_percent",
    "L2 Cache Throughput": "l2_percent",
    "L1/TEX Cache Throughput": "l1_percent",
    "Achieved Occupancy": "occupancy_percent",
    "Registers Per Thread": "registers",
    "Elapsed Cycles": "cycles",
}
"""Line of ncu's details -> name in the results."""


def profiled_kernels(log: str) -> list[dict[str, Any]]:
    """The figures that ncu prints for each kernel.

    A heading "name (grid)x(block), Context ..., Stream ..." stands before the lines of figures.
    """
    found: list[dict[str, Any]] = []
    for line in log.splitlines():
        heading = re.match(r"\s+(\S.*?) \(\d+, \d+, \d+\)x\(\d+, \d+, \d+\), Context", line)
        if heading:
            found.append({"kernel": heading[1][:200]})
        figure = re.match(r"\s+(\S.*?)\s{2,}(\S+)?\s+([\d,.]+)\s*$", line)
        if found and figure and figure[1] in FIGURES:
            found[-1].setdefault(FIGURES[figure[1]], f"{figure[3]} {figure[2] or ''}".strip())
    return found


def profiled(bench: Any) -> int:
    """What runs under ncu."""
    import torch

    from bench.gpu.common import layer_inputs, mask
    from bench.gpu.settings import Setting, layers_of
    from lccl.backends.torch.cuda.calls import launch, new_workspace, prepare
    from lccl.backends.torch.cuda.interface import Family, Kernels

    (layer,) = layers_of([LAYER], True)
    calls = []
    for grid, kernels in ((1, (Kernels.GATE, Kernels.MAIN)), (8, (Kernels.MAIN,))):
        setting = Setting(layer, grid, "iid", False, DENSITY)
        generator = torch.Generator(bench.place).manual_seed(0)
        cells = -(-layer.out_size // grid)
        active = mask(layer.batch, (cells, cells), DENSITY, "iid", generator)
        inputs = layer_inputs(layer, grid, active, external=False, dtype=torch.float16, generator=generator)
        call = prepare(inputs, setting.attributes())
        listed = [c for c in bench.configs(call) if c.family != Family.DENSE]
        config = min(listed, key=lambda c: bench.library.predict(call.params, bench.device, c.id) or 0.0).id
        space = new_workspace(bench.library.workspace(call.params, bench.device, config), inputs["X"])
        launch(bench.library, bench.device, call, config, space)
        calls += [(call, config, space, kernel) for kernel in kernels]
    bench.wait()
    cuda: Any = torch.cuda
    cuda.cudart().cudaProfilerStart()
    for call, config, space, kernel in calls:
        call.params.kernels = kernel
        launch(bench.library, bench.device, call, config, space)
        bench.wait()
    cuda.cudart().cudaProfilerStop()
    return 0
