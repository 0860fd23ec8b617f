"""What the CPU kernels touch: never a byte beside their memory, never one that another thread writes."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from support.builds.cpu import Host
from support.cases.op_cases import Case
from support.cases.random_layers import large_layers, named_layers, random_layers
from support.hosts.cpu import (
    Fault,
    Layer,
    Placement,
    Run,
    Slot,
    Work,
    check_all,
    in_order,
    isas_of,
    run,
    running_isas,
    start,
)

GUARDS = (Placement.ENDS_AT_GUARD, Placement.STARTS_AT_GUARD)
TENSORS = tuple(slot for slot in Slot if slot not in (Slot.WEIGHT, Slot.PACKED, Slot.WORKSPACE, Slot.ACTIVE))
"""Of a call of lccl_cpu_run, without those whose size the kernels choose themselves."""


def few_large(*names: str) -> list[int]:
    """Places of some larger layers."""
    layers, _ = large_layers()
    return [number for number, layer in enumerate(layers) if layer.name.startswith(names)]


def every_tensor(**sizes: object) -> Layer:
    """A layer that reads all the tensors there are, each to its end."""
    case = Case(
        "every-tensor", "reads everything", n=2, c=5, k=7, hw=(6, 7), gate="both", fill="all-on", post=True, residual=True
    )
    return Layer.of(dataclasses.replace(case, **sizes))  # type: ignore[arg-type]


# ---- guard pages ---------------------------------------------------------------------------------------------------------


def guarded(host: Host, folder: Path, isas: list[int]) -> None:
    layers, wants = named_layers()
    more, more_wants = random_layers(100, 400)
    runs = [Run(isa, threads=threads, placement=p) for isa in isas for p in GUARDS for threads in (1, 2)]
    layers, wants = layers + more, wants + more_wants
    check_all(host, [(in_order(layer, number), runs) for number, layer in enumerate(layers)], wants, folder)


def test_nothing_is_touched_beside_a_tensor(cpu_host: Host, tmp_path: Path) -> None:
    """Every tensor, the packed weights and the workspace end at a page that nobody may touch, then begin behind one. The inputs
    may not be written to."""
    guarded(cpu_host, tmp_path, running_isas(cpu_host))


def test_nothing_is_touched_beside_a_tensor_with_emulated_wide_vectors(wide_host: Host, tmp_path: Path) -> None:
    guarded(wide_host, tmp_path, [isa.id for isa in isas_of(wide_host) if isa.name == "avx512" and isa.runs])


def test_larger_layers_keep_to_their_tensors(cpu_host: Host, tmp_path: Path) -> None:
    layers, wants = large_layers()
    chosen = few_large("bands-0.3", "tall", "flat", "small-images", "deep-batch", "stem", "grid", "own")
    runs = [Run(isa, threads=2, placement=p) for isa in running_isas(cpu_host) for p in GUARDS]
    for order in (0, 3):
        check_all(cpu_host, [(in_order(layers[i], order), runs) for i in chosen], [wants[i] for i in chosen], tmp_path)


@pytest.mark.parametrize("placement", GUARDS, ids=lambda p: p.name.lower())
@pytest.mark.parametrize("slot", TENSORS, ids=lambda s: s.name.lower())
def test_guard_pages_see_a_tensor_that_is_a_float_too_short(
    cpu_host: Host, tmp_path: Path, slot: Slot, placement: Placement
) -> None:
    """On every instruction set, whose last read or write of the tensor is another."""
    for isa in running_isas(cpu_host):
        one = Run(isa, placement=placement, fault=Fault.SHORT, slot=slot)
        done = start(cpu_host, [(every_tensor(), [one])], tmp_path)
        assert (done.returncode, done.stderr.startswith(("signal 11 in every-tensor", "signal 07 in every-tensor"))) == (
            3,
            True,
        )


# ---- sanitizers ----------------------------------------------------------------------------------------------------------


def sanitized(host: Host, folder: Path, seed: int, count: int, runs: list[Run], *names: str) -> None:
    """Named, random and some larger layers."""
    layers, wants = named_layers()
    more, more_wants = random_layers(seed, count)
    large, large_wants = large_layers()
    chosen = few_large(*names)
    layers = [*layers, *more, *(large[i] for i in chosen)]
    wants = [*wants, *more_wants, *(large_wants[i] for i in chosen)]
    check_all(host, [(in_order(layer, number), runs) for number, layer in enumerate(layers)], wants, folder)


def test_under_address_and_undefined_behaviour_sanitizers(asan_host: Host, tmp_path: Path) -> None:
    runs = [Run(isa, threads=threads) for isa in running_isas(asan_host) for threads in (1, 2)]
    sanitized(asan_host, tmp_path, 200, 300, runs, "small-images-0.5", "tall-0.05", "grid-0.1", "own-small")


@pytest.mark.parametrize("slot", [*TENSORS, Slot.WEIGHT, Slot.PACKED, Slot.WORKSPACE], ids=lambda s: s.name.lower())
def test_address_sanitizer_sees_a_tensor_that_is_a_float_too_short(asan_host: Host, tmp_path: Path, slot: Slot) -> None:
    """Packed weights and workspace may be rounded up: of these, the instruction set whose last float is used counts."""
    layer = every_tensor(c=64, k=64)
    outcomes = [
        start(asan_host, [(layer, [Run(isa, fault=Fault.SHORT, slot=slot)])], tmp_path) for isa in running_isas(asan_host)
    ]
    seen = ["ERROR: AddressSanitizer" in done.stderr and "every-tensor, isa" in done.stderr for done in outcomes]
    assert any(seen) if slot in (Slot.PACKED, Slot.WORKSPACE) else all(seen), outcomes[seen.index(False)].stderr


def test_under_thread_sanitizer(tsan_host: Host, tmp_path: Path) -> None:
    """Tasks of a call among each other, and calls at the same time."""
    runs = [
        one for isa in running_isas(tsan_host) for one in (Run(isa, threads=4), Run(isa, threads=2, callers=2, density=0.3))
    ]
    sanitized(tsan_host, tmp_path, 300, 100, runs, "small-images", "tall", "grid-0.1", "own", "deep-batch", "bands-batch-0.1")


def test_thread_sanitizer_sees_two_threads_at_the_same_task(tsan_host: Host, tmp_path: Path) -> None:
    layers, _ = large_layers()
    (layer,) = (layer for layer in layers if layer.name == "bands-0.3")
    for isa in running_isas(tsan_host):
        done = start(tsan_host, [(layer, [Run(isa, threads=4, fault=Fault.TWICE)])], tmp_path)
        assert_raced(done, layer.name)


def assert_raced(done: subprocess.CompletedProcess[str], name: str) -> None:
    """ThreadSanitizer found the kernels' own code racing."""
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
    assert "ort_op/kernel" in done.stderr, done.stderr[-3000:]
    assert done.stderr.rstrip().splitlines()[-1].startswith(name), done.stderr[-3000:]


# ---- the workspace -------------------------------------------------------------------------------------------------------


def test_workspaces_are_of_a_sensible_size(cpu_host: Host, tmp_path: Path) -> None:
    """At most a few copies of x and y in a layer of 64 channels; not a copy of every pixel's nine neighbours."""
    layers, _ = large_layers()
    (layer,) = (layer for layer in layers if layer.name == "bands-1.0")
    work: Work = [(layer, [Run(isa, threads=t) for isa in running_isas(cpu_host) for t in (1, 4)])]
    tensors = 4 * (layer.inputs["X"].size + 64 * 40 * 56)
    for answer in run(cpu_host, work, tmp_path)[0]:
        assert 0 < answer.workspace_bytes < 4 * tensors
