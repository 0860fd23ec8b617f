"""Faults put into the kernels' source: the cases that hold the kernels find each."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="pip install triton")


from lccl.backends.torch.triton import kernels, launch
from lccl.backends.torch.triton.launch import memory_of, run
from support.cases.box_cases import BOXES, FORMS
from support.cases.op_cases import CASES, Case
from support.hosts.triton import HOPPER, TOLERANCES, error_of, reference, tensors

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_triton")]
NAMED = {case.name: case for case in (*CASES, *BOXES, *FORMS)}


@dataclass(frozen=True)
class Mutation:
    """A fault: what stands in the source, and what stands there instead."""

    name: str
    old: str
    new: str
    case: str
    configuration: str = "rows_64x32"
    in_place: bool = False


MUTATIONS = (
    Mutation("rows-tap-shifted", "right = (tap % S) * dw", "right = (tap % S + 1) * dw", "plain"),
    Mutation("rows-tap-transposed", "down = (tap // S) * dh", "down = (tap % S) * dh", "kernel-5x3"),
    Mutation("rows-mask-forgotten", " & (w0 + right < W)", "", "plain"),
    Mutation("rows-clip-left-out", " & (wo < Wo)", "", "grid-4"),
    Mutation("rows-closed-stored", " & (g > 0)", "", "all-on-but-one", in_place=True),
    Mutation(
        "boxes-tap-shifted", "s = (tap % S) * dw - pw", "s = (tap % S) * dw - pw + 1", "boxes-last-alone", "boxes_2x64x64"
    ),
    Mutation("boxes-second-index", "tl.where(has_second, box0 + 1, box0)", "box0", "boxes", "boxes_2x64x64"),
    Mutation(
        "boxes-spare-stored",
        "if has_second & (g1 > 0):",
        "if g1 > 0:",
        "boxes-one",
        "boxes_2x64x64",
        True,
    ),
    Mutation("boxes-second-taps", "a1 = x.load([n1, h1 + r", "a1 = x.load([n1, h0 + r", "all-on-8", "boxes_2x64x64"),
    Mutation("boxes-quarter", "box1 % per_cell // per_side * SIDE", "0", "boxes-16", "boxes_2x64x64"),
    Mutation("part-of-columns", "k = first + tl.arange(0, EN)", "k = k0 + tl.arange(0, EN)", "boxes-16", "boxes_2x64x256"),
    Mutation("dense-by-list", "cell1 = tl.where(is_dense, at1, cell1)", "", "all-on-but-one-8", "boxes_2x64x64"),
    Mutation("threshold", "tl.where(simulated >= 0, 0.0, threshold)", "0.0", "threshold"),
    Mutation("closed-not-written", "other=1.0) <= 0)", "other=1.0) < 0)", "residual"),
    Mutation("padding-not-written", "(k < y_channels)[None, :]", "(k < K)[None, :]", "plain"),
    Mutation("residual-twice", "out += tl.where((k < K)[None, :], added, 0.0)", "out += added + added", "residual"),
    Mutation("affine-forgotten", "v * by[None, :] + plus[None, :]", "v + plus[None, :]", "released"),
)
NAMED["all-on-but-one"] = Case(
    "all-on-but-one", "dense, with one closed pixel", k=8, gate="external", fill="all-on", residual=True, post=True
)
NAMED["all-on-but-one-8"] = replace(
    NAMED["all-on-but-one"], name="all-on-but-one-8", grid=8, hw=(16, 32), kernel=(1, 1), pads=(0,) * 4
)


def is_right(case: Case, configuration: str, in_place: bool) -> bool:
    """Run a case in memory with room around it, which a faulty kernel may touch."""
    inputs = tensors(case, torch.float16)
    if "but-one" in case.name:
        inputs["gate"][0, 0, 0, 1] = 0
    want = reference(case, inputs)
    n, k, ho, wo = want.shape
    kp = -(-k // 8) * 8
    size = n * ho * wo * kp
    room = torch.full((size + 2 * 4096,), torch.nan, dtype=torch.float16)
    y = room[4096 : 4096 + size].view(n, ho, wo, kp)
    if in_place:
        y.copy_(memory_of(inputs["residual"]))
        inputs["residual"] = y[..., :k].permute(0, 3, 1, 2)
    got = run(inputs, case.attributes, capability=HOPPER, configuration=configuration, into=y)
    return error_of(got, want) <= TOLERANCES[torch.float16] and not y[..., k:].any()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutations_are_found(mutation: Mutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = NAMED[mutation.case]
    source = Path(kernels.__file__).read_text()
    assert mutation.old in source
    name = f"faulty_{mutation.name.replace('-', '_')}"
    path = tmp_path / f"{name}.py"
    path.write_text(source.replace(mutation.old, mutation.new))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    faulty = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, faulty)
    spec.loader.exec_module(faulty)
    monkeypatch.setattr(launch, "kernels", faulty)
    assert not is_right(case, mutation.configuration, mutation.in_place)


@pytest.mark.parametrize(
    "mutation", {(m.case, m.configuration, m.in_place): m for m in MUTATIONS}.values(), ids=lambda m: m.case
)
def test_without_a_fault_they_are_right(mutation: Mutation) -> None:
    assert is_right(NAMED[mutation.case], mutation.configuration, mutation.in_place)
