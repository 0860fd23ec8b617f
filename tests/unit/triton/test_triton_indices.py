"""Maps of more than 2^31 elements: offsets have 64 bits, and what 32 bits count is refused beyond them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="pip install triton")

import triton.language as tl

from lccl.backends.torch.triton import kernels
from lccl.backends.torch.triton.configurations import LARGEST_INDEX, Layer, choose, refusal
from lccl.op.contract import Attributes
from support.hosts.triton import watching_overflows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_triton")]
FAR = 2**31 + 8
WIDE = 2**28
"""A pixel's stride; the ninth pixel lies beyond 2^31."""


@pytest.fixture(scope="module")
def memory() -> torch.Tensor:
    """More than 2^32 bytes of float16, of which only pages that a test touches are there."""
    try:
        return torch.empty(12 * WIDE + 64, dtype=torch.float16)
    except RuntimeError as error:
        pytest.skip(f"the system does not promise memory that is not used: {error}")


@pytest.mark.parametrize(("image", "pixel"), [(FAR, 8), (12 * WIDE, WIDE)])
def test_offsets_have_64_bits(memory: torch.Tensor, image: int, pixel: int) -> None:
    """Gate, rows and closed pixels of a second image of 3 x 4 pixels, in maps that lie far apart.

    Sums and products that leave their type fail on the interpreter meanwhile.
    """
    n, h, w, c, k = (2, 3, 4, 8, 8) if image == FAR else (1, 3, 4, 8, 8)
    view = memory.as_strided((n, h, w, c), (image, w * pixel, pixel, 1))
    x = torch.randn(n, h, w, c).half()
    view.copy_(x)
    weights = torch.randn(k, 1, 1, c).half()
    gate_w = torch.randn(1, 1, c).half()
    zeros, ones = torch.zeros(k), torch.ones(k)
    gmap, cells, count = torch.empty(n * h * w), torch.empty(n * h * w, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    external = torch.ones(n * h * w).half()
    geometry: tuple[Any, ...] = (1, 1, 0, 0, 1, 1)
    hints: dict[str, Any] = {"EIGHTS": True, "PDL": False}
    y = memory  # over x: a 1x1 convolution in place, each pixel read before it is written
    with watching_overflows():
        kernels.gate_cells[(1,)](
            memory, gate_w, zeros, external, gmap, cells, count, n * h * w, h, w, h, w, c, 1, 1, *geometry, image, pixel, 1,
            1.0, 3e38, 0.0, 1, 1, -1.0, 0, FUSED=True, BM=32, BC=16, **hints,
        )  # fmt: skip
        kernels.conv_rows[(1,)](
            memory, weights, zeros, ones, zeros, y, gmap, cells, count, y,
            n * h * w, h, w, h, w, h, w, c, k, 1, 1, 1, *geometry, image, pixel, 1, image, pixel, 1, k,
            1.0, 1.0, 1, 1, 0, 2.0, PRECISION="ieee", OPERAND=tl.float32, BM=32, BN=16, BK=16, EN=16, **hints,
        )  # fmt: skip
        kernels.close_pixels[(1, 1)](
            zeros, y, gmap, y, n * h * w, h, w, h, w, k, 1, image, pixel, 1, k, 1.0, 1, 0, 0, BM=32, BN=16, **hints
        )
    gate = (x.float() @ gate_w[0, 0].float()).relu()
    want = (x.float() @ weights[:, 0, 0].float().T) * gate[..., None]
    assert 0 < int(count) < n * h * w
    torch.testing.assert_close(view.float(), want.half().float(), rtol=2e-3, atol=1e-4)


LAYER = Layer(64, 64, (3, 3), Attributes(pads=(1, 1, 1, 1)), 1000, 2, 90, (56, 56))
GRID = Attributes(gate_strides=(16, 16), gate_upsample=(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (replace(LAYER, channels=2**20, filters=2**10), "weights are fewer than"),
        (replace(LAYER, cells=2**31 - 5), "output pixels, each block of a grid whole, are fewer"),
        (replace(LAYER, attributes=GRID, cells=2**23), "output pixels, each block of a grid whole, are fewer"),
        (replace(LAYER, hw=(2**16, 2**15)), "pixels of an image with its pads are fewer"),
        (
            replace(LAYER, attributes=Attributes(gate_pads=(2**16, 0, 0, 2**15))),
            "pixels of an image with the gate's pads are fewer",
        ),
        (replace(LAYER, channels=8, kernel=(1, 1), cells=2**27, filters=2**15), "tiles are fewer"),
    ],
)
def test_what_32_bits_cannot_count_is_refused(layer: Layer, reason: str) -> None:
    for family in ("rows", "boxes"):
        assert reason in refusal(layer, family)  # type: ignore[arg-type]
    assert choose(layer) is None
    assert f"{LARGEST_INDEX:,}" in refusal(layer, "rows")
