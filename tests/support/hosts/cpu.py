"""Cases for the CPU kernels' host program (``cpu/host``), and its answers.

Files are little-endian. The file of cases: int32 count; for each: int32 length of the name, the
name; the bytes of lccl_cpu_params; the inputs in the contract's order, each int64 elements (-1:
null) and float32 data; int64 elements of y; int32 number of runs, each the bytes of a :class:`Run`.
The file of results: for each run: int32 supported, status, callers agree, memory intact; int64
bytes of packed weights and of workspace, active pixels; int32 length of the reason, the reason;
int64 elements of y (-1: the same bits as in the run before) and float32 data.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from ctypes import Structure, c_float, c_int32, c_uint32, c_void_p, sizeof
from dataclasses import astuple, dataclass, field, replace
from enum import IntEnum
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lccl.backends.torch.cuda.planning import real_inputs
from lccl.op.contract import INPUT_NAMES, Attributes, output_shape
from lccl.op.reference import lccl_conv, lccl_gate
from support.builds.cpu import Host
from support.cases.op_cases import Case

Array = npt.NDArray[Any]

TOLERANCE = 2e-6
"""Relative to max(1, largest |Y|), for sums of up to SUMMANDS products; longer ones round more
often."""
SUMMANDS = 576
POISON = 0x7FC5A5A5
"""Every float32 of y before a call: a NaN that no arithmetic makes."""
NO_COUNT = -77
"""The count of active pixels before a call."""
ABI = 3


class IsaId(IntEnum):
    """Ids of the instruction sets."""

    PORTABLE = 1
    NEON = 2
    AVX2 = 3
    AVX512 = 4


class Status(IntEnum):
    """lccl_cpu_status."""

    OK = 0
    NOT_SUPPORTED = 1
    INVALID_POINTER = 2
    SHORT_WORKSPACE = 3


class Slot(IntEnum):
    """What a pointer of a call leads to; the inputs have the contract's order."""

    X = 0
    WEIGHT = 1
    BIAS = 2
    GATE_WEIGHT = 3
    GATE_BIAS = 4
    GATE = 5
    POST_SCALE = 6
    POST_BIAS = 7
    RESIDUAL = 8
    PACKED = 9
    WORKSPACE = 10
    Y = 11
    ACTIVE = 12


class Placement(IntEnum):
    """Where the host puts a call's memory."""

    HEAP = 0
    ENDS_AT_GUARD = 1
    STARTS_AT_GUARD = 2


class Fault(IntEnum):
    """What the host does wrong on purpose; ``cpu/host/case_file.h`` says how."""

    NONE = 0
    NULL = 1
    MISALIGNED = 2
    SHORT_WORKSPACE = 3
    SHORT = 4
    TWICE = 5


class Params(Structure):
    """lccl_cpu_params."""

    _fields_ = (
        ("abi", c_uint32),
        *((name, c_int32) for name in ("n", "c", "h", "w", "k", "r", "s")),
        ("strides", c_int32 * 2),
        ("pads", c_int32 * 4),
        ("dilations", c_int32 * 2),
        ("gate_r", c_int32),
        ("gate_s", c_int32),
        ("gate_strides", c_int32 * 2),
        ("gate_pads", c_int32 * 4),
        ("gate_dilations", c_int32 * 2),
        *(
            (name, c_int32)
            for name in (
                *("grid", "post_scale_size", "post_bias_size", "has_gate_weight", "has_gate", "has_residual"),
                *("x_channels_last", "y_channels_last"),
            )
        ),
        *(
            (name, c_float)
            for name in ("activation_alpha", "gate_slope", "gate_max", "gate_threshold", "post_alpha", "density")
        ),
        ("threads", c_int32),
        *(
            (name, c_void_p)
            for name in (
                "x",
                "packed_weight",
                "bias",
                "gate_weight",
                "gate_bias",
                "gate",
                "post_scale",
                "post_bias",
                "residual",
            )
        ),
        ("y", c_void_p),
        ("active", c_void_p),
    )


@dataclass(frozen=True)
class Run:
    """One call of a case. The fields have the host's order."""

    isa: int
    threads: int = 1
    """From 1: of the pool. 0: no ``parallel``. Below 0: so many are said, tasks run on one thread,
    the last one first."""
    callers: int = 1
    """Calls at the same time."""
    placement: Placement = Placement.HEAP
    fault: Fault = Fault.NONE
    slot: Slot = Slot.X
    """What the fault is about."""
    density: float = -1.0

    def packed(self) -> bytes:
        return struct.pack("<6if", *astuple(self))


@dataclass(frozen=True)
class Layer:
    """A case for the host."""

    name: str
    attributes: Attributes
    inputs: Mapping[str, Array]
    """The nine inputs, float32."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the params that are not what the tensors say."""
    x_channels_last: bool = False
    y_channels_last: bool = False
    """Of y and the residual. The inputs here are as the contract has them in any case."""

    @classmethod
    def of(cls, case: Case, **changes: Array) -> Layer:
        """A named case; ``changes`` replaces inputs."""
        return cls(case.name, case.attributes, case.inputs() | changes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self.inputs[name].shape for name in INPUT_NAMES}

    @property
    def given(self) -> dict[str, Array | None]:
        """The inputs as the kernels get them: None for a null pointer."""
        real = real_inputs(self.shapes, self.attributes)
        values: dict[str, Array | None] = {name: self.inputs[name] if name in real else None for name in INPUT_NAMES}
        for name, neutral in (("gate_B", 1), ("post_scale", 1), ("post_bias", 0)):
            if self.inputs[name].shape == (1,) and self.inputs[name][0] == neutral:
                values[name] = None
        return values

    @property
    def order(self) -> str:
        """The orders of X and Y: "nchw -> nhwc"."""
        return " -> ".join("nhwc" if last else "nchw" for last in (self.x_channels_last, self.y_channels_last))

    def params(self) -> Params:
        """The call without its tensors."""
        a, shapes, given = self.attributes, self.shapes, self.given
        n, c, h, w = shapes["X"]
        k, r, s, _ = shapes["W"]
        _, gate_r, gate_s, _ = shapes["gate_W"]
        sizes = {name: 0 if given[name] is None else shapes[name][0] for name in ("post_scale", "post_bias")}
        params = Params(
            abi=ABI, n=n, c=c, h=h, w=w, k=k, r=r, s=s, gate_r=gate_r, gate_s=gate_s, grid=a.grid, threads=1,
            post_scale_size=sizes["post_scale"], post_bias_size=sizes["post_bias"],
            has_gate_weight=given["gate_W"] is not None, has_gate=given["gate"] is not None,
            has_residual=given["residual"] is not None,
            x_channels_last=self.x_channels_last, y_channels_last=self.y_channels_last,
            activation_alpha=a.activation_alpha, gate_slope=a.gate_slope, gate_max=a.gate_max,
            gate_threshold=a.gate_threshold, post_alpha=a.post_alpha,
        )  # fmt: skip
        for name in ("strides", "pads", "dilations", "gate_strides", "gate_pads", "gate_dilations"):
            getattr(params, name)[:] = getattr(a, name)
        for name, value in self.changes.items():
            if isinstance(value, tuple):
                getattr(params, name)[:] = value
            else:
                setattr(params, name, value)
        return params

    def packed(self, runs: Sequence[Run]) -> bytes:
        """The layer and its runs in the file of cases."""
        name = self.name.encode()
        parts = [struct.pack("<i", len(name)), name, bytes(self.params())]
        last = {"X": self.x_channels_last, "residual": self.y_channels_last}
        for input_name, given in self.given.items():
            value = given.transpose(0, 2, 3, 1) if given is not None and last.get(input_name) else given
            parts.append(struct.pack("<q", -1 if value is None else value.size))
            parts.append(b"" if value is None else np.ascontiguousarray(value, np.float32).tobytes())
        outputs = int(np.prod(output_shape(self.shapes, self.attributes)))
        return b"".join([*parts, struct.pack("<qi", outputs, len(runs)), *(run.packed() for run in runs)])


@dataclass(frozen=True)
class Answer:
    """What one run has left behind."""

    supported: bool
    status: Status
    callers_agree: bool
    intact: bool
    """The bytes around packed weights, workspace and y are as they were."""
    packed_bytes: int
    workspace_bytes: int
    active: int
    reason: str
    y: Array
    """Flat; the same object as the run before where the bits are the same."""

    @property
    def untouched(self) -> bool:
        """Nothing was written to y nor to the count."""
        return bool((self.y.view(np.uint32) == POISON).all()) and self.active == NO_COUNT


@dataclass(frozen=True)
class Isa:
    """lccl_cpu_isa, and whether this machine runs it."""

    id: int
    name: str
    vector_bytes: int
    tile_rows: int
    tile_columns: int
    runs: bool


def isas_of(host: Host) -> list[Isa]:
    """The table of instruction sets, best first."""
    said = _table(host)
    assert said["params_bytes"] == sizeof(Params), "Params is not lccl_cpu_params"
    assert said["ends"], "there are isas beyond the table's ends"
    return [Isa(**{**isa, "runs": bool(isa["runs"])}) for isa in said["isas"]]


def chosen_isa(host: Host) -> int:
    """lccl_cpu_choose."""
    return int(_table(host)["chosen"])


def running_isas(host: Host) -> list[int]:
    """Ids of the instruction sets that this machine runs."""
    return [isa.id for isa in isas_of(host) if isa.runs]


def _table(host: Host) -> dict[str, Any]:
    done = subprocess.run([*host.command, "--isas"], capture_output=True, text=True, check=True, timeout=60)
    return dict(json.loads(done.stdout))


Work = Sequence[tuple[Layer, Sequence[Run]]]


def start(host: Host, work: Work, folder: Path, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Runs the host; whether it gets to the end is the caller's to see."""
    cases = folder / "cases.bin"
    with cases.open("wb") as file:
        file.write(struct.pack("<i", len(work)))
        for layer, runs in work:
            file.write(layer.packed(runs))
    command = [*host.command, str(cases), str(folder / "results.bin")]
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=environment)


def run(host: Host, work: Work, folder: Path, timeout: float = 900) -> list[list[Answer]]:
    """The host's answers, by layer and run.

    Fails where the program does: a sanitizer's report and the run that it is about are in the
    message.
    """
    done = start(host, work, folder, timeout)
    assert done.returncode == 0, f"{host.variant} ended with {done.returncode}: {done.stderr[-6000:]}"
    answers = _unpack((folder / "results.bin").read_bytes())
    return [list(_take(answers, len(runs))) for _, runs in work]


def _take(answers: Iterator[Answer], count: int) -> Iterator[Answer]:
    last = np.empty(0, np.float32)
    for _ in range(count):
        answer = next(answers)
        last = last if answer.y is _SAME else answer.y
        yield replace(answer, y=last)


_SAME = np.empty(0, np.float32)


def _unpack(results: bytes) -> Iterator[Answer]:
    stream = BytesIO(results)
    while stream.tell() < len(results):
        supported, status, agree, intact, packed, workspace, active, length = struct.unpack("<4i3qi", stream.read(44))
        reason = stream.read(length).decode()
        (count,) = struct.unpack("<q", stream.read(8))
        y = _SAME if count < 0 else np.frombuffer(stream.read(4 * count), np.float32)
        yield Answer(bool(supported), Status(status), bool(agree), bool(intact), packed, workspace, active, reason, y)


# ---- against the reference -----------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What the reference says of a layer."""

    y: Array
    """[N, K, Ho, Wo] float64."""
    active: int


def in_order(layer: Layer, number: int) -> Layer:
    """The layer with X and Y in one of the four pairs of orders, which go round by the number."""
    return replace(layer, x_channels_last=bool(number & 1), y_channels_last=bool(number & 2))


def expected(layer: Layer) -> Expected:
    """The reference's answer."""
    inputs = dict(layer.inputs)
    return Expected(lccl_conv(inputs, layer.attributes), int((lccl_gate(inputs, layer.attributes) > 0).sum()))


def is_decided(inputs: Mapping[str, Array], attributes: Attributes) -> bool:
    """No gate lies so near its edge that the rounding of float32 sums may open or close it."""
    finite = {name: np.nan_to_num(np.asarray(inputs[name], np.float64)) for name in INPUT_NAMES}
    reach = np.abs(finite["gate_W"]).sum() * np.abs(finite["X"]).max(initial=0) + np.abs(finite["gate_B"]).max()
    margin = 4 * np.finfo(np.float32).eps * reach
    ends = [
        lccl_gate(
            finite | {"gate_B": finite["gate_B"] + side * margin},
            replace(attributes, gate_threshold=attributes.gate_threshold * (1 - side * 1e-6)),
        )
        for side in (-1, 1)
    ]
    return bool(((ends[0] > 0) == (ends[1] > 0)).all())


def check(layer: Layer, want: Expected, runs: Sequence[Run], answers: Sequence[Answer]) -> None:
    """Every run did as the reference says, and those of one instruction set have the same bits."""
    summands = max(int(np.prod(layer.shapes[name][1:])) for name in ("W", "gate_W"))
    scale = max(1.0, float(np.max(np.abs(want.y[np.isfinite(want.y)]), initial=0))) * max(1.0, summands / SUMMANDS)
    first: dict[int, Array] = {}
    for one, answer in zip(runs, answers, strict=True):
        who = f"{layer.name} {layer.attributes} {layer.shapes} {layer.order}: {one}"
        assert (answer.supported, answer.reason, answer.status) == (True, "", Status.OK), f"{who}: {answer.reason}"
        assert answer.callers_agree, f"{who}: calls at the same time disturb each other"
        assert answer.intact, f"{who}: bytes outside of packed weights, workspace or y were written"
        assert answer.active == want.active, f"{who}: {answer.active} pixels active, not {want.active}"
        if one.isa in first:
            assert answer.y is first[one.isa] or answer.y.tobytes() == first[one.isa].tobytes(), f"{who}: other bits"
            continue
        first[one.isa] = answer.y
        assert not (answer.y.view(np.uint32) == POISON).any(), f"{who}: part of y was never written"
        n, k, ho, wo = want.y.shape
        y = answer.y.reshape((n, ho, wo, k) if layer.y_channels_last else want.y.shape)
        y = (y.transpose(0, 3, 1, 2) if layer.y_channels_last else y).astype(np.float64)
        np.testing.assert_allclose(y, want.y, rtol=0, atol=TOLERANCE * scale, equal_nan=True, err_msg=who)


def check_all(host: Host, work: Work, wants: Sequence[Expected], folder: Path, timeout: float = 900) -> None:
    """Runs the layers and checks each of them.

    The message of a failure says how many failed and shows the first.
    """
    failures = []
    for (layer, runs), want, answers in zip(work, wants, run(host, work, folder, timeout), strict=True):
        try:
            check(layer, want, runs, answers)
        except AssertionError as failure:
            failures.append((layer.name, str(failure)))
    names = ", ".join(name for name, _ in failures[:20])
    assert not failures, f"{len(failures)} of {len(work)} layers are wrong ({names}); the first:\n{failures[0][1]}"
