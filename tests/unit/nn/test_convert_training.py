"""lccl.nn.convert on networks that run other code in training mode: equal outputs in both modes."""

from __future__ import annotations

import warnings
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lccl
import support.networks.dense as nets

Training = Literal["nothing", "reads", "skips", "swaps", "aside", "weights", "branches"]


class Switched(nn.Module):
    """A stem and a convolution with its norm, and code that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.aux = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.register_buffer("steps", torch.zeros(()))
        self.extra: Training = "nothing"

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        y = self.bn(y) + (y.relu() if self.extra == "reads" else 0) if self.training else self.bn(y)
        if self.training:
            self.steps += 1
            y = self._more(x, y)
        return self.fc(y.mean((2, 3)))

    def _more(self, x: Tensor, y: Tensor) -> Tensor:
        if self.extra == "skips":  # as stochastic depth by a coin: the block is not run
            return x
        if self.extra == "swaps":
            return self.other(self.conv(x))
        if self.extra == "aside":
            return y + self.other(self.aux(y))
        if self.extra == "weights":
            return y * self.bn.weight.sum()
        if self.extra == "branches" and y.sum() > 1e9:
            raise ValueError("diverged")
        return y


def switched(extra: Training) -> Switched:
    model = nets.settle(Switched(), 3, 8, 8)
    model.extra = extra
    return model


MOVED: dict[Training, bool] = {
    "nothing": True,
    "reads": False,
    "skips": True,
    "swaps": False,
    "aside": True,
    "weights": False,
    "branches": False,
}
"""Whether the norm moves into the layer."""


@pytest.mark.filterwarnings("ignore:.*after the gate:UserWarning")
@pytest.mark.parametrize("extra", MOVED)
def test_outputs_in_both_modes(extra: Training) -> None:
    dense = switched(extra)
    converted = lccl.nn.convert(dense, where=["conv"])
    assert [entry["norm"] for entry in lccl.nn.recipe(converted)] == ["bn" if MOVED[extra] else None]
    assert not any(m.training for m in (*dense.modules(), *converted.modules()))
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(converted(x), dense(x))
    torch.testing.assert_close(converted.train()(x), dense.train()(x))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("reads", "^bn stays after the gate, because training runs other code there$"),
        ("branches", r"^the network \(Switched\) cannot be traced in training mode \(.*\): norms directly inside stay after"),
    ],
)
def test_a_warning_says_which_norm_stays(extra: Training, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        lccl.nn.convert(switched(extra), where=["conv"])


@pytest.mark.parametrize("extra", ["nothing", "skips", "aside"])
def test_no_warning_where_nothing_is_lost(extra: Training) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lccl.nn.convert(switched(extra), where=["conv"])


@pytest.mark.parametrize("extra", ["reads", "branches"])
def test_no_warning_of_layers_that_stay_dense(extra: Training) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lccl.nn.convert(switched(extra), where=["stem"])


def test_norms_that_train_leaves_frozen() -> None:
    """A frozen norm stays outside of a layer, whose own ``train`` would unfreeze it."""

    class Frozen(Switched):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.bn.eval()
            return self

    dense = nets.settle(Frozen(), 3, 8, 8)
    with pytest.warns(UserWarning, match="^bn stays after the gate"):
        converted = lccl.nn.convert(dense, where=["conv"])
    assert [entry["norm"] for entry in lccl.nn.recipe(converted)] == [None]
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(converted.train()(x), dense.train()(x))
    torch.testing.assert_close(converted.eval()(x), dense.eval()(x))


def test_warnings_of_traced_code_are_not_shown() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.fc = nn.Conv2d(3, 8, 1), nets.BasicBlock(8, 8, 1, None), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = checkpoint(self.block, x, use_reentrant=True) if self.training else self.block(x)
            return self.fc(x.mean((2, 3)))

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        converted = lccl.nn.convert(Checkpointed())
    assert [str(warning.message) for warning in shown] == []
    assert [entry["norm"] for entry in lccl.nn.recipe(converted)] == ["block.bn1"]


def test_tracing_leaves_buffers_and_random_numbers_alone() -> None:
    model = switched("aside")
    state = torch.get_rng_state()
    steps = model.steps.clone()
    lccl.nn.convert(model, where=["conv"], dry_run=True)
    assert torch.equal(model.steps, steps)
    assert torch.equal(torch.get_rng_state(), state)
