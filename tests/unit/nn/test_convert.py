"""lccl.nn.convert on families of networks: equal outputs, the right gates, checked exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lccl
import support.networks.dense as nets
import support.networks.dense_pixels as pixel_nets
from lccl.errors import UserError
from lccl.nn import LCCLConv2d
from lccl.nn.converting.recipes import recipe
from lccl.nn.gate import GATE_CURVES
from support.share import share

pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be traced:UserWarning")


@dataclass(frozen=True)
class Family:
    """A network, its input shape, and the options of its conversion."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 32, 32)
    where: str = "first-of-block"
    gated: int = 0
    """The number of convolutions that get a gate."""
    norms: int = 0
    """The number of those into which a norm moves."""


FAMILIES = {
    "resnet34": Family(lambda: nets.resnet34(4), gated=16, norms=16),
    "resnet50": Family(lambda: nets.resnet50(4), where="paper", gated=32, norms=32),
    "wrn-28-10": Family(lambda: nets.WideResNet(28, 10, base=1), gated=12, norms=12),
    "wrn-paper": Family(lambda: nets.WideResNet(16, 2, base=4), where="paper", gated=12, norms=6),
    "vgg16-bn": Family(lambda: nets.VGG(width=4), gated=5, norms=5),
    "vgg16": Family(lambda: nets.VGG(batch_norm=False, width=4), where="all-3x3", gated=12),
    "densenet": Family(nets.DenseNet, gated=5),
    "unet": Family(pixel_nets.UNet, gated=5, norms=5),
    "retinanet": Family(pixel_nets.RetinaNet, (3, 64, 64), gated=7, norms=3),
    "retinanet-untraceable": Family(lambda: pixel_nets.RetinaNet(checks=True), (3, 64, 64), gated=7, norms=3),
    "yolo": Family(pixel_nets.Yolo, (3, 64, 64), gated=6, norms=6),
    "mobilenet": Family(nets.MobileNetV2, where="pointwise", gated=6, norms=6),
}


def settled(name: str) -> nn.Module:
    return nets.settle(FAMILIES[name].build(), *FAMILIES[name].shape)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["kxk", "1x1", "grid"])
@pytest.mark.parametrize("name", FAMILIES)
def test_open_gates_keep_the_outputs(name: str, gate: str) -> None:
    family, dense = FAMILIES[name], settled(name)
    options = {"gate_size": 4} if gate == "grid" else {}
    converted = lccl.nn.convert(dense, gate, family.where, **options)
    x = torch.randn(2, *family.shape)
    with torch.no_grad():
        expected, got = dense(x), converted(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    layers = [m for m in converted.modules() if isinstance(m, LCCLConv2d)]
    assert {m.gate_kind for m in layers} == {gate}
    assert (len(layers), sum(isinstance(m.norm, nn.BatchNorm2d) for m in layers)) == (family.gated, family.norms)
    assert not any(isinstance(m, LCCLConv2d) for m in dense.modules()), "the dense network stays as it is"


@pytest.mark.parametrize("name", FAMILIES)
def test_untouched_layers_keep_their_keys(name: str) -> None:
    dense = settled(name)
    converted = lccl.nn.convert(dense, where=FAMILIES[name].where)
    entries = recipe(converted)
    moved = {f"{e['conv']}.": f"{e['conv']}.conv." for e in entries}
    moved |= {f"{e['norm']}.": f"{e['conv']}.norm." for e in entries if e["norm"]}
    before, after = dense.state_dict(), converted.state_dict()
    for key, tensor in before.items():
        new = next((key.replace(old, to, 1) for old, to in moved.items() if key.startswith(old)), key)
        assert torch.equal(after[new], tensor), key
    assert {k.partition(".gate.")[0] for k in after if ".gate." in k} == {e["conv"] for e in entries}
    assert len([k for k in after if ".gate." not in k]) == len(before)


@pytest.mark.slow
def test_a_resnet_18_at_its_true_size() -> None:
    dense = nets.settle(nets.resnet18(), 3, 64, 64, passes=1)
    x = torch.randn(1, 3, 224, 224)
    plan = lccl.nn.convert(dense, dry_run=True, args=x)
    assert plan.network_macs == 1_814_073_344 - 990 * 512  # with 10 classes in place of 1,000
    converted = lccl.nn.convert(dense, args=x, inplace=True)
    assert converted is dense
    assert [layer.name for layer in plan.gated] == [f"layer{i}.{j}.conv1" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert [n for n, m in converted.named_modules() if isinstance(m, LCCLConv2d)] == [layer.name for layer in plan.gated]


@pytest.mark.parametrize("order", ["paper", "released"])
@pytest.mark.parametrize("activation", GATE_CURVES)
def test_training_mode_starts_from_the_dense_network_too(order: str, activation: str) -> None:
    """Norms see the same batches and collect the same statistics."""
    dense = nets.settle(nets.resnet18(4), 3, 32, 32).train()
    converted = lccl.nn.convert(dense, order=order, gate_activation=activation)
    assert all(m.training for m in converted.modules())
    x = torch.randn(8, 3, 32, 32)
    torch.testing.assert_close(converted(x), dense(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(converted.layer3[0].conv1.norm.running_var, dense.layer3[0].bn1.running_var)


@pytest.mark.parametrize("options", [{}, {"gate_norm": False}, {"gate_activation": "hardtanh"}, {"gate_activation": "binary"}])
def test_every_gate_can_learn(options: dict[str, object]) -> None:
    """After one step every parameter of a gate has a gradient."""
    torch.manual_seed(0)
    converted = lccl.nn.convert(nets.settle(nets.resnet18(4), 3, 32, 32), **options).train()
    optimizer = torch.optim.SGD(converted.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        converted(torch.randn(8, 3, 32, 32)).square().mean().backward()
        optimizer.step()
    gates = [(n, p) for n, p in converted.named_parameters() if ".gate." in n]
    assert [n for n, p in gates if not p.grad.abs().sum() > 0] == []


@pytest.mark.slow
def test_the_density_loss_closes_open_gates() -> None:
    from lccl.train import DensityLoss

    torch.manual_seed(0)
    converted = lccl.nn.convert(nets.settle(nets.resnet18(4), 3, 32, 32)).train()
    loss = DensityLoss(converted, 0.3)
    optimizer = torch.optim.SGD(converted.parameters(), 0.1, momentum=0.9)
    x, labels = torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))
    for _ in range(40):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(converted(x), labels) + 2 * loss()).backward()
        optimizer.step()
    loss.close()
    density = lccl.profile(converted, [x]).density
    assert density is not None
    assert density < 0.9


EXPORTED = ("resnet34", "resnet50", "unet", "mobilenet", "yolo", "wrn-paper")
"""A quick run leaves out the first: a network of such blocks is among the real classes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", share(EXPORTED, EXPORTED[1:]))
def test_converted_networks_export(name: str, tmp_path: Path) -> None:
    """The export compares its file with PyTorch, at gates that are partly closed."""
    family = FAMILIES[name]
    order = "released" if name.startswith("wrn") else "paper"
    converted = lccl.nn.convert(settled(name), where=family.where, order=order)
    for layer in (m for m in converted.modules() if isinstance(m, LCCLConv2d)):
        nn.init.ones_(layer.gate.norm.weight)
        nn.init.constant_(layer.gate.norm.bias, 0.1)
    nets.settle(converted, *family.shape)
    result = lccl.export(converted, torch.randn(1, *family.shape), tmp_path / "model.onnx")
    assert result.gated == family.gated
    profile = lccl.profile(tmp_path / "model.onnx", [torch.randn(2, *family.shape).numpy()])
    assert profile.density is not None
    assert 0 < profile.density < 1


def test_the_norm_moves_only_where_nothing_else_reads() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
            self.shared, self.own, self.last = (nn.BatchNorm2d(4) for _ in range(3))
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            a, b, c = self.a(x), self.b(x), self.c(x)
            y = self.shared(a) + self.shared(b) + self.own(c) + c.relu()
            return self.fc(self.last(y).mean((2, 3)))

    dense = nets.settle(Odd(), 4, 8, 8)
    plan = lccl.nn.convert(dense, where=["a", "b", "c"], dry_run=True)
    assert [layer.conv.norm for layer in plan.gated] == [None, None, None]
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(lccl.nn.convert(dense, where=["a", "b", "c"])(x), dense(x))


def test_a_norm_that_two_parts_share_stays_even_where_each_part_is_traced_alone() -> None:
    class Checked(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.abs().max() > 1e6:
                raise ValueError("bad input")
            return super().forward(x)

    norm = nn.BatchNorm2d(4)
    parts = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), norm, nn.ReLU()) for _ in range(2)]
    dense = nets.settle(Checked(nn.Conv2d(3, 4, 1), *parts), 3, 8, 8)
    converted = lccl.nn.convert(dense, where="all-3x3")
    assert [entry["norm"] for entry in recipe(converted)] == [None, None]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(x), dense(x))


def test_a_norm_with_an_activation_in_it_stays() -> None:
    """timm's BatchNormAct2d would lose its activation if it were folded as a plain norm."""

    class BatchNormAct2d(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    dense = nets.settle(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 2, 1)), 3, 8, 8)
    converted = lccl.nn.convert(dense)
    assert type(converted[2]) is BatchNormAct2d
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(x), dense(x))


def test_examples_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.fc = nn.Linear(3, 2)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.fc(self.c(self.a(left) + self.b(right)).mean((2, 3)))}

    left, right = torch.randn(2, 1, 3, 8, 8).unbind()
    plans = [lccl.nn.convert(Two(), dry_run=True, args=e) for e in ([left, right], {"right": right, "left": left})]
    assert [p.network_macs for p in plans] == [3 * 81 * 64 + 6] * 2
    assert [layer.name for layer in plans[0].gated] == ["c"]
    assert type(lccl.nn.convert(Two(), args=[left, right]).c) is LCCLConv2d


@pytest.mark.parametrize("example", [(2, 3, 8, 8), torch.Size([2, 3, 8, 8]), np.zeros((2, 3, 8, 8)), [torch.zeros(2, 3, 8, 8)]])
def test_an_example_may_be_a_shape_or_an_array(example: Any) -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)).double()
    if isinstance(example, list):
        dense.float()
    plan = lccl.nn.convert(dense, args=example, dry_run=True)
    assert plan.network_macs == 64 * 12 + 36 * 144 + 36 * 8


def test_an_example_of_random_and_masked_outputs() -> None:
    """Two runs draw the same numbers, and equal infinities do not count as a difference."""

    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc(nn.functional.dropout(self.conv(self.stem(x)).mean((2, 3))))  # in eval mode too
            return torch.cat([y, torch.full_like(y, -torch.inf)])

    state = torch.get_rng_state()
    lccl.nn.convert(Random(), where=["conv"], args=(2, 3, 8, 8), dry_run=True)
    torch.set_rng_state(state)
    assert isinstance(lccl.nn.convert(Random(), where=["conv"], args=(2, 3, 8, 8)).conv, LCCLConv2d)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_check_goes_by_the_type(dtype: torch.dtype) -> None:
    dense = nets.settle(nets.resnet50(4), 3, 32, 32).to(dtype)
    converted = lccl.nn.convert(dense, where="all-3x3", args=(2, 3, 32, 32))
    assert {p.dtype for p in converted.parameters()} == {dtype}


def test_a_wrong_use_is_found_in_bfloat16_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn(self.conv(self.stem(x)))
            return self.fc(y.mean((2, 3)) * (1.1 if type(self.bn) is nn.BatchNorm2d else 1.0))

    with pytest.raises(UserError, match="outputs differ from the dense network's by"):
        lccl.nn.convert(nets.settle(Net(), 3, 8, 8).bfloat16(), where=["conv"], args=(2, 3, 8, 8))


@pytest.mark.slow
def test_a_float64_network_is_refused_by_the_export(tmp_path: Path) -> None:
    converted = lccl.nn.convert(nets.resnet18(4).double())
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(UserError, match=r"the op has no float64: export the model in float32, after model\.float\(\)"):
        lccl.export(converted, x.double(), tmp_path / "m.onnx")
    assert lccl.export(converted.float(), x, tmp_path / "m.onnx").gated == 8


def test_shared_and_aliased_convolutions() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    dense = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv, nn.ReLU()), nn.BatchNorm2d(4))
    converted = lccl.nn.convert(dense.eval(), where=["1.0"])
    assert isinstance(converted[1][0], LCCLConv2d)
    assert converted[1][0] is converted[2][0]
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(converted(x), dense(x))


def test_weights_types_and_flags_are_the_dense_ones() -> None:
    dense = nets.resnet18(4).double()
    dense.layer1[0].conv1.weight.requires_grad_(False)
    weight = dense.layer1[0].conv1.weight
    layer = lccl.nn.convert(dense, inplace=True).layer1[0].conv1
    assert layer.conv.weight is weight
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert isinstance(dense.layer1[0].bn1, nn.Identity)


def test_a_forward_that_looks_inside_is_found_and_undone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn(self.conv(self.stem(x)))
            scale = 1.0 if isinstance(self.bn, nn.BatchNorm2d) else 3.0
            return self.fc(scale * y.mean((2, 3)))

    dense = nets.settle(Scaled(), 3, 8, 8)
    x = torch.randn(1, 3, 8, 8)
    before = dense(x)
    with pytest.raises(
        UserError, match=r"outputs differ from the dense network's by .* give where as a list of those to convert"
    ):
        lccl.nn.convert(dense, args=x, inplace=True)
    assert type(dense.conv) is nn.Conv2d
    torch.testing.assert_close(dense(x), before, rtol=0, atol=0)


def test_the_old_keyword_of_example_inputs_works_and_warns() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    with pytest.warns(FutureWarning, match="^example= is now args=; the old spelling goes away in"):
        plan = lccl.nn.convert(dense, where=["2"], example=(1, 3, 8, 8), dry_run=True)
    assert plan.as_dict() == lccl.nn.convert(dense, where=["2"], args=(1, 3, 8, 8), dry_run=True).as_dict()
