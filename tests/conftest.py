"""Paths and marks of the tests, and fixtures that several share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lccl

# Triton reads it when it is imported, which PyTorch may do before any test asks for it.
os.environ.setdefault("TRITON_INTERPRET", "1")

if TYPE_CHECKING:
    import torch

    from lccl.backends.torch.cuda.library import Library

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
pytest.register_assert_rewrite("support")

pytest_plugins = (
    "support.builds.cuda",
    "support.builds.cpu",
    "support.builds.distributions",
    "support.builds.ort",
    "support.builds.triton",
    "support.builds.trt",
)

NATIVE_FOLDERS = {"cpu", "emulator", "native", "ort", "packaging", "triton", "trt"}
NATIVE_FIXTURES = {
    "cuda_library_path",
    "emulator_library_path",
    "recorded_library_path",
    "cpu_host",
    "asan_host",
    "tsan_host",
    "wide_host",
    "aarch64_host",
    "ort_library",
    "distributions",
    "bare_source",
    "trt_host",
    "registry_host",
    "emulated_plugin",
    "trt_plugin",
    "gpu_host",
    "logger_probe",
    "fake_tensorrt",
}
"""Of ``support.builds``; a fixture over one of them counts by it."""
DOWNLOADING_FIXTURES = {"lean", "other_onnxruntime"}


def pytest_configure() -> None:
    """Refuse to test another clone's package."""
    package = Path(lccl.__file__).resolve().parent
    if not package.is_relative_to(ROOT.resolve() / "exporter"):
        raise pytest.UsageError(f"this environment's lccl is {package}, not this checkout's: run pip install -e {ROOT}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make check` leaves out, beside slow tests."""
    parser.addoption("--few-cases", type=int, metavar="N", help="run at most N cases of each test, evenly from all of them")


def few_of(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    """At most so many cases of each test, evenly from all of them, in order."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {
        id(every[round(i * (len(every) - 1) / max(1, most - 1))])
        for every in cases.values()
        for i in range(min(most, len(every)) if len(every) > most else 0)
    }
    return [item for item in items if id(item) in kept or len(cases[item.nodeid.partition("[")[0]]) <= most]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what compiles and what downloads, by each test's folder and fixtures."""
    most = config.getoption("--few-cases")
    if most:
        kept = few_of(items, most)
        left = set(map(id, kept))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in left])
        items[:] = kept
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        fixtures = set(getattr(item, "fixturenames", ()))
        if folder in NATIVE_FOLDERS or fixtures & NATIVE_FIXTURES:
            item.add_marker("native")
        if fixtures & DOWNLOADING_FIXTURES:
            item.add_marker("download")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command here: ``invoke("lccl.cli.export", "model.pt", "-o", "model.onnx")``."""

    def call(module: str, *arguments: object) -> Outcome:
        from importlib import import_module

        from lccl.command_line import execute

        capsys.readouterr()
        try:
            code = execute(import_module(module).command, [str(a) for a in arguments])
        except SystemExit as stop:  # argparse's own
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def small_model() -> torch.nn.Module:
    """A network of two gated layers per block, with running statistics as if trained."""
    import torch

    from lccl.models.resnet import cifar_resnet

    torch.manual_seed(0)
    model = cifar_resnet(8, 4, in_channels=1, gated="both")
    model.train()
    for _ in range(3):
        model(torch.randn(32, 1, 16, 16))
    return model.eval()


@pytest.fixture(scope="session")
def checkpoint(small_model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's checkpoint, which names its own factory."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    kwargs = {"depth": 8, "width": 4, "in_channels": 1, "gated": "both"}
    lccl.save_checkpoint(path, small_model, "lccl.models.resnet:cifar_resnet", kwargs, (1, 16, 16))
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model exported with its variants beside it."""
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    import torch

    lccl.export(lccl.load_checkpoint(checkpoint), torch.zeros(1, 1, 16, 16), path, dense_twin=True, decomposed=True)
    return path


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of 20 images with labels."""
    import numpy as np

    path = tmp_path_factory.mktemp("data") / "samples.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.standard_normal((20, 1, 16, 16)).astype("float32"), labels=rng.integers(0, 10, 20))
    return path


@pytest.fixture(scope="session")
def emulator_library(emulator_library_path: Path) -> Library:
    """The CUDA kernels' own source on the emulated machine.

    It has the kernel library's functions, which take host pointers here.
    """
    from lccl.backends.torch.cuda.library import load

    return load(emulator_library_path)
