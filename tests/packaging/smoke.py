"""What an installed lccl has to do with nothing but the base install: open a session that skips, and say what else is needed.

python tests/packaging/smoke.py [--without-library]

The workflow that builds wheels runs it on each; it needs no test package.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

import lccl

MODEL = Path(__file__).parents[2] / "samples" / "session" / "gated.onnx"
COMMANDS = ("lccl", "lccl-export", "lccl-build-engine", "lccl-build-plugin", "lccl-compare")
SCRIPTS = Path(sysconfig.get_path("scripts"))


def check_session(with_library: bool) -> None:
    """The same outputs as the op's function gives, by the library where one is meant to be here."""
    feed = {"input": np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)}
    (expected,) = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"]).run(None, feed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (got,) = lccl.ort.session(MODEL, threads=1).run(None, feed)
    assert expected.any(), "the model's outputs are all 0"
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    found = lccl.ort.check_library()
    assert bool(found) == with_library, found.reason
    assert [w.category for w in caught] == ([] if with_library else [RuntimeWarning]), caught


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=120)


def check_commands() -> None:
    """Each shows its help; those that need an extra name it."""
    for name in COMMANDS:
        done = run(SCRIPTS / name, "--help")
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
    if find_spec("torch") is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, *words in (("lccl-export", "-o", f"{folder}/model.onnx"), ("lccl-compare", "--data", "data.npz")):
            done = run(SCRIPTS / name, MODEL, *words)
            said = (done.returncode, done.stdout, done.stderr)
            assert said == (1, "", f"error: {name} needs PyTorch: pip install 'lccl[export]'\n"), said
        assert not list(Path(folder).iterdir())
    done = run(sys.executable, "-c", "import lccl.nn")
    assert done.stderr.endswith("lccl.nn needs PyTorch: pip install 'lccl[train]'\n"), done.stderr


if __name__ == "__main__":
    check_session(with_library=sys.argv[1:] != ["--without-library"])
    check_commands()
    print(f"lccl {lccl.__version__} works on Python {sys.version.split()[0]}")
