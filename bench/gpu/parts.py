"""Parts of the GPU check: random forms, masks, graphs, streams.

Each returns a dict: status, words, numbers, the first faults.

All but ``graph`` and ``streams`` also run on the CPU with the emulator's library, which is how
tests check the checks.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.gpu.common import Reference, reference64
from bench.gpu.forms import CHANNELS, DTYPES, GATE_TOLERANCE, TOLERANCE, Bench, Faults, Form, fault, random_form, undecided
from bench.gpu.results import outcome
from lccl.backends.torch.cuda.calls import launch, prepare
from lccl.backends.torch.cuda.interface import Family, Layout, Math
from lccl.backends.torch.cuda.library import Config
from lccl.backends.torch.cuda.planning import padded
from lccl.op.contract import FLT_MAX, INPUT_NAMES

LOOPING = (
    Form(n=16, c=32, k=64, hw=(112, 112)),
    Form(n=16, c=32, k=128, hw=(112, 112), gate="external", grid=8),
)
"""So many tiles, however they are cut, that blocks of every configuration go on to a second one."""
LARGE = (
    *LOOPING,
    Form(n=8, c=64, k=64, hw=(56, 56)),
    Form(n=8, c=128, k=128, hw=(28, 28), gate="kxk", residual="in place", post_alpha=0.0),
    Form(n=4, c=256, k=256, hw=(14, 14), gate="external", post="each"),
    Form(n=2, c=512, k=512, hw=(7, 7)),
    Form(n=2, c=64, k=128, hw=(80, 80), gate="grid", grid=8),
    Form(n=1, c=96, k=72, hw=(65, 130), gate="external", grid=16),
    Form(n=4, c=128, k=256, hw=(28, 28), gate="grid", grid=4, strides=(2, 2)),
)
"""Layers of many tiles."""
ENOUGH_FORMS = 300
"""With so many, on every configuration, a sweep that ran out of time is complete: it goes on for as
long as there is time."""
EVERY = 20
"""One of so many forms of the sweep is a large one."""
EMPTY = Form(n=0, integers=True)


def result(faults: list[str], complete: bool, words: str, **numbers: Any) -> dict[str, Any]:
    """A step's outcome; "partial" where it was stopped in time and had no fault."""
    return outcome("failed" if faults else "passed" if complete else "partial", words, faults, **numbers)


# ---- sweep ---------------------------------------------------------------------------------------


def sweep(
    bench: Bench,
    deadline: float,
    count: int,
    *,
    seed: int = 0,
    largest: int = 40,
    channels: tuple[int, ...] = CHANNELS,
    large: tuple[Form, ...] = LARGE,
    first: int = 0,
) -> dict[str, Any]:
    """Random forms on every configuration that can run them, each twice, against float64.

    Every twentieth form is a large one.

    Args:
        first: number of the form to begin with.
    """
    unchecked = "" if find_spec("onnx") else "; without onnx the float64 reference was not held against the package's own"
    faults = Faults(bench)
    bench.resume = first
    faults += [] if unchecked else check_reference(bench.place)
    faults += check_form(bench, EMPTY, Calls())
    calls = Calls()
    forms = first
    while forms < count and time.monotonic() < deadline:
        bench.resume = forms
        rng = random.Random(f"{seed} {forms}")
        form = random_form(rng, largest=largest, channels=channels)
        if large and forms % EVERY == 0:
            form = replace(large[forms // EVERY % len(large)], dtype=rng.choice(DTYPES[:2]), seed=forms)
            form = replace(form, integers=True, gate_max=2.0) if rng.random() < 0.5 else form
        faults += check_form(bench, form, calls)
        forms += 1
    configs = bench.library.configs_for(bench.device)
    left_out = {name for name, _ in bench.without}
    idle = [c.name for c in configs if not calls.number[c.name] and c.name not in left_out]
    if idle and forms == count and first == 0:
        faults.append(f"no form ran on {', '.join(idle)}")
    resident = {c.name: bench.library.resident_blocks(bench.device, c.id) for c in configs if c.math == Math.MMA}
    once = [name for name, blocks in resident.items() if calls.tiles[name] <= blocks and name not in left_out]
    if once and large == LARGE and forms > EVERY * (len(LOOPING) - 1) and first == 0:
        faults.append(f"no block of {', '.join(once)} went on to a second tile")
    words = f"{forms} of {count} forms, {calls.number.total()} calls on {len(calls.number)} of {len(configs)} configurations, each twice"
    enough = (forms == count or (forms >= ENOUGH_FORMS and not idle and not once)) and (calls.number.total() > 0 or first > 0)
    most = {name: {"tiles": calls.tiles[name], "resident_blocks": blocks} for name, blocks in resident.items()}
    return result(faults, enough, words + unchecked, forms=forms, calls=dict(calls.number), most_tiles=most)


@dataclass
class Calls:
    """What ran on each configuration, by its name."""

    number: Counter[str] = field(default_factory=Counter)
    tiles: Counter[str] = field(default_factory=Counter)
    """The most tiles that one call had."""

    def count(self, config: Config, form: Form, reference: Reference) -> None:
        self.number[config.name] += 1
        self.tiles[config.name] = max(self.tiles[config.name], tiles_of(config, form, reference))


def tiles_of(config: Config, form: Form, reference: Reference) -> int:
    """Tiles of a call's main kernel at least; more than resident blocks make blocks loop."""
    cells = reference.cells
    open_ = cells.numel() if config.family == Family.DENSE else int((cells > form.gate_threshold).sum())
    rows = min(open_ * form.grid**2, reference.y[:, 0].numel())
    lines, columns = -(-rows // config.tile_m), -(-padded(form.k) // config.tile_n)
    return int(lines * columns)


def check_reference(place: torch.device) -> list[str]:
    """Check this check's float64 reference against the package's own, on the tests' named cases."""
    import numpy as np

    from lccl.op.reference import lccl_conv
    from support.cases.op_cases import CASES

    faults = []
    for case in CASES:
        arrays = case.inputs()
        y = reference64({name: torch.from_numpy(arrays[name]).to(place) for name in INPUT_NAMES}, case.attributes).y
        want = lccl_conv(arrays, case.attributes)
        if not np.allclose(y.cpu().numpy(), want, rtol=1e-9, atol=1e-9):
            faults.append(f"the reference of this check differs from lccl.op.reference on the case {case.name}")
    return faults


def check_form(bench: Bench, form: Form, calls: Calls) -> list[str]:
    """Faults of a form on every configuration that can run it."""
    inputs = form.inputs(bench.place)
    reference = reference64(inputs, form.attributes())
    configs = bench.configs(prepare(inputs, form.attributes(), layout=form.layout))
    faults = [] if configs or bench.without else [f"no configuration runs {form}"]
    for config in configs:
        call, differs = bench.twice(form, inputs, config)
        calls.count(config, form, reference)
        what = differs or fault(form, reference, call)
        if what:
            faults.append(f"{config.name}: {what}: {form}")
    return faults


# ---- masks ---------------------------------------------------------------------------------------


def masks(
    bench: Bench,
    deadline: float,
    count: int,
    *,
    seed: int = 1,
    largest: int = 24,
    channels: tuple[int, ...] = CHANNELS,
    first: int = 0,
) -> dict[str, Any]:
    """Check which cells are active, and each gate's value.

    With W = 0 and B = 1 the output is the gate itself.
    """
    faults = Faults(bench)
    calls = cells = near = 0
    forms = first
    while forms < count and time.monotonic() < deadline:
        bench.resume = forms
        rng = random.Random(f"{seed} {forms}")
        form = random_form(rng, largest=largest, channels=channels)
        form = replace(
            form, k=rng.choice((1, 8)), activation_alpha=1.0, post="none", residual="none", post_alpha=1.0, integers=False
        )
        form = replace(form, fill="random", gate_max=rng.choice((FLT_MAX, 1.0)), gate_slope=rng.choice((1.0, 0.5)))
        forms += 1
        inputs = form.inputs(bench.place)
        inputs["W"].zero_()
        inputs["B"].fill_(1)
        reference = reference64(inputs, form.attributes())
        want = reference.cells
        open_ = want > form.gate_threshold
        skipped = undecided(reference, form.attributes()) | (open_ & (want < 1e-6))  # float16 has nothing below 6e-8
        cells, near = cells + want.numel(), near + int(skipped.sum())
        least = torch.finfo(form.dtype)  # among the smallest numbers of a type, spacing does not shrink with the number
        off = TOLERANCE[form.dtype] * want.abs() + GATE_TOLERANCE * reference.magnitude + least.tiny * least.eps
        for config in bench.configs(prepare(inputs, form.attributes(), layout=form.layout)):
            calls += 1
            call, differs = bench.twice(form, inputs, config)
            got = call.output[:, :1, :: form.grid, :: form.grid].double()
            flipped = ((got > 0) != open_) & ~skipped
            wrong = open_ & ~((got - want).abs() <= off) & ~skipped
            if differs or bool(flipped.any()) or bool(wrong.any()):
                said = differs or f"{int(flipped.sum())} gates flipped, {int(wrong.sum())} have another value"
                faults.append(f"{config.name}: {said}: {form}")
    if near > 0.01 * cells + 2:
        faults.append(f"{near} of {cells} gates were too near to the threshold for a check")
    words = f"{forms} forms, {calls} calls, {cells} gates decided as in float64; {near} too near to the threshold to say"
    whole = forms == count and (calls > 0 or first > 0)
    return result(faults, whole, words, forms=forms, calls=calls, cells=cells, near=near)


# ---- CUDA graphs and streams ---------------------------------------------------------------------


def _copy_into(inputs: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, tensor in inputs.items():
        tensor.copy_(values[name])


def _static(form: Form, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the inputs that the kernels take as they are.

    A replay reads what is later copied into them.
    """
    last = torch.channels_last
    return {
        name: t.clone(memory_format=last) if name in ("X", "residual") and form.layout == Layout.NHWC else t.clone()
        for name, t in inputs.items()
    }


GRAPH_FORMS = (
    Form(n=2, c=64, k=64, hw=(28, 28), gate="external", residual="own", post_alpha=0.0),
    Form(n=2, c=64, k=128, hw=(28, 28), gate="1x1"),
    Form(n=2, c=64, k=64, hw=(28, 28), gate="external", grid=4),
    Form(n=1, c=64, k=64, hw=(28, 28), gate="grid", grid=8, dtype=torch.bfloat16),
    Form(n=1, c=16, k=24, hw=(14, 14), gate="kxk", dtype=torch.float32, layout=Layout.NCHW),
)


def graph(bench: Bench, deadline: float) -> dict[str, Any]:
    """Replay a graph on other inputs, whose active cells go from none to all and back."""
    faults = Faults(bench)
    replays = captured = 0
    complete = True
    for form in GRAPH_FORMS:
        first = form.inputs(bench.place)
        for config in bench.configs(prepare(first, form.attributes(), layout=form.layout)):
            if time.monotonic() > deadline:
                complete = False
                break
            captured += 1
            said, count = _replay(bench, form, config)
            replays += count
            faults += said
    words = f"{captured} graphs captured, {replays} replays equal to calls without a graph"
    return result(faults, complete, words, graphs=captured, replays=replays)


def _replay(bench: Bench, form: Form, config: Config) -> tuple[list[str], int]:
    attributes = form.attributes()
    inputs = _static(form, form.inputs(bench.place))
    call = prepare(inputs, attributes, layout=form.layout)
    moved = [name for name, t in call.inputs.items() if t.data_ptr() != inputs[name].data_ptr()]
    if moved:
        return [f"{config.name}: {', '.join(moved)} had to be copied, so a replay would not read them: {form}"], 0
    workspace = bench.own_workspace(call, config)
    with bench.item(config.name, form):
        launch(bench.library, bench.device, call, config.id, workspace)  # loads the kernels before the capture
        bench.wait()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            launch(bench.library, bench.device, call, config.id, workspace)
    faults = []
    fills = ("all off", "random", "all on", "all off", "one cell", "all on", "random")
    for number, fill in enumerate(fills):
        filled = replace(form, fill=fill, seed=number)
        values = filled.inputs(bench.place)
        _copy_into(inputs, values)
        workspace.fill_(0xFF)
        call.memory.view(torch.uint8).fill_(0xFF)
        with bench.item(config.name, filled):
            captured.replay()
            bench.wait()
        other, _ = bench.twice(filled, values, config)
        reference = reference64(values, attributes)
        what = fault(filled, reference, call)
        if not what and not torch.equal(call.memory.view(torch.uint8), other.memory.view(torch.uint8)):
            what = "the replay differs from a call without a graph"
        if what:
            faults.append(f"{config.name}: replay {number} ({fill}): {what}: {form}")
    return faults, len(fills)


STREAM_FORMS = (
    Form(n=4, c=64, k=64, hw=(56, 56), gate="1x1", seed=1),
    Form(n=4, c=128, k=128, hw=(28, 28), gate="external", grid=4, seed=2),
)


def streams(bench: Bench, deadline: float, rounds: int = 30, first: int = 0) -> dict[str, Any]:
    """Run two calls on two streams at once, over and over: the same bytes as alone.

    Each call has its own workspace.
    """
    faults = Faults(bench)
    cuda: Any = torch.cuda
    lanes = [cuda.Stream(bench.place), cuda.Stream(bench.place)]
    inputs = [form.inputs(bench.place) for form in STREAM_FORMS]
    lists = [bench.configs(prepare(i, f.attributes())) for f, i in zip(STREAM_FORMS, inputs, strict=True)]
    pairs = [(lists[0][i % len(lists[0])], lists[1][i % len(lists[1])]) for i in range(max(map(len, lists)))]
    done = first
    for number, pair in enumerate(pairs):
        if number < first:
            continue
        bench.resume = number + 1
        if time.monotonic() > deadline:
            break
        alone = [bench.twice(f, i, c)[0].memory.clone() for f, i, c in zip(STREAM_FORMS, inputs, pair, strict=True)]
        calls = [[prepare(i, f.attributes()) for _ in range(rounds)] for f, i in zip(STREAM_FORMS, inputs, strict=True)]
        spaces = [bench.own_workspace(group[0], config) for group, config in zip(calls, pair, strict=True)]
        bench.wait()
        with bench.item("", STREAM_FORMS[0]):  # which of the two it was would not be known
            for turn in range(rounds):
                for lane in (0, 1):
                    with torch.cuda.stream(lanes[lane]):
                        launch(bench.library, bench.device, calls[lane][turn], pair[lane].id, spaces[lane])
            bench.wait()
        for lane in (0, 1):
            others = sum(not torch.equal(call.memory, alone[lane]) for call in calls[lane])
            if others:
                faults.append(f"{pair[lane].name}: {others} of {rounds} calls beside another stream gave other bytes")
        done += 1
    words = f"{done} pairs of configurations, {rounds} calls on each of two streams"
    return result(faults, done == len(pairs), words, pairs=done, rounds=rounds)
