"""Which configurations take a layer, why others do not, and which is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lccl.backends.torch.triton.configurations import (
    CONFIGURATIONS,
    FEW_TILES,
    SHARED_KIB,
    Layer,
    choose,
    misfit,
    refusal,
)
from lccl.op.contract import Attributes

PIXEL = Layer(64, 64, (3, 3), Attributes(pads=(1, 1, 1, 1)), 100_000, 2, 90, (56, 56))


def on_grid(grid: int, layer: Layer = PIXEL) -> Layer:
    return replace(layer, attributes=Attributes(gate_strides=(grid, grid), gate_upsample=(1, 1, grid, grid)), cells=5000)


def test_numbers_and_names_are_each_one_configurations() -> None:
    """Numbers stand in engines: one that was given away is not used again."""
    numbers = {c.name: c.number for c in CONFIGURATIONS}
    assert len(numbers) == len(CONFIGURATIONS) == len(set(numbers.values()))
    assert numbers == {
        "rows_128x64": 1, "rows_64x64": 2, "rows_64x32": 3, "boxes_2x64x128": 4, "boxes_2x64x64": 5, "rows_128x256": 6,
        "rows_128x128": 7, "boxes_2x64x256": 8, "boxes_2x64x128_s3": 9,
    }  # fmt: skip


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: c.name)
def test_a_configuration_is_well_formed(configuration: object) -> None:
    c = next(c for c in CONFIGURATIONS if c is configuration)
    assert c.tile_n // c.part_n in (1, 2, 4)
    assert c.part_n >= 32
    assert all(n & (n - 1) == 0 for n in (c.tile_m, c.tile_n, c.tile_k, c.part_n, c.warps))


@pytest.mark.parametrize("channels", [1, 8, 64, 200, 512])
@pytest.mark.parametrize("grid", [1, 4, 8, 16])
@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 103, 120, 121])
def test_every_layer_has_a_configuration(channels: int, grid: int, capability: int) -> None:
    for cells in (1, 100, 100_000):
        layer = replace(on_grid(grid), channels=channels, filters=channels, cells=cells, capability=capability)
        chosen = choose(layer)
        assert chosen is not None
        assert (chosen.family == "boxes") == (grid % 8 == 0 and capability >= 90)
        assert chosen.shared_bytes(2) <= SHARED_KIB.get(capability, 99) * 1024
        single = choose(replace(layer, element_bytes=4))
        assert single is not None
        assert 4 in single.element_bytes


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (replace(PIXEL, kernel=(3, 8)), "kernels are 1x1 to 7x7, not 3x8"),
        (replace(on_grid(8), capability=89), "boxes need compute capability 9.0, not 8.9"),
        (replace(on_grid(8), capability=100, triton=(3, 6)), "boxes on compute capability 10.0 need Triton 3.9, not 3.6"),
        (replace(on_grid(8), element_bytes=4), "boxes are of float16 and bfloat16"),
        (on_grid(7), "boxes are for grid gates whose G is a multiple of 8, not 7"),
        (PIXEL, "boxes are for grid gates whose G is a multiple of 8, not 1"),
        (
            replace(PIXEL, attributes=Attributes(strides=(2, 1), gate_strides=(16, 8), gate_upsample=(1, 1, 8, 8))),
            "boxes have stride 1, not 2x1",
        ),
    ],
)
def test_refusals_have_reasons(layer: Layer, reason: str) -> None:
    assert refusal(layer, "boxes") == reason


def test_misfits_have_reasons() -> None:
    named = {c.name: c for c in CONFIGURATIONS}
    assert misfit(named["rows_128x256"], 80, 2) == "rows_128x256 is for compute capabilities 9.x and 10.x, not 8.0"
    assert misfit(named["rows_128x128"], 90, 4) == "rows_128x128 is for types of 2 bytes, not 4"
    assert misfit(named["boxes_2x64x64"], 86, 2) == "boxes need compute capability 9.0, not 8.6"
    assert misfit(named["boxes_2x64x128"], 120, 2) == (
        "boxes_2x64x128 needs 131,072 bytes of shared memory, and compute capability 12.0 has 101,376"
    )
    assert misfit(named["rows_64x32"], 80, 4) == ""


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (replace(PIXEL, filters=512), "rows_128x256"),
        (replace(PIXEL, filters=512, capability=80), "rows_128x128"),
        (replace(PIXEL, filters=128), "rows_128x128"),
        (PIXEL, "rows_128x64"),
        (replace(PIXEL, filters=24), "rows_64x32"),
        (replace(PIXEL, filters=64, cells=64 * FEW_TILES), "rows_64x64"),
        (replace(PIXEL, filters=64, cells=64), "rows_64x32"),
        (replace(on_grid(8), filters=256), "boxes_2x64x256"),
        (replace(on_grid(8), filters=256, cells=FEW_TILES * 2), "boxes_2x64x256"),
        (replace(on_grid(8), filters=256, cells=FEW_TILES), "boxes_2x64x128"),
        (replace(on_grid(8), filters=128, capability=120), "boxes_2x64x128_s3"),
        (on_grid(16), "boxes_2x64x64"),
        (replace(on_grid(16), capability=100, triton=(3, 6)), "rows_128x64"),
    ],
)
def test_the_choice(layer: Layer, name: str) -> None:
    """The fewest channels beyond K, then the largest tile, of those with tiles for every multiprocessor."""
    chosen = choose(layer)
    assert chosen is not None
    assert chosen.name == name
