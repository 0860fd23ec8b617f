"""lccl.nn.convert leaves the network unchanged after a failure and after a dry run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import lccl
from lccl.errors import UserError
from lccl.nn import LCCLConv2d


class Small(nn.Module):
    """A stem and two convolutions of 3 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.c1, self.c2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.c2(self.c1(self.stem(x)).relu()).mean((2, 3)))


class MoreOutputs(Small):
    """Returns one more output with every run."""

    runs = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = super().forward(x)
        self.runs += 1
        return (y,) * self.runs


class Interrupted(MoreOutputs):
    """Raises KeyboardInterrupt in its second run."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.runs and type(x) is torch.Tensor:
            raise KeyboardInterrupt
        return super().forward(x)


class PlainList(Small):
    """Calls its convolutions through a plain list, which a replacement does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [self.c1, self.c2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for conv in self.steps:
            x = conv(x).relu()
        return self.fc(x.mean((2, 3)))


class ReadsEps(Small):
    """Reads an attribute of a norm that moves into a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.c2(self.bn(self.c1(self.stem(x)))).mean((2, 3)) + self.bn.eps)


class NoTensor(Small):
    """Returns an object without tensors in it."""

    def forward(self, x: torch.Tensor) -> object:  # type: ignore[override]
        super().forward(x)
        return object()


class Overflows(Small):
    """Returns NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


@pytest.mark.filterwarnings("ignore:.*cannot be traced:UserWarning")
@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            ReadsEps,
            UserError,
            r"^the network's code reads eps of bn, which a gated layer has replaced; give where as a list of .*",
        ),
        (NoTensor, UserError, r"output holds no tensor to compare"),
        (Overflows, UserError, r"gives NaN for the example"),
        (MoreOutputs, UserError, r"gave 1 output before the conversion and 2 after it"),
        (Interrupted, KeyboardInterrupt, None),
        (PlainList, UserError, r"does not call c1 under its name \(2 such layers\)"),
    ],
)
def test_whatever_goes_wrong_is_undone(build: Callable[[], nn.Module], error: type[BaseException], message: str | None) -> None:
    model = build()
    with pytest.raises(error, match=message):
        lccl.nn.convert(model, where=["c1", "c2"], args=torch.randn(1, 3, 8, 8), inplace=True)
    assert not any(isinstance(m, LCCLConv2d) for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_layer_that_the_example_does_not_reach() -> None:
    class Switched(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.c1(self.stem(x))
            return self.fc((self.c2(x) if bool(x.mean() > 1e6) else x).mean((2, 3)))

    plan = lccl.nn.convert(Switched(), where="all-3x3", args=torch.randn(1, 3, 8, 8), dry_run=True)
    assert {layer.name: layer.choice.why for layer in plan.layers}["c2"] == "not called for the example"


class Keeping(Small):
    """Stores what it computes on itself, in containers and on another module, and makes a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.last = None
        self.log: list[torch.Tensor] = []
        self.by_name: dict[str, list[torch.Tensor]] = {"c1": []}
        self.pairs, self.names = [(1, 2)], {"c1"}
        self.aside = [nn.Identity()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x = self.c1(self.stem(x))
        self.log.append(x)
        self.by_name["c1"].append(x)
        self.by_name["new"] = [x]
        self.pairs[0] = (1, 2, x)
        self.names.add("c2")
        self.aside[0].seen = x
        return self.fc(self.c2(x).mean((2, 3)))


class KeepingUntraced(Keeping):
    """Has code that cannot be traced to its end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if bool(y.sum() > 0) else -y


@pytest.mark.filterwarnings("ignore:.*cannot be traced:UserWarning")
@pytest.mark.parametrize("build", [Keeping, KeepingUntraced])
@pytest.mark.parametrize("dry_run", [True, False])
def test_tracing_leaves_nothing_in_the_network(build: Callable[[], Keeping], dry_run: bool) -> None:
    model = build()
    keys = list(vars(model))
    lccl.nn.convert(model, where=["c1"], dry_run=dry_run)
    assert (model.last, model.log, model.by_name) == (None, [], {"c1": []})
    assert (model.pairs, model.names) == ([(1, 2)], {"c1"})
    assert not hasattr(model.aside[0], "seen")
    assert list(vars(model)) == keys


@pytest.mark.filterwarnings("ignore:.*cannot be traced .it creates layers while it runs:UserWarning")
def test_a_network_that_makes_layers_as_it_runs() -> None:
    class Making(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "made"):
                self.made = nn.Conv2d(3, 3, 3, padding=1)
            return super().forward(self.made(x))

    model = Making()
    assert [layer.name for layer in lccl.nn.convert(model, where=["c1"], dry_run=True).gated] == ["c1"]
    assert not hasattr(model, "made")
