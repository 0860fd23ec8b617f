"""One layer on a GPU: the kernels' configurations against cuDNN.

cuDNN runs through PyTorch, on the same inputs; all run in CUDA graphs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.common import GPU, Times, buffers_needed, capture, layer_inputs, mask, spread, time_graphs
from bench.gpu.settings import Setting
from lccl.backends.torch.cuda.calls import Prepared, launch, new_workspace, prepare
from lccl.backends.torch.cuda.interface import Device
from lccl.backends.torch.cuda.kernel_op import device_of
from lccl.backends.torch.cuda.library import Config, Library
from lccl.errors import UserError, first_line
from lccl.op.contract import Attributes

DTYPE = torch.float16
DENSE = ("dense", "dense in two")
"""Ways to conv + bias + ReLU."""
REPLAYS = 15
REPLAY_BUDGET_S = 1.0
TOLERANCE = 1e-2
"""Of the largest output: a configuration whose result is further off is reported and not timed."""


@dataclass(frozen=True)
class Row:
    """One configuration in one setting. Times in microseconds."""

    layer: str
    channels: int
    size: int
    batch: int
    outputs: int
    stride: int
    grid: int
    mask: str
    form: str
    density: float
    config: str
    chosen: bool
    predicted_us: float | None
    times: Times
    dense: Times
    """The quicker of two ways to conv + bias + ReLU."""
    gated_dense: Times
    """The same and the gate: for a fused gate its 1x1 convolution and ReLU, and the
    multiplication."""
    peak_percent: float | None
    """Multiplications of active pixels over time, in per cent of the given peak."""

    @property
    def ratio(self) -> float:
        """Dense time over ours: above 1, ours takes less."""
        return self.dense.median / self.times.median

    @property
    def gated_ratio(self) -> float:
        return self.gated_dense.median / self.times.median

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "gated_ratio": self.gated_ratio}


@dataclass(frozen=True)
class Refusal:
    """A configuration that was not timed, and why."""

    setting: str
    config: str
    reason: str
    failed: bool = False
    """It gave a wrong result, or an error."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class BrokenDeviceError(RuntimeError):
    """An error after which this process can use the GPU no more."""


def _unwatched(_config: str, _setting: str, _number: int) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass
class Contest:
    """Rows as they come."""

    library: Library
    peak_tflops: float | None = None
    within: float = 4.0
    """Configurations predicted to take more than this many times the chosen one's time are not
    timed; 0: all are."""
    deadline: float = float("inf")
    """time.monotonic() at which to stop."""
    place: torch.device = GPU
    """The CPU only rehearses: nothing that it measures means anything."""
    without: frozenset[str] = frozenset()
    """Configurations that are not to run; the chosen one is then the best predicted of the
    others."""
    item: Callable[[str, str, int], AbstractContextManager[Any]] = _unwatched
    """Around what may not come back: configuration or "", setting, number of the setting."""

    def __post_init__(self) -> None:
        self.rows: list[Row] = []
        self.refusals: list[Refusal] = []
        self.complete = False
        self.l2_bytes = 0
        self._number = 0
        if self.place.type != "cuda":
            self.device: Device = self.library.device()
            return
        self.device = device_of(self.place)
        facts: Any = torch.cuda.get_device_properties(0)
        self.l2_bytes = int(facts.L2_cache_size)
        torch.backends.cudnn.benchmark = True

    def run(self, settings: Sequence[Setting], tell: Callable[[str], None], keep: Callable[[], None], first: int = 0) -> None:
        """Measures the settings in their order until the deadline.

        ``complete`` says whether all were.

        Args:
            keep: called after each setting, so that what there is survives whatever comes.
            first: number of the setting to begin with.

        Raises:
            BrokenDeviceError: the process can use the GPU no more; what was measured before stays.
        """
        self.complete = first >= len(settings)
        for number, setting in list(enumerate(settings))[first:]:
            self._number = number
            if time.monotonic() > self.deadline:
                tell(f"time is up after {number} of {len(settings)} settings")
                return
            tell(f"{number + 1}/{len(settings)} {setting.words}")
            self._attempt(setting)
            self.complete = number + 1 == len(settings)
            keep()

    def _attempt(self, setting: Setting) -> None:
        """An error ends one setting and not the others."""
        try:
            self._measure(setting)
            if self.place.type == "cuda":
                torch.cuda.empty_cache()
        except torch.cuda.OutOfMemoryError:
            self._refuse(setting, "all", "out of device memory")
            torch.cuda.empty_cache()
        except (RuntimeError, UserError) as error:
            self._refuse(setting, "all", f"error: {first_line(error)}", failed=True)
            self._require_context()

    def _require_context(self) -> None:
        """An error after which this process cannot measure on the GPU any more.

        Raises:
            BrokenDeviceError: the device takes no more calls.
        """
        if self.place.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.place)
        except RuntimeError as error:
            raise BrokenDeviceError(first_line(error)) from None

    def _refuse(self, setting: Setting, config: str, reason: str, failed: bool = False) -> None:
        self.refusals.append(Refusal(setting.words, config, reason, failed))

    def _measure(self, setting: Setting) -> None:
        layer = setting.layer
        generator = torch.Generator(self.place).manual_seed(
            hash((layer.channels, layer.size, layer.batch, setting.grid)) % 2**31
        )
        cells = -(-layer.out_size // setting.grid)
        active = mask(layer.batch, (cells, cells), setting.density, setting.mask, generator)
        attributes = setting.attributes()
        inputs = layer_inputs(layer, setting.grid, active, external=setting.external, dtype=DTYPE, generator=generator)
        sets = self._copies(inputs, 2 * layer.batch * layer.out_size**2 * layer.out_channels)
        dense = Dense(sets, attributes)
        calls = [prepare(copy, attributes) for copy in sets]
        graphs = {name: capture(call, len(sets), self.place) for name, call in dense.calls().items()}
        predicted = self._predictions(calls[0])
        chosen = self._choose(calls[0], predicted)
        size = max(self.library.workspace(calls[0].params, self.device, c.id) for c in self.library.configs())
        workspace = new_workspace(size, inputs["X"])
        expected = dense.gated(0)
        timed: list[Config] = []
        for config in self._worth_timing(setting, predicted, chosen):
            try:
                with self.item(config.name, setting.words, self._number):
                    wrong = self._difference(calls[0], config, workspace, expected)
                    if wrong <= TOLERANCE:
                        graphs[config.name] = capture(self._call(calls, config, workspace), len(sets), self.place)
            except (RuntimeError, UserError) as error:
                self._refuse(setting, config.name, f"error: {first_line(error)}", failed=True)
                self._require_context()
                continue
            if wrong > TOLERANCE:
                self._refuse(setting, config.name, f"wrong: off by {wrong:.2g} of the largest output", failed=True)
                continue
            timed.append(config)
        with self.item("", setting.words, self._number + 1):
            times = time_graphs(graphs, REPLAYS, REPLAY_BUDGET_S)
        share = float(spread(active, setting.grid, (layer.out_size, layer.out_size)).float().mean())
        for config in timed:
            self.rows.append(self._row(setting, config, config.id == chosen, calls[0], times, share))

    def _copies(self, inputs: dict[str, Tensor], output_bytes: int) -> list[dict[str, Tensor]]:
        """The inputs as often as it takes to be larger than the L2 cache.

        Each copy will have an output of its own.
        """
        bytes_each = sum(t.numel() * t.element_size() for t in inputs.values()) + output_bytes
        count = buffers_needed(bytes_each, self.l2_bytes)
        return [inputs] + [{name: tensor.clone() for name, tensor in inputs.items()} for _ in range(count - 1)]

    def _predictions(self, call: Prepared) -> dict[int, float]:
        """Id -> predicted microseconds, of the configurations that may run the call."""
        allowed = (c.id for c in self.library.configs() if c.name not in self.without)
        times = {id_: self.library.predict(call.params, self.device, id_) for id_ in allowed}
        return {id_: us for id_, us in times.items() if us is not None}

    def _choose(self, call: Prepared, predicted: dict[int, float]) -> int:
        """What the library chooses, or the best of what is left; 0 if nothing is."""
        chosen = self.library.choose(call.params, self.device)
        return chosen if chosen in predicted else min(predicted, key=lambda id_: predicted[id_], default=0)

    def _worth_timing(self, setting: Setting, predicted: dict[int, float], chosen: int) -> list[Config]:
        best = predicted.get(chosen, 0.0)
        worth = []
        for id_, us in predicted.items():
            config = self.library.config(id_)
            if self.within and us > self.within * best:
                self._refuse(setting, config.name, f"predicted {us:.0f} us, the chosen one {best:.0f}")
            else:
                worth.append(config)
        return worth

    def _difference(self, call: Prepared, config: Config, workspace: Tensor, expected: Tensor) -> float:
        """Largest difference from cuDNN's result, relative to the largest output."""
        call.memory.view(torch.uint8).fill_(0xFF)
        workspace.fill_(0xFF)
        y = launch(self.library, self.device, call, config.id, workspace)
        difference = float((y.float() - expected.float()).abs().max()) / max(float(expected.float().abs().max()), 1.0)
        return float("inf") if difference != difference else difference

    def _call(self, calls: list[Prepared], config: Config, workspace: Tensor) -> Callable[[int], Any]:
        return lambda i: launch(self.library, self.device, calls[i], config.id, workspace)

    def _row(
        self, setting: Setting, config: Config, chosen: bool, call: Prepared, times: dict[str, Times], share: float
    ) -> Row:
        layer = setting.layer
        mine = times[config.name]
        peak = layer.flops * share / mine.median / 1e6 / self.peak_tflops * 100 if self.peak_tflops else None
        return Row(
            layer=layer.name,
            channels=layer.channels,
            size=layer.size,
            batch=layer.batch,
            outputs=layer.out_channels,
            stride=layer.stride,
            grid=setting.grid,
            mask=setting.mask,
            form=setting.form,
            density=setting.density,
            config=config.name,
            chosen=chosen,
            predicted_us=self.library.predict(call.params, self.device, config.id),
            times=mine,
            dense=min((times[name] for name in DENSE if name in times), key=lambda t: t.median),
            gated_dense=times["gated"],
            peak_percent=peak,
        )


class Dense:
    """What a user without these kernels runs: cuDNN through PyTorch, channels_last, float16."""

    def __init__(self, sets: list[dict[str, Tensor]], attributes: Attributes) -> None:
        self._sets = sets
        self._grid = attributes.grid
        self._external = attributes.gate_source == "external"
        self._strides = attributes.strides
        self._gate_strides = attributes.gate_strides
        self._weights = [s["W"].permute(0, 3, 1, 2) for s in sets]
        self._biases = [s["B"].to(DTYPE) for s in sets]
        self._gate_weights = [s["gate_W"].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for s in sets]
        self._hw = [-(-side // stride) for side, stride in zip(sets[0]["X"].shape[2:], self._strides, strict=True)]
        # The dense network gets an external map at full size, so that only the kernels pay for a
        # grid.
        self._maps = [spread(s["gate"], self._grid, self._hw).contiguous() for s in sets] if self._external else []

    def calls(self) -> dict[str, Callable[[int], Any]]:
        """Name -> a call on set i."""
        fused, in_two = DENSE
        ways = {fused: self.fused, in_two: self.in_two, "gated": self.gated}
        return ways if self._sets[0]["X"].is_cuda else {name: call for name, call in ways.items() if name != fused}

    def fused(self, i: int) -> Tensor:
        """conv + bias + ReLU as one cuDNN call; without a GPU in two."""
        if not self._sets[i]["X"].is_cuda:
            return self.in_two(i)
        y: Tensor = torch.cudnn_convolution_relu(
            self._sets[i]["X"], self._weights[i], self._biases[i], self._strides, (1, 1), (1, 1), 1
        )
        return y

    def in_two(self, i: int) -> Tensor:
        """conv + bias, then ReLU in place: what an nn.Sequential does."""
        return F.conv2d(self._sets[i]["X"], self._weights[i], self._biases[i], self._strides, padding=1).relu_()

    def gated(self, i: int) -> Tensor:
        """The op's own function: the convolution, the gate, their product."""
        return self.fused(i).mul_(self._maps[i] if self._external else self._gate(i))

    def _gate(self, i: int) -> Tensor:
        gate = F.conv2d(self._sets[i]["X"], self._gate_weights[i], stride=self._gate_strides).relu_()
        return gate if self._grid == 1 else spread(gate, self._grid, self._hw)
