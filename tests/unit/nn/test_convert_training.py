"""lccl.nn.convert on networks that run other code in training mode: equal outputs in both modes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import lccl
import support.networks.dense as nets
from support.networks.merging import Merging

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


class TwoGraphs(fx.GraphModule):
    """A module of torch.fx with a graph for each mode, as torchvision's feature extractors."""

    def __init__(self, root: nn.Module, train_graph: fx.Graph, eval_graph: fx.Graph) -> None:
        super().__init__(root, train_graph)
        self.train_graph, self.eval_graph = train_graph, eval_graph
        self.training = True

    def train(self, mode: bool = True) -> TwoGraphs:
        if mode != self.training:
            self.graph = self.train_graph if mode else self.eval_graph
        return super().train(mode)

    def __deepcopy__(self, memo: Any) -> TwoGraphs:
        root = nn.Module()
        root.__dict__ = copy.deepcopy(self.__dict__, memo)
        return TwoGraphs(root, root.__dict__["train_graph"], root.__dict__["eval_graph"])


def two_graphs(root: nn.Module) -> TwoGraphs:
    graphs = [fx.Tracer().trace(root.train(mode)) for mode in (True, False)]
    return TwoGraphs(root, *graphs).eval()


class Body(nn.Module):
    """Two convolutions, dropout, and a constant that eval mode alone adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(F.dropout(self.stem(x), 0.5, self.training))
        return y if self.training else y + 1


class Frozen(Body):
    """A network whose own train leaves its norms in eval mode."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def partly(model: nn.Module, *training: str) -> nn.Module:
    """Put the named modules alone into training mode."""
    model.eval()
    for name in training:
        model.get_submodule(name).training = True
    return model


MODES: dict[str, Callable[[], nn.Module]] = {
    "two graphs in eval mode": lambda: two_graphs(Body()),
    "two graphs in training mode": lambda: two_graphs(Body()).train(),
    "two graphs in a network": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), two_graphs(Body())).eval(),
    "one graph in eval mode": lambda: fx.symbolic_trace(Body().eval()),
    "one graph, frozen norms": lambda: partly(fx.symbolic_trace(Body().train()), "", "stem", "stem.0", "block", "block.0"),
    "frozen norms": lambda: Frozen().train(),
    "a frozen stem": lambda: partly(Body(), "", "block", "block.0", "block.1", "block.2", "block.3"),
    "a frozen convolution": lambda: partly(Body(), "", "block", "block.1", "block.2"),
    "norms alone": lambda: partly(Body(), "stem.1", "block.1"),
    "the root alone": lambda: partly(Body(), ""),
}


def modes_of(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules(remove_duplicate=False)}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", MODES)
def test_every_module_keeps_its_mode(name: str, inplace: bool) -> None:
    torch.manual_seed(0)
    dense = MODES[name]()
    x = torch.randn(4, 3, 8, 8)
    untouched = copy.deepcopy(dense)  # torch.fx's copies lose modes
    for module_name, training in modes_of(dense).items():
        if isinstance(untouched.get_submodule(module_name), TwoGraphs):
            untouched.get_submodule(module_name).train(training)
    for module_name, training in modes_of(dense).items():
        untouched.get_submodule(module_name).training = training
    before = modes_of(dense)
    gated = lccl.nn.convert(dense, where="all-3x3", args=x, inplace=inplace)
    assert (gated is dense) == inplace
    after = modes_of(gated)
    if name in ("norms alone", "a frozen convolution"):
        assert after.pop("block.0"), "a layer with the norm of its convolution in it, which trains"
    assert before.items() <= {"block.0": False, **after}.items()
    assert modes_of(dense if not inplace else untouched) == before
    torch.manual_seed(1)
    expected = untouched(x)
    torch.manual_seed(1)
    torch.testing.assert_close(gated(x), expected, rtol=1e-4, atol=1e-5)


def test_a_dry_run_leaves_a_graph_for_each_mode_as_it_was() -> None:
    dense = two_graphs(Body())
    x = torch.randn(2, 3, 8, 8)
    before = dense(x)
    lccl.nn.convert(dense, args=x, dry_run=True)
    torch.testing.assert_close(dense(x), before, rtol=0, atol=0)
    assert dense.graph is dense.eval_graph


def test_a_layer_with_a_frozen_norm_trains_its_gate() -> None:
    dense = partly(Body(), "", "block", "block.0")
    gated = lccl.nn.convert(dense, where=["block.0"])
    layer = gated.block[0]
    assert (layer.training, layer.gate.training, layer.gate.norm.training, layer.norm.training) == (True, True, True, False)


def test_weights_that_are_merged_in_eval_mode_are_apart_again_in_training_mode() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), Merging(4, 4, 1)).train()
    before = dense[4].weight.detach().clone()
    gated = lccl.nn.convert(dense, where=["2"], args=torch.randn(1, 3, 9, 9))
    for model in (dense, gated):
        assert torch.equal(model[4].weight, before)
        assert not model[4].merged
