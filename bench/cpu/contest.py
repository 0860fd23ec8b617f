"""Networks side by side on a CPU, in ONNX Runtime and OpenVINO, timed in turn."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper

from bench.cpu.common import NO_LIBRARY, Array
from lccl.backends.onnxruntime.library import library_path
from lccl.errors import UserError, first_line
from lccl.files import require_file
from lccl.op.contract import DOMAIN, OP_TYPE

WARM_BELOW_US = 20_000.0
"""A run that takes less is preceded by one that is not timed, so that it finds its own weights in
the caches."""


class Runner(Protocol):
    """A network that is loaded."""

    def run(self, x: Array) -> Array: ...


class OrtRunner:
    """A model in ONNX Runtime on the CPU.

    Args:
        library: of custom ops; None: LCCLConv runs by its function.
    """

    def __init__(self, model: bytes, threads: int, library: str | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if library is not None:
            options.register_custom_ops_library(library)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def run(self, x: Array) -> Array:
        outputs: list[Array] = self._session.run(None, {self._input: x})
        return outputs[0]

    def run_all(self, x: Array) -> dict[str, Array]:
        """Outputs by name."""
        names = [o.name for o in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {self._input: x}), strict=True))


class OpenVinoRunner:
    """A model in OpenVINO on the CPU, in float32."""

    def __init__(self, model: bytes, threads: int) -> None:
        openvino: Any = import_module("openvino")
        core = openvino.Core()
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(model)
            file.flush()
            network = core.read_model(file.name)
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = core.compile_model(network, "CPU", config).create_infer_request()

    def run(self, x: Array) -> Array:
        output: Array = self._request.infer({0: x}, share_inputs=True, share_outputs=True)[0]
        return output


def openvino_there() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


def library_of(given: str | None) -> str:
    """Path of the custom-op library, or NO_LIBRARY where that was given.

    Raises:
        UserError: there is none, or it does not bring the op.
    """
    if given == NO_LIBRARY:
        return NO_LIBRARY
    path = library_path() if given is None else require_file(given).absolute()
    _require_op(str(path))
    return str(path)


def _require_op(library: str) -> None:
    """Require that the library brings the op.

    A model without the function loads only then, so that what is measured is the library.
    """
    from bench.cpu.layer_nets import Layer, layer_net

    model = layer_net(Layer(8, 4, 8), 1, 1, "1x1")[1]
    kept = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, OP_TYPE)]
    del model.functions[:]
    model.functions.extend(kept)
    try:
        OrtRunner(model.SerializeToString(), 1, library)
    except Exception as error:
        raise UserError(f"ONNX Runtime does not get {OP_TYPE} from {library}: {first_line(error)}") from error


# ---- times ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A network and what it is fed with."""

    name: str
    load: Callable[[], Runner]
    feeds: Mapping[str, Array]
    """Label -> X."""


@dataclass(frozen=True)
class Plan:
    """How often to run."""

    rounds: int = 30
    most: int = 200
    """Rounds, where they take less than a second together."""
    least: int = 5
    """Rounds, where they take more than ``seconds`` together."""
    seconds: float = 120.0
    """Of one setting."""
    passes: int = 3
    """How often each session is loaded again, where only one is alive at a time."""
    warm_below_us: float = WARM_BELOW_US
    """Runs that take less are preceded by one that is not timed."""

    def rounds_of(self, round_us: float) -> int:
        """Rounds of a setting in which one takes so many microseconds."""
        wanted = min(max(self.rounds, round(1e6 / round_us)), max(self.most, self.rounds))
        return max(min(self.least, self.rounds), min(wanted, int(1e6 * self.seconds / round_us)))

    def share(self, part: float) -> Plan:
        """The plan of a candidate that gets this part of the setting's seconds."""
        return replace(self, seconds=part * self.seconds)


Samples = dict[tuple[str, str], list[float]]
"""(candidate, label) -> microseconds of each run."""


@dataclass(frozen=True)
class Race:
    """What a race left."""

    samples: Samples
    cpu_share: float | None
    """CPU time of this process over the time that passed, with one thread: below 1, something else
    had its core."""


def race(candidates: Sequence[Candidate], threads: int, plan: Plan) -> Race:
    """Times of every candidate on each of its feeds.

    With one thread all are loaded, and every round runs each once in a random order, so that a
    drift of the machine's speed meets all alike. With more threads one is loaded at a time: the
    waiting threads of two pools would take each other's cores.
    """
    if threads == 1:
        loaded = [(c, c.load()) for c in candidates]
        cpu, wall = time.process_time(), time.perf_counter()
        samples = _rounds(loaded, plan, 1)
        return Race(samples, (time.process_time() - cpu) / (time.perf_counter() - wall))
    found: Samples = {}
    feeds = sum(len(c.feeds) for c in candidates)
    for _ in range(plan.passes):
        for candidate in candidates:
            own = plan.share(len(candidate.feeds) / feeds)
            for key, times in _rounds([(candidate, candidate.load())], own, plan.passes).items():
                found.setdefault(key, []).extend(times)
            gc.collect()
    return Race(found, None)


def _rounds(loaded: Sequence[tuple[Candidate, Runner]], plan: Plan, parts: int) -> Samples:
    """One part of the rounds."""
    items = [(c.name, label, runner, x) for c, runner in loaded for label, x in c.feeds.items()]
    usual = [min(_time(runner, x) for _ in range(2)) for _, _, runner, x in items]
    rounds = -(-plan.rounds_of(sum(t * (2 if t < plan.warm_below_us else 1) for t in usual)) // parts)
    rng = np.random.default_rng(0)
    samples: Samples = {(name, label): [] for name, label, _, _ in items}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for i in rng.permutation(len(items)):
                name, label, runner, x = items[i]
                if usual[i] < plan.warm_below_us:
                    runner.run(x)
                samples[name, label].append(_time(runner, x))
    finally:
        if collecting:
            gc.enable()
    return samples


def _time(runner: Runner, x: Array) -> float:
    began = time.perf_counter()
    runner.run(x)
    return 1e6 * (time.perf_counter() - began)


def relative_error(got: Array, want: Array) -> float:
    """Largest difference over the largest value; infinite where either is not finite."""
    error = float(np.abs(got.astype(np.float64) - want).max() / max(float(np.abs(want).max()), 1e-30))
    return error if np.isfinite(error) else float("inf")


def dense_bytes(model: onnx.ModelProto) -> bytes:
    """The dense twin, serialised."""
    from lccl.graph.variants.dense import dense_twin

    twin: bytes = dense_twin(model).SerializeToString()
    return twin


def gate_outputs(model: onnx.ModelProto) -> bytes:
    """The model with every gate as an output, and only those."""
    from lccl.graph.gate_probe import with_gate_outputs

    probing, probes = with_gate_outputs(model)
    names = [probe.gate for probe in probes]
    del probing.graph.output[:]
    probing.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    serialised: bytes = probing.SerializeToString()
    return serialised
