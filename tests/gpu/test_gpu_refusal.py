"""Without a GPU the GPU's commands end with one sentence, and their help comes without PyTorch. Runs everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import ROOT

COMMANDS = ("scripts/gpu_check.py", "bench/gpu_layers.py")
WITHOUT_A_GPU = ("scripts/gpu_fit.py", "bench/gpu_targets.py")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of this checkout on a machine whose GPUs, if any, are hidden."""
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_refusal(command: str) -> None:
    out = run(command)
    assert (out.returncode, out.stdout) == (1, "")
    assert out.stderr.startswith("error: this needs a CUDA GPU that PyTorch can use")
    assert len(out.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [*COMMANDS, *WITHOUT_A_GPU])
def test_help_loads_nothing_heavy(command: str) -> None:
    folder, _, name = command.partition("/")
    code = (
        f"import sys\nsys.path.insert(0, {folder!r})\nimport {name.removesuffix('.py')} as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print(*(m for m in ('torch', 'numpy', 'onnx', 'matplotlib') if m in sys.modules))"
    )
    out = run("-c", code)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scripts/gpu_check.py", "--only", "sweep,other"), "--only takes steps of build,smoke"),
        (("scripts/gpu_check.py", "--minutes", "long"), "argument --minutes: it takes minutes above 0, not"),
        (("scripts/gpu_check.py", "--part", "C"), "argument --part: invalid choice"),
        (("scripts/gpu_fit.py", "no/results.jsonl"), "there is no results file at no/results.jsonl"),
        (("bench/gpu_layers.py", "--forms", "other"), "argument --forms: invalid choice"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    out = run(*arguments)
    assert (out.returncode, out.stdout) == (1, "")
    assert message in out.stderr
    assert len(out.stderr.splitlines()) == 1
