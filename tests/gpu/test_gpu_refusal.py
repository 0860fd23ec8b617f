"""Without a GPU the GPU's commands end with one sentence, and their help comes without PyTorch.

Runs everywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import ROOT

COMMANDS = ("bench/gpu/check.py", "bench/gpu/layers.py")
WITHOUT_A_GPU = ("bench/gpu/fit.py", "bench/gpu/targets.py")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of this checkout on a machine whose GPUs, if any, are hidden."""
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_refusal(command: str) -> None:
    out = run(command)
    assert (out.returncode, out.stdout) == (1, "")
    assert out.stderr.startswith("error: this needs a CUDA GPU that PyTorch can use")
    assert len(out.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [*COMMANDS, *WITHOUT_A_GPU])
def test_help_loads_nothing_heavy(command: str) -> None:
    name = command.removesuffix(".py").replace("/", ".")
    code = (
        f"import sys\nimport {name} as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print(*(m for m in ('torch', 'numpy', 'onnx', 'matplotlib') if m in sys.modules))"
    )
    out = run("-c", code)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench/gpu/check.py", "--only", "sweep,other"), "--only takes steps of build,smoke"),
        (("bench/gpu/check.py", "--minutes", "long"), "argument --minutes: it takes minutes above 0, not"),
        (("bench/gpu/check.py", "--part", "C"), "argument --part: invalid choice"),
        (("bench/gpu/fit.py", "no/results.jsonl"), "there is no results file at no/results.jsonl"),
        (("bench/gpu/layers.py", "--forms", "other"), "argument --forms: invalid choice"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    out = run(*arguments)
    assert (out.returncode, out.stdout) == (1, "")
    assert message in out.stderr
    assert len(out.stderr.splitlines()) == 1
