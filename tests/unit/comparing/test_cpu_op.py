"""The rows of the CPU op: where its library is here, where it is not, and what its speed-up is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lccl
import lccl.backends.onnxruntime.runner
import lccl.ort
from conftest import Outcome
from lccl.backends.onnxruntime.library import LibraryCheck
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.comparing import Comparison, Environment, Latency, LatencyPlan, Limits, Row
from lccl.comparing.references import with_speedup

COMPARE = "lccl.cli.compare"
Invoke = Callable[..., Outcome]


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lccl.backends.onnxruntime.library.check_library", lambda: LibraryCheck(None, "there is no library"))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The library is here as far as the comparison can see; what ONNX Runtime would have been given."""
    seen: list[str] = []
    monkeypatch.setattr("lccl.backends.onnxruntime.library.check_library", lambda: LibraryCheck(Path("lib.so")))
    monkeypatch.setattr(
        lccl.backends.onnxruntime.runner, "register_library", lambda options, library: seen.append(str(library))
    )
    return seen


def test_both_ways_of_onnx_runtime(exported: Path, samples: Path, registered: list[str]) -> None:
    result = lccl.compare(exported, samples, latency=None)
    assert [(r.network, r.runner, r.skipped) for r in result.rows] == [
        ("small.onnx", "onnxruntime", None),
        ("small.onnx", "onnxruntime-lccl", None),
        ("dense twin of small.onnx", "onnxruntime", None),
    ]
    function, skipping, _ = result.rows
    assert skipping.reference == function.label
    assert (skipping.agreement, skipping.max_error) == (1, 0)
    assert registered == ["lib.so"] * 2, "of the skipping row only: tried, then run"


def test_a_wrong_op_shows(exported: Path, samples: Path, registered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The skipping row is held against the function's, and a limit on agreement is on it too."""
    infer = OnnxRuntimeRunner.infer

    def wrong(self: OnnxRuntimeRunner, feed: Any) -> Any:
        outputs = infer(self, feed)
        return {k: -v for k, v in outputs.items()} if self.name == "onnxruntime-lccl" else outputs

    monkeypatch.setattr(OnnxRuntimeRunner, "infer", wrong)
    result = lccl.compare(exported, samples, latency=None, limits=Limits(min_agreement=0.9))
    assert result.rows[1].max_error > 0.1
    assert not result


def test_where_it_is_not_here(exported: Path, checkpoint: Path, samples: Path, absent: None) -> None:
    """The network runs without it, so its limits can be held."""
    result = lccl.compare([checkpoint, exported], samples, latency=None, limits=Limits(min_agreement=1))
    assert result
    assert result.rows[2].skipped == "there is no library"
    assert "Not run: small.onnx (onnxruntime-lccl): there is no library." in str(result)


def test_a_speedup_that_cannot_be_measured_is_no_pass(invoke: Invoke, exported: Path, samples: Path, absent: None) -> None:
    limit = ("--min-speedup", "0.0001", "--min-speedup-runner", "onnxruntime-lccl", "--allow-skipped")
    outcome = invoke(COMPARE, exported, "--data", samples, *limit)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "error: onnxruntime-lccl does not run here: there is no library\n"


def test_the_speedup_of_the_skipping_runner(invoke: Invoke, exported: Path, samples: Path, registered: list[str]) -> None:
    for least, code in (("0.0001", 0), ("1000", 2)):
        limit = ("--runs", "12", "--min-speedup", least, "--min-speedup-runner", "onnxruntime-lccl")
        outcome = invoke(COMPARE, exported, "--data", samples, *limit)
        assert outcome.code == code
        assert "min-speedup (onnxruntime-lccl)" in outcome.out


def test_each_session_is_measured_alike(exported: Path, samples: Path, registered: list[str]) -> None:
    result = lccl.compare(exported, samples, latency=LatencyPlan(warmup=1, runs=12))
    assert [r.latency.runs for r in result.rows if r.latency] == [12, 12, 12]
    twin = result.rows[2].latency
    assert twin is not None
    for row in result.rows[:2]:
        assert row.latency is not None
        assert row.speedup == twin.median_ms / row.latency.median_ms
        assert row.speedup_over == "dense twin of small.onnx (onnxruntime)"


def test_a_speedup_is_over_the_dense_network_in_onnx_runtime() -> None:
    def row(network: str, role: Any, runner: str, milliseconds: float) -> Row:
        return Row(network, role, runner, "CPU", latency=Latency(milliseconds, milliseconds, 10))

    rows = (
        row("gated.pt", "lccl", "torch", 8),
        row("gated.onnx", "lccl", "onnxruntime", 4),
        row("gated.onnx", "lccl", "onnxruntime-lccl", 1),
        row("dense.pt", "baseline", "torch", 6),
        row("dense.pt", "baseline", "onnxruntime", 2),
    )
    found = tuple(with_speedup(r, rows) for r in rows)
    assert [r.speedup for r in found] == [0.75, 0.5, 2, None, None]
    assert found[2].speedup_over == found[1].speedup_over == "dense.pt (onnxruntime)"
    assert with_speedup(replace(rows[2], device="another"), rows).speedup is None
    assert (
        "\nSpeed-up: over dense.pt, in the same runtime.\n" in f"{Comparison(found, None, (), Environment(1, 1, 1, 'a CPU'))}\n"
    )


def test_the_decomposed_file_has_nothing_to_skip(exported: Path, registered: list[str]) -> None:
    x = np.zeros((2, 1, 16, 16), np.float32)
    result = lccl.compare(exported.with_suffix(".decomposed.onnx"), x, latency=None)
    assert [r.runner for r in result.rows] == ["onnxruntime"]
    assert registered == []
