"""What the CPU kernels refuse, with which status and which words; nothing is computed then."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.builds.cpu import Host
from support.cases.op_cases import Case
from support.hosts.cpu import ABI, Fault, Layer, Run, Slot, Status, isas_of, run, running_isas

EVERYTHING = Case("everything", "all tensors", n=2, gate="both", post=True, residual=True)
HUGE = 2**31 - 1


@dataclass(frozen=True)
class Refusal:
    """Params that no instruction set may run."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)


REFUSALS = (
    Refusal("abi-old", {"abi": 0}),
    Refusal("abi-new", {"abi": ABI + 1}),
    Refusal("batch-negative", {"n": -1}),
    *(Refusal(f"{name}-{value}", {name: value}) for name in ("c", "h", "w", "k", "r", "s", "gate_r", "gate_s", "grid") for value in (0, -1)),
    Refusal("kernel-8-rows", {"r": 8, "pads": (9, 9, 9, 9)}),
    Refusal("kernel-8-columns", {"s": 8, "pads": (9, 9, 9, 9)}),
    *(Refusal(f"{name}-0", {name: (1, 0)}) for name in ("strides", "dilations", "gate_strides", "gate_dilations")),
    *(Refusal(f"{name}-negative", {name: (-1, 1)}) for name in ("strides", "dilations", "gate_strides", "gate_dilations")),
    *(Refusal(f"{name}-{i}-negative", {name: tuple(-1 if i == j else 1 for j in range(4))}) for name in ("pads", "gate_pads") for i in range(4)),
    Refusal("map-smaller-than-the-kernel", {"h": 3, "r": 7, "pads": (1, 1, 1, 1)}),
    Refusal("dilation-beyond-the-map", {"dilations": (1, HUGE)}),
    Refusal("gate-map-too-small", {"gate_pads": (0, 0, 0, 0), "gate_r": 3, "gate_s": 3}),
    Refusal("gate-map-too-large", {"gate_pads": (1, 0, 0, 0)}),
    Refusal("gate-strides-do-not-fit", {"gate_strides": (2, 1)}),
    Refusal("grid-without-its-strides", {"grid": 2}),
    Refusal("post-scale-of-another-size", {"post_scale_size": 5}),
    Refusal("post-bias-of-another-size", {"post_bias_size": 2}),
    Refusal("post-scale-negative", {"post_scale_size": -1}),
    Refusal("x-order-2", {"x_channels_last": 2}),
    Refusal("y-order-negative", {"y_channels_last": -1}),
    Refusal("threads-0", {"threads": 0}),
    Refusal("threads-negative", {"threads": -2}),
    Refusal("pads-beyond-32-bits", {"pads": (HUGE, 1, HUGE, 1)}),
    Refusal("output-beyond-addresses", {"h": HUGE, "w": HUGE, "n": HUGE, "k": HUGE}),
    Refusal("weights-beyond-addresses", {"c": HUGE, "k": HUGE, "r": 7, "s": 7, "pads": (3, 3, 3, 3)}),
)  # fmt: skip


def test_bad_params(cpu_host: Host, tmp_path: Path) -> None:
    check_refusals(cpu_host, tmp_path)


def test_bad_params_under_sanitizers(asan_host: Host, tmp_path: Path) -> None:
    """No number is so large that a size overflows before it is refused."""
    check_refusals(asan_host, tmp_path)


def check_refusals(host: Host, folder: Path) -> None:
    """They are refused with a sentence; no workspace is asked for, nothing is written."""
    good = Layer.of(EVERYTHING)
    layers = [dataclasses.replace(good, name=refusal.name, changes=refusal.changes) for refusal in REFUSALS]
    # Not by `threads`: the host would say how many threads there are.
    runs = [Run(isa.id, threads=0) for isa in isas_of(host)]
    wrong = []
    for layer, answers in zip(layers, run(host, [(layer, runs) for layer in layers], folder), strict=True):
        for one, answer in zip(runs, answers, strict=True):
            fine = not answer.supported and answer.status == Status.NOT_SUPPORTED and answer.workspace_bytes == 0
            if not (fine and answer.untouched and len(answer.reason.split()) > 3):
                wrong.append(f"{layer.name} on isa {one.isa}: {dataclasses.replace(answer, y=answer.y[:1])}")
    assert not wrong, "\n".join(wrong)


def test_every_bad_param_has_words_of_its_own(cpu_host: Host, tmp_path: Path) -> None:
    """The reason is about what is wrong, so two wrong things do not have the same one."""
    good = Layer.of(EVERYTHING)
    names = ("abi-old", "kernel-8-rows", "gate-strides-do-not-fit", "post-scale-of-another-size", "threads-0", "grid-0")
    by_name = {refusal.name: refusal for refusal in REFUSALS}
    layers = [dataclasses.replace(good, name=name, changes=by_name[name].changes) for name in names]
    isa = running_isas(cpu_host)[0]
    answers = run(cpu_host, [(layer, [Run(isa, threads=0)]) for layer in layers], tmp_path)
    reasons = [answer.reason for (answer,) in answers]
    assert len(set(reasons)) == len(names), reasons


def test_the_params_are_good_otherwise(cpu_host: Host, tmp_path: Path) -> None:
    isas = running_isas(cpu_host)
    (answers,) = run(cpu_host, [(Layer.of(EVERYTHING), [Run(isa, threads=0) for isa in isas])], tmp_path)
    assert all(answer.supported and answer.status == Status.OK and not answer.untouched for answer in answers)


UNREAD = (-1, 0, 10**6, HUGE)


def test_the_sizes_of_a_gate_that_is_not_there_are_not_read(cpu_host: Host, asan_host: Host, tmp_path: Path) -> None:
    """Without gate_weight they are of nothing: they change neither the result nor the workspace."""
    layer = Layer.of(Case("external", "no gate of its own", gate="external"))
    changed = [
        dataclasses.replace(layer, name=f"{name}-{value}", changes={name: (value, value) if name == "gate_strides" else value})
        for name in ("gate_r", "gate_s", "gate_strides")
        for value in UNREAD
    ]
    for host in (cpu_host, asan_host):
        isa = running_isas(host)[0]
        (good,), *others = run(host, [(one, [Run(isa, threads=1)]) for one in (layer, *changed)], tmp_path)
        assert good.status == Status.OK
        for (answer,) in others:
            assert (answer.supported, answer.status, answer.workspace_bytes) == (True, Status.OK, good.workspace_bytes)
            assert answer.y.tobytes() == good.y.tobytes()


def test_a_form_is_judged_before_its_size_is_known(cpu_host: Host, tmp_path: Path) -> None:
    """With h and w 0: what is wrong at any size is refused, the rest is not; nothing runs either way."""
    good = Layer.of(EVERYTHING)
    forms = {"good": {}, "kernel": {"r": 9}, "strides": {"strides": (0, 1)}, "gate": {"gate_r": 0}, "abi": {"abi": 0}}
    layers = [dataclasses.replace(good, name=name, changes={**changes, "h": 0, "w": 0}) for name, changes in forms.items()]
    isa = running_isas(cpu_host)[0]
    answers = [answer for (answer,) in run(cpu_host, [(layer, [Run(isa, threads=1)]) for layer in layers], tmp_path)]
    assert [answer.supported for answer in answers] == [name == "good" for name in forms]
    assert all(answer.status == Status.NOT_SUPPORTED and answer.workspace_bytes == 0 and answer.untouched for answer in answers)


@pytest.mark.parametrize("isa", [0, -1, 5, 99])
def test_instruction_sets_that_are_not_there(cpu_host: Host, tmp_path: Path, isa: int) -> None:
    ((answer,),) = run(cpu_host, [(Layer.of(EVERYTHING), [Run(isa)])], tmp_path)
    assert (answer.supported, answer.status, answer.workspace_bytes) == (False, Status.NOT_SUPPORTED, 0)
    assert answer.untouched
    assert answer.reason


def test_instruction_sets_that_this_machine_does_not_run(cpu_host: Host, tmp_path: Path) -> None:
    """They are refused, not tried."""
    strangers = [isa.id for isa in isas_of(cpu_host) if not isa.runs]
    if not strangers:
        pytest.skip("this machine runs every isa")
    (answers,) = run(cpu_host, [(Layer.of(EVERYTHING), [Run(isa) for isa in strangers])], tmp_path)
    for answer in answers:
        assert (answer.supported, answer.status) == (False, Status.NOT_SUPPORTED)
        assert answer.untouched
        assert answer.reason


NEEDED = (Slot.X, Slot.BIAS, Slot.PACKED, Slot.WORKSPACE, Slot.Y)
DECLARED = {
    Slot.GATE_WEIGHT: "has_gate_weight",
    Slot.GATE: "has_gate",
    Slot.POST_SCALE: "post_scale_size",
    Slot.POST_BIAS: "post_bias_size",
    Slot.RESIDUAL: "has_residual",
}
"""Tensors that a call has or has not, and the field that says it."""


def test_null_pointers(cpu_host: Host, tmp_path: Path) -> None:
    """Where data is needed."""
    runs = [Run(isa, fault=Fault.NULL, slot=slot) for isa in running_isas(cpu_host) for slot in NEEDED]
    (answers,) = run(cpu_host, [(Layer.of(EVERYTHING), runs)], tmp_path)
    assert {(one.slot, answer.status) for one, answer in zip(runs, answers, strict=True)} == {
        (slot, Status.INVALID_POINTER) for slot in NEEDED
    }
    assert all(answer.untouched for answer in answers)


def test_pointers_that_may_be_null(cpu_host: Host, tmp_path: Path) -> None:
    """Without gate_bias it is 1, which is another result; the count of active pixels is told to who wants it."""
    for isa in running_isas(cpu_host):
        runs = [Run(isa), *(Run(isa, fault=Fault.NULL, slot=slot) for slot in (Slot.GATE_BIAS, Slot.ACTIVE))]
        (answers,) = run(cpu_host, [(Layer.of(EVERYTHING), runs)], tmp_path)
        assert [answer.status for answer in answers] == [Status.OK] * len(runs)
        whole, without_bias, without_count = answers
        assert whole.y.tobytes() == without_count.y.tobytes() != without_bias.y.tobytes()


def test_tensors_that_are_declared_but_missing(cpu_host: Host, tmp_path: Path) -> None:
    runs = [Run(isa, fault=Fault.NULL, slot=slot) for isa in running_isas(cpu_host) for slot in DECLARED]
    (answers,) = run(cpu_host, [(Layer.of(EVERYTHING), runs)], tmp_path)
    assert {answer.status for answer in answers} == {Status.INVALID_POINTER}
    assert all(answer.supported and answer.untouched for answer in answers)


def test_tensors_that_are_given_but_not_declared(cpu_host: Host, tmp_path: Path) -> None:
    """They are refused, not ignored; left out as well, the call runs, and each tensor counts: the result is another one."""
    good = Layer.of(EVERYTHING)
    layers = [dataclasses.replace(good, name=name, changes={name: 0}) for name in DECLARED.values()]
    for isa in running_isas(cpu_host):
        runs = [
            (layer, [Run(isa), Run(isa, fault=Fault.NULL, slot=slot)]) for layer, slot in zip(layers, DECLARED, strict=True)
        ]
        ((whole,), *answers) = run(cpu_host, [(good, [Run(isa)]), *runs], tmp_path)
        assert {(given.status, given.untouched, missing.status) for given, missing in answers} == {
            (Status.INVALID_POINTER, True, Status.OK)
        }
        assert len({answer.y.tobytes() for answer in (whole, *(missing for _, missing in answers))}) == 1 + len(DECLARED)


def test_workspace_and_packed_weights_must_be_aligned_and_long_enough(cpu_host: Host, tmp_path: Path) -> None:
    expectations = (
        (Fault.MISALIGNED, Slot.WORKSPACE, Status.INVALID_POINTER),
        (Fault.MISALIGNED, Slot.PACKED, Status.INVALID_POINTER),
        (Fault.SHORT_WORKSPACE, Slot.WORKSPACE, Status.SHORT_WORKSPACE),
    )
    for isa in running_isas(cpu_host):
        runs = [Run(isa, threads=threads, fault=fault, slot=slot) for fault, slot, _ in expectations for threads in (1, 2)]
        (answers,) = run(cpu_host, [(Layer.of(EVERYTHING), runs)], tmp_path)
        assert [answer.status for answer in answers] == [status for *_, status in expectations for _ in (1, 2)]
        assert all(answer.untouched for answer in answers)
