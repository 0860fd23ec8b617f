"""What the package does with the CPU op's own library. The op itself is tested in tests/ort."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnxruntime
import pytest

import lccl
import lccl.ort
from lccl.backends.onnxruntime.library import ENVIRONMENT
from lccl.comparing import Limits
from lccl.files import sha256
from lccl.graph.variants.stripped import stripped
from lccl.op.onnx_op import is_lccl_node
from lccl.ort.__main__ import command as report_command
from support.cases.op_cases import CASES
from support.graphs.models import case_model

ISAS = ("avx512", "avx2", "neon", "portable")


@pytest.fixture(autouse=True)
def library(ort_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT, str(ort_library))
    return ort_library


def test_the_op_runs_where_there_is_no_function() -> None:
    """So it is the library that computes."""
    model, feed = case_model(CASES[0], function=False)
    whole, _ = case_model(CASES[0])
    expected = onnxruntime.InferenceSession(whole.SerializeToString()).run(None, feed)[0]
    np.testing.assert_allclose(lccl.ort.session(model).run(None, feed)[0], expected, rtol=1e-4, atol=1e-5)


def test_one_file_with_the_library_and_without(exported: Path, samples: Path) -> None:
    before = sha256(exported)
    with np.load(samples) as content:
        x = content["x"]
    plain = onnxruntime.InferenceSession(str(exported))
    feed = {plain.get_inputs()[0].name: x}
    without = plain.run(None, feed)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for threads in (1, 2):
            (outputs,) = lccl.ort.session(exported, threads=threads).run(None, feed)
            np.testing.assert_allclose(outputs, without, rtol=1e-4, atol=1e-5)
    nodes = stripped(onnx.load(exported))
    np.testing.assert_allclose(lccl.ort.session(nodes).run(None, feed)[0], without, rtol=1e-4, atol=1e-5)
    assert sha256(exported) == before


@pytest.mark.parametrize("prefix", ["", "net_", "other/"])
def test_the_library_computes_whatever_the_function_is_called(exported: Path, tmp_path: Path, prefix: str) -> None:
    model = onnx.compose.add_prefix(onnx.load(exported), prefix) if prefix else onnx.load(exported)
    onnx.save(model, tmp_path / "m.onnx")
    for given in (tmp_path / "m.onnx", (tmp_path / "m.onnx").read_bytes(), model):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "opened.onnx")
        lccl.ort.session(given, options=options)
        opened = onnx.load(tmp_path / "opened.onnx")
        assert sum(map(is_lccl_node, opened.graph.node)) == 6, "a function would have been inlined"


def test_options_are_the_callers(exported: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = lccl.ort.session(exported, options=options, threads=2)
    assert session.get_session_options().intra_op_num_threads == 2


def test_it_is_compared(checkpoint: Path, exported: Path, samples: Path) -> None:
    result = lccl.compare([checkpoint, exported], samples, latency=None, limits=Limits(min_agreement=1))
    row = result.rows[2]
    assert (row.runner, row.skipped, row.reference) == ("onnxruntime-lccl", None, "small.pt (torch)")
    assert row.max_error is not None
    assert 0 < row.max_error < 1e-4, "another implementation rounds in another order"
    assert result


@pytest.mark.parametrize(
    ("isa", "code", "words"),
    [
        ("portable", 0, "CPU ISA       portable, as LCCL_CPU_ISA asks"),
        ("mmx", 1, "CPU ISA       this machine does not run LCCL_CPU_ISA=mmx: unset it"),
    ],
)
def test_the_instruction_set_that_is_asked_for(library: Path, isa: str, code: int, words: str) -> None:
    environment = {**os.environ, "LCCL_CPU_ISA": isa}
    command = [sys.executable, "-m", "lccl.ort", "--library", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, words)


def test_a_library_that_ignores_the_variable_is_found_out(
    library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one from before the variable had its present name, which LCCL_ORT_LIBRARY may name."""
    monkeypatch.setenv("LCCL_CPU_ISA", "portable")
    monkeypatch.setattr("lccl.backends.onnxruntime.library.cpu_isa", lambda _: "avx2")
    assert report_command(["--library", str(library)]) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "CPU ISA       avx2, not portable: the library does not know LCCL_CPU_ISA"


OLD_COMMAND = "warning: python -m lccl.ort is now lccl doctor; the old spelling goes away in 0.3"


@pytest.mark.slow
def test_the_old_variable_still_asks_with_a_warning(library: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "LCCL_CPU_ISA"} | {"LCCL_CPU_LEVEL": "portable"}
    command = [sys.executable, "-m", "lccl.ort", "--library", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "CPU ISA       portable, as LCCL_CPU_LEVEL asks"
    assert done.stderr.splitlines() == [
        "warning: LCCL_CPU_LEVEL is now LCCL_CPU_ISA; the old spelling goes away in 0.3",
        OLD_COMMAND,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment | {"LCCL_CPU_ISA": "portable"})
    assert done.stdout.splitlines()[-1] == "CPU ISA       portable, as LCCL_CPU_ISA asks"
    assert done.stderr.splitlines() == [OLD_COMMAND]


def test_the_instruction_set_by_its_old_name(library: Path) -> None:
    with pytest.warns(FutureWarning, match="lccl.ort.cpu_isa"):
        old = lccl.ort.cpu_level(library)
    assert old == lccl.ort.cpu_isa(library)


def test_the_instruction_set_of_this_machine(library: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LCCL_CPU_ISA", raising=False)
    assert lccl.ort.cpu_isa(library) in ISAS
    monkeypatch.setenv("LCCL_CPU_ISA", "mmx")
    with pytest.raises(lccl.UserError, match=r"LCCL_CPU_ISA is mmx: on this machine it may be .*portable"):
        lccl.ort.session(exported)
