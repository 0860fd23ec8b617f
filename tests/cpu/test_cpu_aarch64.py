"""The CPU kernels of 64-bit ARM processors, in an emulator where this machine is another one."""

from __future__ import annotations

from pathlib import Path

from support.builds.cpu import Host
from support.cases.random_layers import large_layers, named_layers, random_layers
from support.hosts.cpu import Placement, Run, Work, check_all, running_isas


def test_against_the_reference(aarch64_host: Host, tmp_path: Path) -> None:
    layers, wants = named_layers()
    more, more_wants = random_layers(400, 100)
    large, large_wants = large_layers()
    chosen = [i for i, layer in enumerate(large) if layer.name in ("tall-0.05", "small-images-0.5")]
    assert len(chosen) == 2
    layers = [*layers, *more, *(large[i] for i in chosen)]
    wants = [*wants, *more_wants, *(large_wants[i] for i in chosen)]
    ways = ((1, Placement.HEAP), (2, Placement.ENDS_AT_GUARD), (-3, Placement.STARTS_AT_GUARD))
    work: Work = [
        (layer, [Run(isa, threads=t, placement=p) for isa in running_isas(aarch64_host) for t, p in ways]) for layer in layers
    ]
    check_all(aarch64_host, work, wants, tmp_path)
