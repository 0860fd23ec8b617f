"""What Polygraphy's users call on our files, besides the README's three lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def polygraphy(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / "polygraphy"
    return subprocess.run([str(script), *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("suffix", [".onnx", ".dense.onnx", ".decomposed.onnx"])
def test_lint(exported: Path, suffix: str) -> None:
    """That each of the files runs is seen below."""
    process = polygraphy("check", "lint", exported.with_suffix(suffix))
    assert process.returncode == 0, process.stdout + process.stderr


def test_inspect_shows_the_op(exported: Path) -> None:
    process = polygraphy("inspect", "model", exported, "--show", "layers", "attrs")
    assert process.returncode == 0
    for word in ("LCCLConv", "stages.0.0.conv1", "gate_upsample", "Other Opsets: {'lccl': 1}"):
        assert word in process.stdout, word


def test_a_comparison_of_saved_outputs_can_fail(exported: Path, tmp_path: Path) -> None:
    """Two different networks: the dense twin is not the gated network."""
    inputs, outputs = tmp_path / "i.json", tmp_path / "o.json"
    assert polygraphy("run", exported, "--onnxrt", "--save-inputs", inputs, "--save-outputs", outputs).returncode == 0
    loaded = ("--onnxrt", "--load-inputs", inputs, "--load-outputs", outputs)
    assert polygraphy("run", exported.with_suffix(".decomposed.onnx"), *loaded).returncode == 0
    assert polygraphy("run", exported.with_suffix(".dense.onnx"), *loaded).returncode != 0


def test_surgery_keeps_the_function(exported: Path, tmp_path: Path) -> None:
    import onnx

    clean = tmp_path / "clean.onnx"
    assert polygraphy("surgeon", "sanitize", exported, "--fold-constants", "-o", clean).returncode == 0
    assert [f.name for f in onnx.load(clean).functions] == ["LCCLConv"]
