"""Random calls of the op in every form of the contract, and the check of one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from bench.gpu.common import Reference, spread
from lccl.backends.torch.cuda.calls import Prepared, launch, new_workspace, prepare
from lccl.backends.torch.cuda.interface import Device, Dtype, Layout
from lccl.backends.torch.cuda.library import Config, Library
from lccl.backends.torch.cuda.planning import padded
from lccl.errors import ContractError
from lccl.op.contract import BINARY_SLOPE, FLT_MAX, Attributes, conv_hw, gate_pads, grid_hw

CHANNELS = (1, 3, 7, 8, 9, 16, 24, 40, 64, 72, 128, 136, 200, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Of real data, relative to max(1, largest |Y|)."""
GATE_TOLERANCE = 1e-5
"""Of a gate's float32 sum, relative to the sum of its terms' absolute values: nearer to the
threshold a gate may flip."""
POISON = 0xFF
"""Byte that outputs, workspaces and padding hold before a call: a NaN in every type."""


@dataclass(frozen=True)
class Form:
    """One call: its sizes, its form, what its inputs look like."""

    n: int = 2
    c: int = 64
    k: int = 64
    hw: tuple[int, int] = (17, 19)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    gate: str = "1x1"
    """"1x1", "kxk", "grid" (its window covers the block), "external", or "both" (a 1x1 gate and a
    map)."""
    grid: int = 1
    activation_alpha: float = 0.0
    gate_slope: float = 1.0
    gate_max: float = FLT_MAX
    gate_threshold: float = 0.0
    post: str = "none"
    """"none", "one" (affines of one element that is not neutral), "each"."""
    residual: str = "none"
    """"none", "own", "in place"."""
    post_alpha: float = 1.0
    fill: str = "random"
    """Of the gate: "random", "all off", "all on", "one cell", "nan" (X has NaNs)."""
    dtype: torch.dtype = torch.float16
    layout: Layout = Layout.NHWC
    integers: bool = False
    """Small integers, whose sums have no rounding: results must be exact."""
    seed: int = 0

    def __str__(self) -> str:
        """What is not as it is by default."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return f"Form({', '.join(f'{name}={value}' for name, value in given.items())})"

    def attributes(self) -> Attributes:
        """Of the op; raises ContractError where the gate's kernel cannot cover the convolution."""
        kernel, dilations = self.gate_kernel()
        return Attributes(
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
            gate_strides=(self.strides[0] * self.grid, self.strides[1] * self.grid),
            gate_pads=gate_pads(
                self.kernel, self.pads, self.dilations, self.strides, kernel, self.grid, gate_dilations=dilations
            ),
            gate_dilations=dilations,
            activation_alpha=self.activation_alpha,
            gate_slope=self.gate_slope,
            gate_max=self.gate_max,
            gate_threshold=self.gate_threshold,
            gate_upsample=(1, 1, self.grid, self.grid),
            post_alpha=self.post_alpha,
            gate_source="external" if self.gate == "external" else "fused",
        )

    def gate_kernel(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Kernel and dilations of the gate's convolution."""
        if self.gate in ("kxk", "external"):
            return self.kernel, self.dilations
        if self.gate == "grid":
            return (self.strides[0] * self.grid, self.strides[1] * self.grid), (1, 1)
        return (1, 1), (1, 1)

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """The nine inputs; the same for the same form and device.

        Raises:
            ContractError: an input smaller than the kernel.
        """
        draw = _Draw(self, device)
        n, c, k = self.n, self.c, self.k
        ho, wo = conv_hw(self.hw, self.kernel, self.strides, self.pads, self.dilations)
        if ho < 1 or wo < 1:
            raise ContractError("the input is smaller than the kernel")
        map_shape = (n, 1, *grid_hw((ho, wo), self.grid))
        (rg, sg), _ = self.gate_kernel()
        external = self.gate in ("external", "both")
        affine = {"none": 0, "one": 1, "each": k}[self.post]
        values = {
            "X": draw.signed((n, c, *self.hw), 2, 1.0),
            "W": draw.signed((k, *self.kernel, c), 1, (c * self.kernel[0] * self.kernel[1]) ** -0.5),
            "B": draw.signed((k,), 3, 1.0),
            "gate_W": torch.zeros((1, rg, sg, c))
            if self.gate == "external"
            else draw.signed((1, rg, sg, c), 1, (c * rg * sg) ** -0.5),
            "gate_B": torch.ones(1) if self.gate == "external" else draw.signed((1,), 1, 0.1),
            "gate": draw.signed(map_shape, 2, 1.0).clamp(min=0) if external else torch.ones((1, 1, 1, 1)),
            "post_scale": draw.signed((affine,), 2, 1.0) if affine else torch.ones(1),
            "post_bias": draw.signed((affine,), 3, 1.0) if affine else torch.zeros(1),
            "residual": torch.zeros((1, 1, 1, 1)) if self.residual == "none" else draw.signed((n, k, ho, wo), 5, 1.0),
        }
        self._fill(values, external, draw)
        wide = ("B", "gate_B", "post_scale", "post_bias")
        return {
            name: value.to(device, torch.float32 if name in wide else self.dtype).contiguous() for name, value in values.items()
        }

    def _fill(self, values: dict[str, Tensor], external: bool, draw: _Draw) -> None:
        gate = values["gate"]
        far = 2.0**15 if self.integers else 64.0  # further than the gate's sum reaches
        if self.fill == "all off":
            if external:
                gate.zero_()
            else:
                values["gate_B"].fill_(-far)
        elif self.fill == "all on":
            gate.add_(1 if external else 0)
            values["gate_B"].fill_(1 if self.gate == "external" else far)
        elif self.fill == "one cell" and external:
            gate.zero_()
            gate.view(-1)[draw.index(gate.numel())] = 1
        elif self.fill == "nan":
            x = values["X"]
            for _ in range(3):
                x.view(-1)[draw.index(x.numel())] = torch.nan


class _Draw:
    """Numbers of a form, drawn on the device."""

    def __init__(self, form: Form, device: torch.device) -> None:
        self._integers = form.integers
        self._device = device
        self._generator = torch.Generator(device).manual_seed(form.seed)

    def signed(self, shape: Sequence[int], most: int, scale: float) -> Tensor:
        """Integers from -most to most, or normal numbers times the scale."""
        if self._integers:
            return torch.randint(-most, most + 1, tuple(shape), generator=self._generator, device=self._device).float()
        return torch.randn(tuple(shape), generator=self._generator, device=self._device) * scale

    def index(self, below: int) -> int:
        return int(torch.randint(below, (1,), generator=self._generator, device=self._device))


def random_form(rng: random.Random, *, largest: int = 40, channels: Sequence[int] = CHANNELS) -> Form:
    """Any form of the op whose sizes fit together.

    Args:
        largest: height and width at most.
    """
    while True:
        form = _any_form(rng, largest, channels)
        try:
            form.attributes()
        except ContractError:
            continue
        if min(conv_hw(form.hw, form.kernel, form.strides, form.pads, form.dilations)) >= 1:
            return form


def _any_form(rng: random.Random, largest: int, channels: Sequence[int]) -> Form:
    square = rng.choice((1, 2, 3, 3, 3, 5, 7))
    kernel = (square, square) if rng.random() < 0.7 else (rng.randint(1, 7), rng.randint(1, 7))
    dilations = rng.choice(((1, 1), (1, 1), (1, 1), (2, 2), (3, 1)))
    half = tuple(dilations[i] * (kernel[i] - 1) // 2 for i in (0, 1))
    pads = (*half, *half) if rng.random() < 0.6 else tuple(rng.randint(0, 3) for _ in range(4))
    grid = rng.choice((1, 1, 1, 2, 3, 4, 7, 8, 16))
    dtype = rng.choice((torch.float16, torch.float16, torch.bfloat16, torch.float32))
    integers = rng.random() < 0.4
    form = Form(
        n=rng.choice((1, 1, 2, 3, 4)),
        c=rng.choice(channels),
        k=rng.choice(channels),
        hw=(rng.randint(1, largest), rng.randint(1, largest)),
        kernel=kernel,
        strides=rng.choice(((1, 1), (1, 1), (2, 2), (1, 3), (2, 1))),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        dilations=dilations,
        gate=rng.choice(("1x1", "kxk", "external", "both") if grid == 1 else ("grid", "grid", "external")),
        grid=grid,
        activation_alpha=rng.choice((0.0, 1.0, 0.5)),
        gate_max=rng.choice((2.0, 1.0) if integers else (FLT_MAX, 1.0)),
        gate_threshold=rng.choice((0.0, 0.0, 0.5)),
        post=rng.choice(("none", "one", "each")),
        residual=rng.choice(("none", "own", "in place")),
        post_alpha=rng.choice((1.0, 0.0, 0.5)),
        fill=rng.choice(("random", "random", "random", "random", "all off", "all on", "one cell", "nan")),
        dtype=dtype,
        layout=rng.choice(tuple(Layout)) if dtype == torch.float32 else Layout.NHWC,
        integers=integers,
        seed=rng.randrange(2**31),
    )
    if not integers and form.gate != "external" and rng.random() < 0.15:
        form = replace(form, gate_slope=BINARY_SLOPE, gate_max=1.0)
    if form.fill in ("all off", "all on") and integers:
        form = replace(form, gate_max=2.0)
    return form


def undecided(reference: Reference, a: Attributes) -> Tensor:
    """Cells so near to the threshold that float32 may decide them either way, [N, 1, Hg, Wg]."""
    near = (reference.unbounded - a.gate_threshold).abs() <= GATE_TOLERANCE * reference.magnitude
    bounded = (reference.cells > 0) & ((reference.cells - a.gate_threshold).abs() <= 1e-6 * a.gate_threshold)
    return (near & (reference.magnitude > 0)) | bounded


def _silent(**_: Any) -> None:
    """Tells nobody."""


@dataclass
class Bench:
    """A library on a device, and a workspace that grows."""

    library: Library
    device: Device
    place: torch.device
    without: frozenset[tuple[str, str]] = frozenset()
    """(configuration, type) that are not to run."""
    tell: Callable[..., None] = _silent
    """Says what is running, to whoever has to know which call it was that did not come back."""
    resume: int = 0
    """Number of the form at which a new process goes on after a call that did not come back."""
    last: frozenset[tuple[str, str]] = frozenset()
    """(configuration, type) that compute-sanitizer looks at after all others: they may end the
    process."""

    def __post_init__(self) -> None:
        self._workspace = torch.empty(0, dtype=torch.uint8, device=self.place)
        cuda: Any = torch.cuda
        self._streams = [cuda.Stream(self.place) for _ in range(2)] if self.place.type == "cuda" else [None, None]

    def configs(self, call: Prepared) -> list[Config]:
        """Those that can run the call and are not left out."""
        dtype = Dtype(call.params.dtype).name.lower()
        allowed = (c for c in self.library.configs() if (c.name, dtype) not in self.without)
        return [c for c in allowed if self.library.supported(call.params, self.device, c.id)]

    @contextmanager
    def item(self, config: str, form: Form, resume: int | None = None) -> Iterator[None]:
        """Tells that a call begins and that it ended; not the end where it raised."""
        at = self.resume if resume is None else resume
        self.tell(event="begin", config=config, dtype=str(form.dtype).removeprefix("torch."), form=str(form), resume=at)
        yield
        self.tell(event="end")

    def workspace(self, call: Prepared, config: Config) -> Tensor:
        """The shared one: poisoned, and not a byte larger than asked for."""
        size = self.library.workspace(call.params, self.device, config.id)
        if self._workspace.numel() < size:
            self._workspace = new_workspace(size, self._workspace)
        return self._workspace[: max(size, 16)].fill_(POISON)

    def own_workspace(self, call: Prepared, config: Config) -> Tensor:
        """New memory that nobody has written."""
        return new_workspace(self.library.workspace(call.params, self.device, config.id), call.memory)

    def twice(self, form: Form, inputs: dict[str, Tensor], config: Config) -> tuple[Prepared, str]:
        """The call on one stream and again on another, from poisoned memory.

        The second call, and how the two differ.
        """
        with self.item(config.name, form):
            return self.calls_twice(form, inputs, config)

    def calls_twice(self, form: Form, inputs: dict[str, Tensor], config: Config) -> tuple[Prepared, str]:
        """The same without telling of it."""
        results: list[Tensor] = []
        for stream in self._streams:
            with self._after_this_one(stream):
                call = self.prepare(form, inputs)
                launch(self.library, self.device, call, config.id, self.workspace(call, config))
                results.append(call.memory.clone())
            self.wait()
        same = torch.equal(_bytes(results[0]), _bytes(results[1]))
        return call, "" if same else "two calls on the same inputs differ"

    def prepare(self, form: Form, inputs: dict[str, Tensor], *, poison: bool = True) -> Prepared:
        """The call with poison in the padding of its inputs and, unless told not to, in y."""
        call = prepare(inputs, form.attributes(), layout=form.layout)
        if poison:
            _bytes(call.memory).fill_(POISON)
        if form.residual == "in place":
            call.output.copy_(inputs["residual"])
            call.params.residual = call.params.y
        for name, channels in (("X", form.c), ("residual", form.k)):
            if name in call.inputs and form.layout == Layout.NHWC and padded(channels) > channels:
                _padding(call.inputs[name]).fill_(torch.nan)
        return call

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.place.type == "cuda":
            torch.cuda.synchronize(self.place)

    def _after_this_one(self, stream: Any) -> AbstractContextManager[Any]:
        """Run on another stream, which first waits for the current one to write the inputs."""
        if stream is None:
            return nullcontext()
        stream.wait_stream(torch.cuda.current_stream(self.place))
        return torch.cuda.stream(stream)


class Faults(list[str]):
    """What was wrong, told as it is found: the process may not live to its end."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench

    def __iadd__(self, sentences: Iterable[str]) -> Faults:
        for sentence in sentences:
            self.append(sentence)
        return self

    def append(self, sentence: str) -> None:
        super().append(sentence)
        self._bench.tell(event="fault", words=sentence)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)


def _padding(image: Tensor) -> Tensor:
    """The padded channels, [n, h, w, padding], of an NHWC image [n, channels, h, w].

    The image lies in memory of its own.
    """
    n, channels, h, w = image.shape
    pitch = padded(channels)
    return image.as_strided((n, h, w, pitch), (h * w * pitch, w * pitch, pitch, 1))[..., channels:]


def fault(form: Form, reference: Reference, call: Prepared) -> str:
    """What is wrong with a call's output, in words; empty if nothing is."""
    if form.layout == Layout.NHWC and bool((call.memory[..., form.k :] != 0).any()):
        return "padding of y is not 0"
    y, want = call.output, reference.y
    if form.integers:
        rounded = want.to(form.dtype)
        wrong = (y != rounded) & ~(y.isnan() & rounded.isnan())
        return _words(wrong, y, rounded) if bool(wrong.any()) else ""
    ignored = undecided(reference, form.attributes())
    if int(ignored.sum()) > 2 + 0.01 * ignored.numel():
        return f"{int(ignored.sum())} of {ignored.numel()} gates are too near to the threshold for a check"
    scale = max(1.0, float(want.nan_to_num().abs().max()))
    wrong = ~((y.double() - want).abs() <= TOLERANCE[form.dtype] * scale) & ~(y.isnan() & want.isnan())
    wrong &= ~spread(ignored, form.grid, want.shape[2:])
    return _words(wrong, y, want) if bool(wrong.any()) else ""


def _words(wrong: Tensor, y: Tensor, want: Tensor) -> str:
    first = tuple(int(i) for i in wrong.nonzero()[0])
    return f"{int(wrong.sum())} of {wrong.numel()} outputs are wrong, first {first}: {float(y[first])!r}, not {float(want[first])!r}"
