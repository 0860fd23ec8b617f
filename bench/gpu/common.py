"""Facts of a GPU, masks, a float64 reference in PyTorch, times of CUDA graphs.

The GPU check and the benchmark share them.
"""

from __future__ import annotations

import datetime
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.settings import Layer
from lccl.op.contract import Attributes, grid_hw

GPU = torch.device("cuda", 0)
MIN_INSTANCES = 20
MAX_INSTANCES = 200
"""Calls in one graph."""
L2_MARGIN = 2.0
"""Rotating buffers hold this many times the L2 cache."""
PEAKS = (
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("H100 NVL", 835.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("A30", 165.0),
    ("L40S", 362.0),
)
"""What a GPU's name holds -> dense float16 TFLOP/s of its tensor cores in NVIDIA's data sheet; the
first that fits. No MIG slices."""


def gpu_facts(command: Sequence[str]) -> dict[str, Any]:
    """What a number needs beside it: GPU, driver, CUDA, PyTorch, date, command."""
    facts: Any = torch.cuda.get_device_properties(0)
    cudnn: Any = torch.backends.cudnn
    return {
        "gpu": facts.name,
        "compute_capability": f"{facts.major}.{facts.minor}",
        "multiprocessors": facts.multi_processor_count,
        "shared_per_block": facts.shared_memory_per_block_optin,
        "shared_per_multiprocessor": facts.shared_memory_per_multiprocessor,
        "l2_bytes": facts.L2_cache_size,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(command),
    }


def cpu_facts(command: Sequence[str]) -> dict[str, Any]:
    """The same of a rehearsal on the CPU, whose times mean nothing."""
    return {
        "gpu": "none: a rehearsal on the CPU",
        "compute_capability": "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(command),
    }


def peak_of(gpu: str) -> float | None:
    """TFLOP/s that a GPU of this name can reach; None where no data sheet was copied here."""
    return None if "MIG" in gpu else next((peak for name, peak in PEAKS if name in gpu), None)


def driver_version() -> str:
    """The NVIDIA driver's version, or "unknown" where nvidia-smi does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


# ---- masks and inputs ----------------------------------------------------------------------------


def mask(n: int, hw: tuple[int, int], density: float, kind: str, generator: torch.Generator) -> Tensor:
    """A bool map [n, 1, *hw] with round(density * cells) cells set, on the generator's device.

    Args:
        kind: "iid": each cell by itself; "clustered": by thresholding noise that is smooth over
            about 8 cells.
    """
    if kind == "clustered":
        coarse = (n, 1, -(-hw[0] // 8) + 1, -(-hw[1] // 8) + 1)
        noise = torch.randn(coarse, generator=generator, device=generator.device)
        field = F.interpolate(noise, size=hw, mode="bicubic", align_corners=True)
    elif kind == "iid":
        field = torch.rand((n, 1, *hw), generator=generator, device=generator.device)
    else:
        raise ValueError(f"a mask is iid or clustered, not {kind!r}")
    active = torch.zeros(field.numel(), dtype=torch.bool, device=field.device)
    active[field.flatten().topk(round(density * field.numel())).indices] = True
    return active.view(field.shape)


def layer_inputs(
    layer: Layer, grid: int, active: Tensor, *, external: bool, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Tensor]:
    """Inputs whose gate is open exactly where ``active`` [n, 1, hg, wg] is set.

    A gate map or X's first channel opens it.

    X is channels_last. The open gates are between 0.5 and 1.5.
    """
    c, k, device = layer.channels, layer.out_channels, generator.device
    x = torch.randn((layer.batch, c, layer.size, layer.size), generator=generator, device=device).to(dtype)
    gates = torch.rand(active.shape, generator=generator, device=device) + 0.5
    gate = torch.where(active, gates, torch.zeros_like(gates)).to(dtype)
    weight = torch.randn((k, 3, 3, c), generator=generator, device=device) / (9 * c) ** 0.5
    inputs = {
        "X": x.to(memory_format=torch.channels_last),
        "W": weight.to(dtype),
        "B": torch.randn(k, generator=generator, device=device),
        "gate_W": torch.zeros((1, 1, 1, c), dtype=dtype, device=device),
        "gate_B": torch.ones(1, device=device) if external else torch.zeros(1, device=device),
        "gate": gate if external else torch.ones((1, 1, 1, 1), dtype=dtype, device=device),
        "post_scale": torch.ones(1, device=device),
        "post_bias": torch.zeros(1, device=device),
        "residual": torch.zeros((1, 1, 1, 1), dtype=dtype, device=device),
    }
    if not external:
        inputs["gate_W"][..., 0] = 1
        signed = torch.where(active, gate, -torch.ones_like(gate))
        inputs["X"][:, :1] = spread(signed, grid * layer.stride, (layer.size, layer.size))
    return inputs


def spread(cells: Tensor, grid: int, hw: Sequence[int]) -> Tensor:
    """[n, 1, hg, wg] -> [n, 1, *hw]: the value of the cell in which each pixel lies."""
    rows = torch.arange(hw[0], device=cells.device) // grid
    columns = torch.arange(hw[1], device=cells.device) // grid
    return cells[:, :, rows][..., columns]


# ---- a float64 reference -------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What the contract's formula gives in float64."""

    y: Tensor
    """[N, K, Ho, Wo]"""
    cells: Tensor
    """Gate of each cell before the threshold, [N, 1, Hg, Wg]."""
    unbounded: Tensor
    """The same before gate_max and without the ReLU."""
    magnitude: Tensor
    """The same with the absolute value of every term: what a rounding error scales with."""


def reference64(inputs: dict[str, Tensor], a: Attributes) -> Reference:
    """The contract's formula in float64 on the inputs' device.

    It multiplies unfolded windows, so that a NaN stays in its window.

    An external gate's gate_W is skipped, not multiplied: the contract leaves open what a NaN of X
    does to an open pixel then.
    """
    wide = {name: tensor.double() for name, tensor in inputs.items()}
    x, gate_b = wide["X"], wide["gate_B"][:, None, None]
    sums = _windows(x, wide["W"], a.strides, a.pads, a.dilations) + wide["B"][:, None, None]
    n, _, ho, wo = sums.shape
    if a.gate_source == "external":
        logit = gate_b.expand(n, 1, *grid_hw((ho, wo), a.grid))
        magnitude = logit.abs()
    else:
        logit = _windows(x, wide["gate_W"], a.gate_strides, a.gate_pads, a.gate_dilations) + gate_b
        magnitude = _windows(x.abs(), wide["gate_W"].abs(), a.gate_strides, a.gate_pads, a.gate_dilations) + gate_b.abs()
    assert logit.shape == (n, 1, *grid_hw((ho, wo), a.grid))
    cells = (a.gate_slope * logit).clamp(min=0).clamp(max=a.gate_max) * wide["gate"]
    g = spread(torch.where(cells > a.gate_threshold, cells, torch.zeros_like(cells)), a.grid, (ho, wo))
    v = torch.where(g > 0, _leaky(sums, a.activation_alpha) * g, torch.zeros_like(sums))
    y = v * wide["post_scale"][:, None, None] + wide["post_bias"][:, None, None] + wide["residual"]
    slope = a.gate_slope * wide["gate"]
    return Reference(_leaky(y, a.post_alpha), cells, slope * logit, slope.abs() * magnitude)


def _windows(x: Tensor, w: Tensor, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """x [N, C, H, W] and w [K, R, S, C] -> [N, K, Ho, Wo]."""
    top, left, bottom, right = pads
    k, r, s, _ = w.shape
    x = F.pad(x, (left, right, top, bottom))
    ho, wo = ((x.shape[2 + i] - dilations[i] * ((r, s)[i] - 1) - 1) // strides[i] + 1 for i in (0, 1))
    columns = F.unfold(x, (r, s), tuple(dilations), 0, tuple(strides))
    return (w.permute(0, 3, 1, 2).reshape(k, -1) @ columns).view(x.shape[0], k, ho, wo)


def _leaky(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * x)


# ---- times ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Microseconds of one call, over several replays of a graph of many."""

    median: float
    min: float
    p10: float
    p90: float
    replays: int
    instances: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def buffers_needed(bytes_each: int, l2_bytes: int) -> int:
    """How many sets of buffers exceed the L2 cache, so that no call finds its tensors there."""
    return min(MAX_INSTANCES, max(2, -(-int(L2_MARGIN * l2_bytes) // max(bytes_each, 1))))


class Calls:
    """Calls one after the other, in place of a CUDA graph where there is no GPU.

    A benchmark is rehearsed with them.
    """

    def __init__(self, call: Callable[[int], Any], sets: int) -> None:
        self._call = call
        self._sets = sets

    def replay(self) -> None:
        for i in range(self._sets):
            self._call(i)


Graph = torch.cuda.CUDAGraph | Calls


def capture(call: Callable[[int], Any], sets: int, place: torch.device = GPU) -> tuple[Graph, int]:
    """A CUDA graph of 20 calls or more, in which call i works on set i; and the number of calls.

    What the calls return is kept until its set comes round again, so that outputs rotate as inputs
    do.
    """
    if place.type != "cuda":
        return Calls(call, sets), sets
    instances = max(MIN_INSTANCES, sets)
    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(3):
            call(i % sets)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    kept: list[Any] = [None] * sets
    with torch.cuda.graph(graph):
        for i in range(instances):
            kept[i % sets] = call(i % sets)
    return graph, instances


def time_graphs(graphs: dict[str, tuple[Graph, int]], replays: int, budget_s: float) -> dict[str, Times]:
    """Times of all graphs, replayed in turn so that a drift of the clocks meets all of them alike.

    Args:
        graphs: name -> graph and its number of calls.
        replays: of each graph; fewer, but at least 3, where they would take more than ``budget_s``
            seconds.
    """
    names = list(graphs)
    samples: dict[str, list[float]] = {name: [] for name in names}
    spent = 0.0
    for i in range(replays + 1):
        for name in names:
            graph, instances = graphs[name]
            elapsed = _replay_ms(graph)
            spent += elapsed / 1e3
            if i > 0:  # the first replay uploads the graph
                samples[name].append(elapsed * 1e3 / instances)
        if i >= 3 and spent > budget_s:
            break
    return {name: summary(values, graphs[name][1]) for name, values in samples.items()}


def _replay_ms(graph: Graph) -> float:
    if isinstance(graph, Calls):
        began = time.perf_counter()
        graph.replay()
        return (time.perf_counter() - began) * 1e3
    cuda: Any = torch.cuda
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def summary(microseconds: Sequence[float], instances: int) -> Times:
    """Median and spread of the times of one call."""
    ordered = sorted(microseconds)
    tenth = len(ordered) // 10
    return Times(
        statistics.median(ordered), ordered[0], ordered[tenth], ordered[len(ordered) - 1 - tenth], len(ordered), instances
    )
