"""The choices of each policy, the table of a dry run, and refused arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lccl
import support.networks.dense as nets
import support.networks.dense_pixels as pixel_nets
from lccl.errors import UserError
from lccl.nn import ConvInfo, LCCLConv2d

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:.*cannot be traced"),
]


def gated(model: nn.Module, where: Any = "first-of-block", **options: Any) -> list[str]:
    return [layer.name for layer in lccl.nn.convert(model, where=where, dry_run=True, **options).gated]


def whys(model: nn.Module, where: Any = "first-of-block", **options: Any) -> dict[str, str]:
    return {layer.name: layer.choice.why for layer in lccl.nn.convert(model, where=where, dry_run=True, **options).layers}


def blocks(*convs: str) -> list[str]:
    """Of the two-block stages of a ResNet-18."""
    return [f"layer{i}.{j}.{conv}" for i in (1, 2, 3, 4) for j in (0, 1) for conv in convs]


@pytest.mark.slow
def test_policies_on_basic_blocks() -> None:
    model = nets.resnet18(4)
    assert gated(model) == blocks("conv1")
    assert gated(model, "all-3x3") == gated(model, "paper") == blocks("conv1", "conv2")
    assert gated(model, "min-channels:16") == [n for n in blocks("conv1", "conv2") if n[5] in "34" and n != "layer3.0.conv1"]
    assert gated(model, "regex:layer[34]\\..*conv2") == [n for n in blocks("conv2") if n[5] in "34"]
    assert gated(model, ["layer4.1.conv2", "conv1"]) == ["conv1", "layer4.1.conv2"]
    assert gated(model, lambda conv: conv.stride == (2, 2) and conv.spatial) == ["conv1"] + [
        f"layer{i}.0.conv1" for i in (2, 3, 4)
    ]
    told = whys(model)
    assert (told["conv1"], told["layer2.0.downsample.0"]) == ("the stem", "a shortcut")
    assert told["layer1.0.conv2"] == "layer1.0.conv1 comes first in its block"


@pytest.mark.slow
def test_policies_on_bottlenecks() -> None:
    model = nets.resnet50(4)
    names = [f"layer{i + 1}.{j}" for i, number in enumerate((3, 4, 6, 3)) for j in range(number)]
    assert gated(model) == gated(model, "all-3x3") == [f"{name}.conv2" for name in names]
    assert gated(model, "paper") == [f"{name}.{conv}" for name in names for conv in ("conv2", "conv3")]
    assert whys(model, "paper")["layer1.0.conv1"] == "the first 1x1 of layer1.0"


def test_policies_on_pre_activation_blocks() -> None:
    model = nets.WideResNet(10, 2, base=4)
    names = [f"block{i}.layer.0" for i in (1, 2, 3)]
    assert gated(model) == [f"{name}.conv1" for name in names]
    assert gated(model, "paper") == [f"{name}.{conv}" for name in names for conv in ("conv1", "conv2")]
    assert whys(model)["block1.layer.0.convShortcut"] == "a shortcut"


def test_a_vgg_has_a_block_per_resolution() -> None:
    """The first convolution of its first block is the stem, so the second one is gated."""
    assert gated(nets.VGG(width=4)) == [f"features.{i}" for i in (3, 7, 14, 24, 34)]
    assert len(gated(nets.VGG(width=4), "all-3x3")) == 12


def test_a_plain_sequence_has_a_block_per_resolution() -> None:
    widths = ((3, 8, 1), (8, 8, 1), (8, 8, 2), (8, 8, 1), (8, 8, 2), (8, 8, 1))
    layers = [nn.Sequential(nn.Conv2d(c, k, 3, stride, 1), nn.ReLU()) for c, k, stride in widths]
    assert gated(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2))) == ["1.0", "2.0", "4.0"]


def test_convolutions_beside_blocks_are_blocks_of_their_own() -> None:
    block = [nets.BasicBlock(8, 8, 1, None) for _ in range(2)]
    layers = [nets.conv3x3(3, 8), block[0], nets.conv3x3(8, 8), block[1], nets.conv3x3(8, 8), nn.Flatten(), nn.LazyLinear(2)]
    assert gated(nn.Sequential(*layers)) == ["1.conv1", "2", "3.conv1", "4"]


def test_other_families() -> None:
    layers = [("1", 2), ("2", 3)]
    dense_layers = [f"features.denseblock{b}.denselayer{i + 1}.conv2" for b, n in layers for i in range(n)]
    assert gated(nets.DenseNet()) == gated(nets.DenseNet(), "paper") == dense_layers
    parts = ("down1.maxpool_conv.1", "down2.maxpool_conv.1", "up1.conv", "up2.conv")
    firsts = ["inc.double_conv.3"] + [f"{part}.double_conv.0" for part in parts]
    assert gated(pixel_nets.UNet()) == firsts
    assert whys(pixel_nets.UNet(out_kernel=3), "all-3x3")["outc.conv"] == "an output layer"
    assert gated(nets.MobileNetV2(), "pointwise")[:2] == ["features.1.conv.1", "features.2.conv.0.0"]
    assert whys(nets.MobileNetV2())["features.2.conv.1.0"] == "depthwise"


class SqueezeExcite(nn.Module):
    """timm's, as in a MobileNet-V3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.conv_reduce(x.mean((2, 3), keepdim=True)).relu()
        return x * self.conv_expand(squeezed).sigmoid()


def test_squeeze_and_excitation_is_left_alone() -> None:
    block = nets.InvertedResidual(8, 8, 1, 2)
    block.conv.insert(2, SqueezeExcite(16))
    model = nn.Sequential(nets.ConvBNReLU(3, 8, 3, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    assert gated(model, "pointwise") == ["1.conv.0.0", "1.conv.3"]
    names = ["1.conv.2.conv_reduce", "1.conv.2.conv_expand"]
    assert {whys(model, "pointwise")[name] for name in names} == {"its output is one pixel"}
    assert not {*gated(model, "min-channels:1")} & {*names}
    with pytest.MonkeyPatch.context() as patch:  # tracing fails, so that the pooling is not seen
        patch.setattr(SqueezeExcite, "forward", lambda _se, x: x if bool(x.sum() > 0) else -x)
        assert whys(model, "pointwise")[names[0]].endswith("as squeeze-and-excitation")
    example = torch.randn(2, 3, 8, 8)
    assert gated(model, "min-macs:1", args=example) == ["1.conv.0.0", "1.conv.3"]
    assert whys(model, "min-macs:1", args=example)["1.conv.2.conv_expand"] == "its output is one pixel"


RETINANET = [f"body.layer{i}.0.conv1" for i in (1, 2, 3)] + [f"fpn.layer_blocks.{i}.0" for i in (2, 1, 0)] + ["head.conv.0.0"]


@pytest.mark.slow
@pytest.mark.parametrize("checks", [False, True])
def test_a_pyramid_with_a_head(checks: bool) -> None:
    """A network that cannot be traced as a whole has the same layers gated, with a warning."""
    model = pixel_nets.RetinaNet(checks=checks)
    plan = lccl.nn.convert(model, dry_run=True)
    assert sorted(layer.name for layer in plan.gated) == sorted(RETINANET)
    assert whys(model)["head.cls_logits"] == "an output layer"
    assert bool(plan.notes) is checks
    if checks:
        with pytest.warns(UserWarning, match=r"the network \(RetinaNet\) cannot be traced"):
            lccl.nn.convert(model)
        assert "the network (RetinaNet) cannot be traced (symbolically traced variables" in str(plan)


def test_a_yolo_neck() -> None:
    """Strided convolutions between blocks are blocks of their own; chunked tensors are followed."""
    plan = lccl.nn.convert(pixel_nets.Yolo(), dry_run=True)
    bottlenecks = ["model.2.m.0.cv1.conv", "model.4.m.0.cv1.conv", "model.4.m.1.cv1.conv", "model.7.m.0.cv1.conv"]
    assert [layer.name for layer in plan.gated] == sorted(["model.1.conv", "model.3.conv", *bottlenecks])
    assert plan.notes == ()
    assert plan.layers[-1].choice.why == "an output layer"


def test_the_table_counts_macs_and_savings() -> None:
    model = nets.resnet18(4).eval()
    plan = lccl.nn.convert(model, "1x1", dry_run=True, args=torch.randn(2, 3, 32, 32), density=0.25)
    first = plan.gated[0]
    assert (first.conv.macs, first.conv.gate_macs) == (4 * 4 * 9 * 8 * 8, 4 * 8 * 8)
    assert first.saved(0.25) == 0.75 * 9216 - 256
    assert plan.network_macs == lccl.profile(model, [torch.randn(2, 3, 32, 32)]).dense_macs
    saved = sum(layer.saved(0.25) or 0 for layer in plan.gated) / plan.network_macs
    assert plan.saved_network == pytest.approx(saved)
    assert f"{saved:.1%}".replace("%", " %") in str(plan)
    assert "saved at 25%" in str(plan)
    assert json.loads(json.dumps(plan.as_dict()))["layers"][0]["why"] == "the stem"
    assert not any(isinstance(m, LCCLConv2d) for m in model.modules())


def test_macs_decide() -> None:
    example = torch.randn(1, 3, 64, 64)
    plan = lccl.nn.convert(nets.VGG(width=4), where="min-macs:5e5", dry_run=True, args=example)
    assert 0 < len(plan.gated) < 12
    assert all((layer.conv.macs or 0) >= 5e5 for layer in plan.gated)
    with pytest.raises(UserError, match="needs an example"):
        lccl.nn.convert(nets.VGG(width=4), where="min-macs:5e5")


def test_a_function_sees_what_it_needs() -> None:
    seen: list[ConvInfo] = []
    lccl.nn.convert(nets.resnet18(4), where=lambda conv: seen.append(conv) or conv.name.endswith("conv1"), dry_run=True)
    (layer,) = [conv for conv in seen if conv.name == "layer2.0.conv1"]
    assert (layer.block, layer.in_channels, layer.out_channels, layer.kernel, layer.norm) == (
        "layer2.0",
        4,
        8,
        "3x3",
        "layer2.0.bn1",
    )


class Unusual(nn.Module):
    """Convolutions that cannot have a gate."""

    def __init__(self) -> None:
        super().__init__()

        class Standardised(nn.Conv2d):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.standardised = Standardised(8, 8, 3, padding=1)
        self.parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.read = nn.Conv2d(8, 8, 3, padding=1)
        self.unpadded = nn.Conv2d(8, 8, 3)
        self.valid = nn.Conv2d(8, 8, 3, padding="valid")
        self.same = nn.Conv2d(8, 8, 4, padding="same")
        self.unused = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.reflected(self.grouped(self.stem(x)))
        x = self.read(self.parametrized(self.standardised(x))) * self.read.weight.mean()
        return self.fc(self.same(self.valid(self.unpadded(x))).mean((2, 3)))


def test_what_cannot_have_a_gate_says_why() -> None:
    told = whys(Unusual(), "regex:.")
    assert told["grouped"] == "2 groups"
    assert told["reflected"] == "padding_mode 'reflect'"
    assert told["standardised"] == "Standardised has a forward of its own"
    assert told["parametrized"] == "hooks or a parametrization on it"
    assert told["read"] == "code reads its weights"
    assert told["unused"] == "not called in eval mode"
    assert gated(Unusual(), "regex:.") == ["stem", "unpadded", "valid", "same"]
    assert "cannot cover" in whys(Unusual(), "regex:.", gate="1x1")["unpadded"]
    model = Unusual().eval()
    x = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(lccl.nn.convert(model, where="regex:.", args=x)(x), model(x), rtol=0, atol=1e-5)


def test_the_order_is_that_of_eval_mode() -> None:
    """An auxiliary branch that only training calls gets no gate."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.aux, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y = self.conv(x)
            return self.fc(y.mean((2, 3)) + self.aux(x).mean((2, 3)) if self.training else y.mean((2, 3)))

    model = Auxiliary().train()
    assert gated(model, "all-3x3") == ["conv"]
    assert whys(model)["aux"] == "not called in eval mode"
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "first"}, "where takes first-of-block, .*, not 'first'"),
        ({"where": "regex:nothing"}, "matches no convolution; the convolutions have names such as conv1"),
        ({"where": "regex:("}, "is not a regular expression"),
        ({"where": "min-channels:many"}, "needs a number"),
        ({"where": "min-channels:-1"}, 'needs a number from 0 after the colon, as "min-channels:64"'),
        ({"where": "min-channels:nan"}, "needs a number from 0"),
        ({"where": "min-macs:inf"}, "needs a number from 0"),
        ({"where": "min-channels:4096"}, "gates none of the network's 20 convolutions: dry_run=True lists why"),
        ({"where": ["layer1.0.conv3"]}, "not a convolution of the network; did you mean layer1.0.conv"),
        ({"where": ["fc"]}, "'fc', which is not a convolution"),
        ({"where": []}, "where takes"),
        ({"where": 3}, "where takes"),
        ({"where": lambda conv: conv.nothing}, "raised AttributeError"),
        ({"gate": "external"}, 'gate is "1x1", "kxk" or "grid"'),
        ({"gate": "grid"}, "needs gate_size"),
        ({"gate_activation": "sigmoid"}, "gate_activation is one of"),
        ({"order": "mine"}, "order is"),
        ({"density": 2}, "density is the fraction of open pixels"),
        ({"density": "low"}, "density takes a number, not 'low'"),
        ({"gate": "grid", "gate_size": "a"}, "gate_size takes a whole number, not 'a'"),
        ({"example": torch.randn(1, 5, 8, 8)}, "does not run on args"),
        ({"example": 224}, "an example is an input with its batch or the shape of one, .* not an int"),
        ({"example": "x"}, "an example is .* not a str"),
        (
            {"example": (1, 3, 0, 32)},
            r"the shape of an example has numbers above 0, such as \(1, 3, 224, 224\), not \(1, 3, 0, 32\)",
        ),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        lccl.nn.convert(nets.resnet18(4), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(3, 3)), "no nn.Conv2d, so there is nothing to gate$"),
        (torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3))), "no nn.Conv2d.*: convert the module before torch.export"),
        (nn.Conv2d(3, 3, 3), "one convolution"),
        (nn.Sequential(LCCLConv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)), "has gates already"),
        (nn.DataParallel(nn.Sequential(nn.Conv2d(3, 3, 3))), "wrapped in DataParallel"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 8)), "gates none"),
        ("resnet18", "is an nn.Module, not a str"),
    ],
)
def test_networks_that_are_not_dense_ones(model: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lccl.nn.convert(model)


def test_converting_twice() -> None:
    with pytest.raises(UserError, match=r"has gates already \(layer1.0.conv1\): convert the dense network"):
        lccl.nn.convert(lccl.nn.convert(nets.resnet18(4)))


def test_a_name_that_cannot_have_a_gate() -> None:
    with pytest.raises(UserError, match=r"names features.1.conv.0.0, which cannot have a gate: depthwise"):
        lccl.nn.convert(nets.MobileNetV2(), where=["features.1.conv.0.0"])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["first-of-block", "paper"])
@pytest.mark.parametrize(
    "build", [lambda: nets.resnet18(4), lambda: nets.resnet50(4), lambda: nets.VGG(width=4), nets.MobileNetV2, pixel_nets.UNet]
)
def test_a_network_of_fx_has_the_same_blocks(build: Any, where: str) -> None:
    """Blocks are found by the names of modules, since torch.fx keeps no classes."""
    assert gated(torch.fx.symbolic_trace(build().eval()), where) == gated(build(), where)


class SpatialAttention(nn.Module):
    """CBAM's: a convolution to one map, which a sigmoid makes a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * self.attention(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


@pytest.mark.parametrize("where", ["first-of-block", "paper", "min-channels:1"])
def test_a_convolution_to_one_channel_is_left_alone(where: str) -> None:
    """Its gate would need as much work as the convolution."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), SpatialAttention(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert gated(model, where) == ["1.conv"]
    assert whys(model, where)["1.attention"] == "one output channel, so a gate would cost as much as it saves"
    assert gated(model, ["1.attention"]) == ["1.attention"]


class EffectiveSqueezeExcite(nn.Module):
    """timm's, of one convolution, after the pooling that the test asks for."""

    def __init__(self, pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.pool, self.fc = pool, nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * nn.functional.hardsigmoid(self.fc(self.pool(x)))


@pytest.mark.parametrize(
    ("pool", "pixel"),
    [
        (lambda x: x.mean((2, 3), keepdim=True), True),
        (lambda x: nn.functional.adaptive_avg_pool2d(x, (1, 1)), True),
        (nn.AdaptiveMaxPool2d(1), True),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.ReLU()), True),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 3, padding=1)), False),
        (lambda x: nn.functional.interpolate(x.mean((2, 3), keepdim=True), size=8), False),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.UpsamplingNearest2d(8)), False),
        (lambda x: x.mean(1, keepdim=True).relu(), False),
        (lambda x: x.mean((2, 3), True), True),
        (lambda x: x.amax(dim=(-1, -2), keepdim=True), True),
        (nn.AdaptiveAvgPool2d(4), False),
        (nn.Identity(), False),
    ],
)
def test_what_reads_a_mean_of_the_map_gives_one_pixel(pool: Any, pixel: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.se = nn.Conv2d(8, 8, 3, padding=1), EffectiveSqueezeExcite(pool)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.se(self.conv(x))

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert (whys(model, "min-channels:1")["1.se.fc"] == "its output is one pixel") is pixel
    assert not (pixel and "1.se.fc" in gated(model, "paper"))
