"""The part of the GPU check that leads the TensorRT plugin through its life.

Build, timing, contexts on streams of their own, CUDA graphs, serialisation: every named case of the
op, in every type, on every tactic, against the float64 reference.
"""

from __future__ import annotations

import importlib.util
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.results import outcome

HOST, LIBRARY = "lccl_trt_gpu_host", "liblccl_trt_plugin.so"
RUNTIMES = {"tensorrt_lean_libs": "libnvinfer_lean.so.*", "tensorrt_libs": "libnvinfer.so.*"}
"""Package -> the library that holds TensorRT's plugin registry."""
RUNNING = ("context", "second context", "runtime", "captured")
"""Who computes the op itself; "timed" simulates its gates."""


def tensorrt_library() -> Path | None:
    """TensorRT's library from a pip package, if one is installed."""
    for package, pattern in RUNTIMES.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            found = sorted(Path(folder).glob(pattern))
            if found:
                return found[0]
    return None


def check_plugin(folder: Path, scratch: Path, until: float) -> dict[str, Any]:
    """The part's outcome.

    Args:
        folder: holds the host program and the plugin.
        scratch: for the files between them.
        until: time.monotonic() at which it has to end.
    """
    from lccl.backends.torch.cuda.interface import Dtype
    from support.cases.op_cases import CASES
    from support.hosts.plugin import Layer, run

    host, library = folder / HOST, folder / LIBRARY
    if not host.is_file() or not library.is_file():
        return outcome("skipped", f"{HOST} and {LIBRARY} are not in {folder}: they come with the part build")
    tensorrt = tensorrt_library()
    arguments = (library,) if tensorrt is None else (tensorrt, library)
    faults: list[str] = []
    calls = 0
    for dtype in Dtype:
        if time.monotonic() > until:
            words = f"{calls} calls before the time was up"
            return outcome("failed" if faults else "partial", words, faults, calls=calls)
        layers = [Layer.of(case, dtype) for case in CASES]
        try:
            answers, _ = run(host, layers, scratch, *arguments, timeout=max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            words = f"the time was up in {dtype.name.lower()}, after {calls} calls"
            return outcome("failed" if faults else "partial", words, faults, calls=calls)
        except AssertionError as error:
            faults.append(str(error)[-2000:])
            return outcome("failed", f"the host program failed for {dtype.name.lower()}", faults, calls=calls)
        for layer, answer in zip(layers, answers, strict=True):
            calls += len(answer.outputs)
            faults += faults_of(layer, answer)
    if tensorrt is None:
        words = f"{calls} calls of plugins without TensorRT, of which no pip package is here: its registry was not seen"
        return outcome("failed" if faults else "passed", words, faults, calls=calls)
    words = f"{calls} calls of plugins from the registry of {tensorrt.name}"
    return outcome("failed" if faults else "passed", words, faults, calls=calls)


def faults_of(layer: Any, answer: Any) -> Iterator[str]:
    """What is wrong with the answer for one layer, a sentence each."""
    from support.hosts.plugin import assert_close

    if answer.problem:
        yield f"{layer.name}: {answer.problem}"
        return
    by_tactic: dict[str, bytes] = {}
    for label, memory in answer.outputs.items():
        who, _, tactic = label.rpartition(" ")
        if who not in RUNNING:
            continue
        try:
            assert_close(layer, layer.output(memory))
        except AssertionError as error:
            yield f"{layer.name}, {label}: {str(error).strip().splitlines()[0]}"
        if by_tactic.setdefault(tactic, memory) != memory:
            yield f"{layer.name}, {label}: other bytes than another context's"
