"""The kernels on a GPU.

Without one every test here says so; ``bench/gpu/check.py`` checks more, and without pytest.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING

import pytest
import torch

from bench.gpu.forms import Bench
from bench.gpu.offsets import offsets
from bench.gpu.parts import graph, masks, streams, sweep
from lccl.backends.torch.cuda.kernel_op import device_of, register
from lccl.backends.torch.cuda.library import Library, load
from lccl.nn import LCCLConv2d, fold

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SECONDS = 60


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest) -> Library:
    path: Path = request.getfixturevalue("cuda_library_path")
    return load(path)


@pytest.fixture(scope="module")
def bench(library: Library) -> Bench:
    place = torch.device("cuda", 0)
    return Bench(library, device_of(place), place)


def deadline() -> float:
    return time.monotonic() + SECONDS


def test_the_device_is_described_alike(library: Library) -> None:
    """By the library's own query and by PyTorch."""
    assert bytes(library.device(0)) == bytes(device_of(torch.device("cuda", 0)))


def test_random_forms(bench: Bench) -> None:
    outcome = sweep(bench, deadline(), 60)
    assert outcome["status"] == "passed", outcome


def test_masks(bench: Bench) -> None:
    outcome = masks(bench, deadline(), 30)
    assert outcome["status"] == "passed", outcome


def test_offsets(bench: Bench) -> None:
    outcome = offsets(bench, deadline())
    if outcome["status"] == "skipped":
        pytest.skip(outcome["words"])
    assert outcome["status"] == "passed", outcome


def test_graphs(bench: Bench) -> None:
    outcome = graph(bench, deadline())
    assert outcome["status"] == "passed", outcome


def test_streams(bench: Bench) -> None:
    outcome = streams(bench, deadline(), rounds=5)
    assert outcome["status"] == "passed", outcome


@pytest.mark.parametrize("gate", ["kxk", "1x1", "grid"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_layer_on_a_gpu_equals_the_layer_on_the_cpu(library: Library, gate: str, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    register(library)
    layer = LCCLConv2d(16, 24, 3, padding=1, gate=gate, gate_size=4 if gate == "grid" else 1)
    x = torch.randn(2, 16, 21, 18)
    for _ in range(3):
        layer(x)
    layer.eval()
    with torch.no_grad():
        expected = layer(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # where the kernels are not called, the op warns and computes without
            on_gpu = fold(layer).cuda()(x.cuda().to(memory_format=memory_format))
            half = fold(layer).cuda().half()(x.cuda().half().to(memory_format=memory_format))
    assert on_gpu.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(on_gpu.cpu(), expected, rtol=1e-5, atol=1e-5)
    assert half.is_contiguous(memory_format=memory_format)
    wrong = (half.cpu().float() - expected).abs() > 2e-2 * expected.abs().max()
    assert wrong.float().mean() < 0.01, "all but gates that x's rounding to float16 flips"
