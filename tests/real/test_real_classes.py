"""Classes of public packages are converted, exported and compared with themselves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import lccl
from real.networks import NETWORKS, Network

if TYPE_CHECKING:
    import torch
    from torch import nn


@pytest.mark.slow
@pytest.mark.real_class
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_class_is_converted_exported_and_compared(packages: Path, tmp_path: Path, network: Network) -> None:
    """Gates start open, so that the gated network gives what the dense one gives."""
    import torch

    torch.manual_seed(0)
    dense = network.build().eval()
    x = torch.rand(2, 3, network.size, network.size)
    gated = lccl.nn.convert(copy.deepcopy(dense), where=network.where, args=x)
    result = lccl.export(gated, x, tmp_path / "gated.onnx")
    assert result.checked
    assert result.gated >= network.gated
    largest = float(np.abs(_first_output(dense, x)).max())
    own = lccl.ort.session(str(tmp_path / "gated.onnx"))
    (got, *_) = own.run(None, {own.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, _first_output(dense, x), rtol=0, atol=1e-4 * max(0.01, largest))


@pytest.mark.slow
@pytest.mark.parametrize("network", [n for n in NETWORKS if n.compared], ids=lambda network: network.name)
def test_it_is_compared_in_all_runtimes(packages: Path, network: Network) -> None:
    import torch

    torch.manual_seed(0)
    dense = network.build().eval()
    x = torch.rand(2, 3, network.size, network.size)
    gated = lccl.nn.convert(copy.deepcopy(dense), where=network.where, args=x)
    rows = lccl.compare(gated, x.numpy(), baseline=dense, latency=None, dense_twin=False).rows
    assert [row.role for row in rows] == ["lccl"] * 3 + ["baseline"] * 2
    assert {row.agreement for row in rows if row.reference} == {1}


def _first_output(net: nn.Module, x: torch.Tensor) -> np.ndarray:
    import torch

    with torch.no_grad():
        given = net(x)
    if isinstance(given, dict):
        given = next(iter(given.values()))
    first = given[0] if isinstance(given, (tuple, list)) else given
    return np.asarray(first)
