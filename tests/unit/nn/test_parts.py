"""Parts of a layer that run more at a call than their own class: today's values, in every form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import lccl
from lccl.errors import UserError
from lccl.nn import FoldedLCCLConv2d, LCCLConv2d, fold
from lccl.nn.gate import Gate
from lccl.nn.plain import plain_maths
from support.networks.merging import Merging


def scaled(conv: nn.Conv2d) -> nn.Conv2d:
    """Compute the weight in a hook of one's own."""
    weight = conv.weight
    del conv._parameters["weight"]
    conv.raw = nn.Parameter(weight.detach())
    conv.weight = weight.detach()

    def compute(module: Any, _args: Any) -> None:
        module.weight = module.raw / module.raw.norm()

    conv.register_forward_pre_hook(compute)
    return conv


KNOWN: dict[str, Callable[[nn.Conv2d], object]] = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "pruned": lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    "pruned twice, bias too": lambda conv: (
        prune.random_unstructured(conv, "weight", 0.2),
        prune.ln_structured(conv, "weight", 0.3, n=2, dim=1),
        conv.bias is not None and prune.l1_unstructured(conv, "bias", 0.5),
    ),
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
}
COMPUTED = {**KNOWN, "a hook of one's own": scaled}
PARTS = ["conv", "gate.conv"]


def trained(compute: Callable[[nn.Conv2d], object], part: str, **options: Any) -> tuple[LCCLConv2d, Tensor]:
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 6, 3, padding=1, bias=True, **options)
    compute(layer.get_submodule(part))
    x = torch.randn(4, 3, 9, 8)
    train_a_step(layer, x)
    return layer, x


def train_a_step(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(x).square().mean().backward()
    optimizer.step()
    model.eval()


def changed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        name: value * (1 + torch.rand_like(value) / 2) if value.is_floating_point() and not name.endswith("mask") else value
        for name, value in state.items()
    }


@torch.no_grad()
def called(model: nn.Module, x: Tensor) -> Tensor:
    """Run PyTorch's own layers, which call what computes the weights."""
    with plain_maths(model, "as built"):
        return model(x)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", COMPUTED)
def test_eval_mode_has_todays_weight(name: str, part: str) -> None:
    layer, x = trained(COMPUTED[name], part)
    y = layer(x)
    assert y.requires_grad
    torch.testing.assert_close(y, called(layer, x), rtol=1e-4, atol=1e-5)
    layer.load_state_dict(changed(layer.state_dict()))
    y = layer(x).detach()
    torch.testing.assert_close(y, called(layer, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", COMPUTED)
def test_folding_has_todays_weight(name: str, part: str) -> None:
    """A fold straight after a step, whose weight has a history, and after new weights were loaded."""
    layer, x = trained(COMPUTED[name], part, gate="grid", gate_size=2)
    model = nn.Sequential(layer)
    folded = fold(model)
    torch.testing.assert_close(folded(x), called(model, x), rtol=1e-4, atol=1e-5)
    model.load_state_dict(changed(model.state_dict()))
    before = {key: value.clone() for key, value in model.train().state_dict().items()}
    folded = fold(model)
    assert isinstance(folded[0], FoldedLCCLConv2d) == (name in KNOWN)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    y = folded(x).detach()
    torch.testing.assert_close(y, called(model.eval(), x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_gradients_reach_what_a_weight_is_computed_from(name: str) -> None:
    layer, x = trained(KNOWN[name], "conv")
    computed = [parameter for key, parameter in layer.named_parameters() if key.startswith("conv.")]
    grads = [torch.autograd.grad(layer(x).square().sum(), computed)]
    with plain_maths(layer, "as built"):
        grads.append(torch.autograd.grad(layer(x).square().sum(), computed))
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)


def test_the_weight_that_a_layer_shows_is_todays() -> None:
    layer, x = trained(weight_norm, "conv")
    stale = layer.conv.weight.detach()
    layer.load_state_dict(changed(layer.state_dict()))
    assert not torch.equal(layer.weight, stale)
    called(layer, x)
    torch.testing.assert_close(layer.weight, layer.conv.weight)


def test_folding_takes_no_step_of_spectral_norm() -> None:
    layer, _ = trained(spectral_norm, "conv")
    before = layer.conv.weight_u.clone()
    layer.train().fold()
    assert torch.equal(layer.conv.weight_u, before)
    assert all(module.training for module in layer.modules())


def test_a_pruned_norm() -> None:
    layer, x = trained(weight_norm, "gate.conv")
    prune.l1_unstructured(layer.norm, "weight", 0.5)
    layer.load_state_dict(changed(layer.state_dict()))
    y = layer(x).detach()
    torch.testing.assert_close(y, called(layer, x), rtol=1e-4, atol=1e-5)


class Standardised(nn.Conv2d):
    """Weight standardisation, as in code of many networks."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Adapted(nn.Module):
    """A convolution and a branch beside it, with the convolution's weight under its own name."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.base = conv
        self.beside = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.beside(x)


class Shifted(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 0.3


def standardise(layer: LCCLConv2d) -> None:
    layer.conv = Standardised(3, 6, 3)


def adapt(layer: LCCLConv2d) -> None:
    layer.conv = Adapted(layer.conv)


def shift(layer: LCCLConv2d) -> None:
    layer.gate = Shifted(3, (3, 3), (1, 1), (1, 1, 1, 1))


def offload(layer: LCCLConv2d) -> None:
    """Put a forward of its own on one convolution, as packages that offload weights do."""
    own = layer.conv.forward
    layer.conv.forward = lambda x: 2 * own(x)


OWN_CODE: dict[str, Callable[[LCCLConv2d], object]] = {
    "a class's forward": standardise,
    "a wrapper": adapt,
    "a gate's forward": shift,
    "one convolution's forward": offload,
    "a hook on the input": lambda layer: layer.conv.register_forward_pre_hook(lambda _, args: (args[0].abs(),)),
    "a hook on the output": lambda layer: layer.conv.register_forward_hook(lambda _, args, y: y.round()),
    "a hook on the logits": lambda layer: layer.gate.register_forward_hook(lambda _, args, logits: logits + 0.5),
    "a hook on the norm": lambda layer: layer.norm.register_forward_hook(lambda _, args, y: y * 2),
}


@pytest.mark.parametrize("name", OWN_CODE)
def test_code_of_its_own_runs_in_eval_mode(name: str) -> None:
    torch.manual_seed(0)
    layer, x = LCCLConv2d(3, 6, 3, padding=1), torch.randn(2, 3, 7, 7)
    OWN_CODE[name](layer)
    train_a_step(layer, x)
    y = layer(x).detach()
    torch.testing.assert_close(y, called(layer, x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fold(nn.Sequential(layer))(x).detach(), y)
    with pytest.raises(UserError, match=r"cannot be folded, because its (conv|norm|gate)"):
        layer.fold()


@pytest.mark.parametrize("name", ["a wrapper", "a hook on the logits", "a hook on the norm"])
def test_the_profile_of_a_layer_with_code_of_its_own(name: str) -> None:
    torch.manual_seed(0)
    layer, x = LCCLConv2d(3, 6, 3, padding=1), torch.randn(2, 3, 7, 7)
    train_a_step(layer, x)
    plain = lccl.profile(layer, [x]).layers[0]
    OWN_CODE[name](layer)
    profile = lccl.profile(layer, [x]).layers[0]
    assert (profile.dense_macs, profile.gate_macs) == (plain.dense_macs, plain.gate_macs)
    with torch.no_grad():
        assert profile.density == pytest.approx(float((layer.gate(x) > 0).float().mean()))
    assert (profile.density == plain.density) == (name != "a hook on the logits")


def test_a_gate_threshold_holds_where_the_parts_are_called() -> None:
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 6, 3, padding=1, gate_threshold=0.4).eval()
    x = torch.randn(2, 3, 7, 7)
    y = layer(x)
    layer.conv.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(layer(x), y, rtol=1e-5, atol=1e-6)


def test_hooks_on_a_layer_stay_when_it_is_folded() -> None:
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 6, 3, padding=1).eval()
    x = torch.randn(2, 3, 7, 7)
    layer.register_forward_hook(lambda _, args, y: y + 1)
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    torch.testing.assert_close(fold(nn.Sequential(layer))(x), layer(x))


class Computing(nn.Module):
    """A network that computes a layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LCCLConv2d(3, 6, 3, padding=1)
        weight = self.layer.conv.weight
        del self.layer.conv._parameters["weight"]
        self.raw = nn.Parameter(weight.detach())
        self.layer.conv.weight = weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        self.layer.conv.weight = self.raw * self.raw.abs()
        return self.layer(x)


def test_a_weight_that_the_network_computes() -> None:
    torch.manual_seed(0)
    model, x = Computing().eval(), torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(fold(model)(x), called(model, x), rtol=1e-5, atol=1e-6)


def test_norms_in_training_mode_take_the_batchs_statistics() -> None:
    """As in adaptation to new data: the network in eval mode, its norms in training mode."""
    torch.manual_seed(0)
    layer, x = LCCLConv2d(3, 6, 3, padding=1, gate="1x1"), torch.randn(2, 3, 7, 7) + 3
    expected = copy.deepcopy(layer).train()(x)
    layer.eval()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    torch.testing.assert_close(layer(x), expected)


def test_folding_leaves_merged_weights_of_the_original_alone() -> None:
    model = nn.Sequential(Merging(3, 3, 1), LCCLConv2d(3, 4, 3)).train()
    before = model[0].weight.detach().clone()
    folded = fold(model)
    assert torch.equal(model[0].weight, before)
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-5, atol=1e-6)


class Whole(nn.Module):
    """A network with computed weights in gated and in dense layers."""

    def __init__(self, compute: Callable[[nn.Conv2d], object]) -> None:
        super().__init__()
        self.stem, self.gated = nn.Conv2d(3, 4, 3), LCCLConv2d(4, 5, 3, padding=1, gate="1x1")
        compute(self.stem)
        compute(self.gated.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.gated(self.stem(x).relu())


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_exports_have_todays_weight(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Whole(COMPUTED[name]), torch.randn(2, 3, 10, 10)
    train_a_step(model, x)
    model.load_state_dict(changed(model.state_dict()))
    result = lccl.export(model, x, tmp_path / "model.onnx")
    assert sum(layer.gated for layer in result.layers) == 1
    session = lccl.ort.session(tmp_path / "model.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), called(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_layer_with_a_density_loss_on_it() -> None:
    """Its hook changes nothing in eval mode, so the layer is folded."""
    torch.manual_seed(0)
    layer, x = LCCLConv2d(3, 6, 3, padding=1), torch.randn(2, 3, 7, 7)
    loss = lccl.train.DensityLoss(layer, target=0.3)
    (layer(x).square().mean() + loss()).backward()
    assert not layer.eval().calls_parts()
    assert isinstance(fold(nn.Sequential(layer))[0], FoldedLCCLConv2d)
    y = layer(x).detach()
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x).detach(), y)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_compiled_and_exported_programs_have_todays_weight(name: str) -> None:
    layer, x = trained(COMPUTED[name], "conv")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(x)
    layer.load_state_dict(changed(layer.state_dict()))
    y = compiled(x).detach()
    torch.testing.assert_close(y, called(layer, x), rtol=1e-4, atol=1e-5)
    program = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(program(x).detach(), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", COMPUTED)
def test_convert_of_a_trained_network_with_computed_weights(name: str) -> None:
    """Such convolutions stay dense; the copy is one of today's values."""
    torch.manual_seed(0)
    computed = nn.Conv2d(6, 6, 3, padding=1)
    dense = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), computed, nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
    dense.append(nn.Conv2d(6, 2, 1))
    COMPUTED[name](computed)
    x = torch.randn(2, 3, 8, 8)
    train_a_step(dense, x)
    dense.load_state_dict(changed(dense.state_dict()))
    plan = lccl.nn.convert(dense, where="all-3x3", args=x, dry_run=True)
    assert {layer.name: layer.gated for layer in plan.layers}["2"] is False
    gated = lccl.nn.convert(dense, where=["4"], args=x)
    torch.testing.assert_close(gated(x), dense(x), rtol=1e-4, atol=1e-5)
    dense.load_state_dict(changed(dense.state_dict()))
    gated[2].load_state_dict(dense[2].state_dict())
    torch.testing.assert_close(gated[2](dense[:2](x)), dense[2](dense[:2](x)))


def test_convert_leaves_a_convolution_whose_weight_is_set_from_outside() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
            self.raw = nn.Parameter(torch.randn(4, 4, 3, 3))
            del self.b._parameters["weight"]
            self.b.weight = self.raw.detach()
            self.register_forward_pre_hook(lambda module, _: setattr(module.b, "weight", module.raw * 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x)))

    dense, x = Network().eval(), torch.randn(1, 3, 9, 9)
    dense(x)
    dense.b.weight = dense.b.weight.detach()
    plan = lccl.nn.convert(dense, where="all-3x3", dry_run=True)
    assert {layer.name: layer.conv.refusal for layer in plan.layers}["b"] == "other code computes its weight or bias"
    gated = lccl.nn.convert(dense, where=["c"], args=x)
    torch.testing.assert_close(gated(x), dense(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_layer_with_a_hook_beside_a_plain_one_is_exported(tmp_path: Path) -> None:
    """The gates of the one cannot be opened in the file, so neither are those of the other."""
    torch.manual_seed(0)
    network = nn.Sequential(LCCLConv2d(3, 6, 3, padding=1), LCCLConv2d(6, 6, 3, padding=1)).eval()
    network[0].conv.register_forward_hook(lambda *_: None)
    result = lccl.export(network, torch.randn(1, 3, 8, 8), tmp_path / "m.onnx")
    assert result.gated >= 1
    assert result.checked.max_error < 1e-4


def doubled(_conv: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.conv2d(x, 2 * weight, bias)


@pytest.mark.parametrize("name", ["_conv_forward", "activate", "_normalize", "every module"])
def test_code_that_was_put_on_an_instance_runs_in_eval_mode(name: str) -> None:
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 4, 3, padding=1, gate="1x1").eval()
    x = torch.randn(1, 3, 6, 6)
    assert layer.gate is not None
    handle = None
    if name == "_conv_forward":
        layer.conv._conv_forward = MethodType(doubled, layer.conv)  # type: ignore[method-assign]
    elif name == "activate":
        layer.gate.activate = lambda logits: logits.sigmoid()  # type: ignore[method-assign]
    elif name == "_normalize":
        layer.gate._normalize = lambda logits: logits + 2  # type: ignore[method-assign]
    else:
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, _, output: 2 * output if isinstance(module, nn.Conv2d) else None
        )
    try:
        got = layer(x)
        with plain_maths(layer, "as built"):
            want = layer(x)
    finally:
        if handle is not None:
            handle.remove()
    assert torch.equal(got, want)
    assert not torch.allclose(got, LCCLConv2d.forward(copy_of(layer), x))


def copy_of(layer: LCCLConv2d) -> LCCLConv2d:
    """A layer of the same weights with nothing put on it."""
    fresh = LCCLConv2d(3, 4, 3, padding=1, gate="1x1").eval()
    fresh.load_state_dict(layer.state_dict())
    return fresh
