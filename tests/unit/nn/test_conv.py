"""LCCLConv2d: its forms, its folding, and the options that it refuses."""

from __future__ import annotations

import copy
import inspect
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lccl.errors import UserError
from lccl.models.resnet import LayerOptions
from lccl.nn import FoldedLCCLConv2d, LCCLConv2d, fold
from lccl.nn.gate import GATE_CURVES, Gate, GateActivation, open_gate
from lccl.nn.plain import plain_maths
from lccl.op.contract import BINARY_SLOPE, FLT_MAX

FORMS: dict[str, dict[str, Any]] = {
    "paper": {"gate": "kxk"},
    "released": {"gate": "1x1", "order": "released"},
    "released-hardtanh": {"gate": "1x1", "order": "released", "gate_activation": "hardtanh"},
    "binary": {"gate": "kxk", "gate_activation": "binary"},
    "grid": {"gate": "grid", "gate_size": 4},
    "grid-kernel": {"gate": "grid", "gate_size": 2, "gate_kernel_size": 3},
    "strided-grid": {"gate": "grid", "gate_size": 2, "stride": 2},
    "dilated": {"gate": "kxk", "dilation": 2, "padding": 2},
    "same": {"gate": "1x1", "padding": "same", "kernel_size": 4},
    "uneven-padding": {"gate": "kxk", "padding": (0, 1, 2, 3)},
    "no-norms": {"gate": "1x1", "norm": False, "gate_norm": False},
    "residual": {"gate": "kxk", "activation": None, "post_activation": "relu"},
    "leaky": {"gate": "kxk", "activation": 0.1, "post_activation": 0.2},
    "external": {"gate": "external"},
    "external-grid": {"gate": "external", "gate_size": 4},
    "external-unpadded": {"gate": "external", "padding": 0, "dilation": 2},
    "rectangular": {"gate": "kxk", "kernel_size": (1, 5), "padding": (0, 2), "stride": (1, 2)},
}


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[LCCLConv2d, dict[str, torch.Tensor]]:
    """Return a layer with trained statistics, and the arguments of a call."""
    torch.manual_seed(0)
    options = {"kernel_size": 3, "padding": 1, **FORMS[name]}
    layer = LCCLConv2d(5, 7, **options)
    x = torch.randn(2, 5, 14, 13)
    arguments = {"x": x}
    if layer.gate is None:
        hw = layer.norm(layer.conv(nn.functional.pad(x, (layer.pads[1], layer.pads[3], layer.pads[0], layer.pads[2])))).shape[
            2:
        ]
        size = [-(-d // layer.gate_size) for d in hw]
        arguments["gate"] = torch.randn(2, 1, *size).relu()
    layer.train()
    for _ in range(3):
        y = layer(**arguments)
    if name == "residual":
        arguments["residual"] = torch.randn_like(y)
    return layer.to(dtype), {k: v.to(dtype) for k, v in arguments.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_the_op_equals_pytorchs_own_layers(name: str) -> None:
    """The op with folded norms computes what PyTorch's own layers do unfolded."""
    layer, arguments = make(name, torch.float64)
    layer.eval()
    with plain_maths(layer, "as built"):
        expected = layer(**arguments)
    got = layer(**arguments)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert got.abs().sum() > 0


@pytest.mark.parametrize("name", FORMS)
def test_folding_keeps_the_outputs_and_the_original(name: str) -> None:
    layer, arguments = make(name)
    model = nn.ModuleDict({"a": layer}).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    copied = fold(model)
    assert isinstance(copied["a"], FoldedLCCLConv2d)
    torch.testing.assert_close(copied["a"](**arguments), layer(**arguments), rtol=0, atol=0)
    assert isinstance(model["a"], LCCLConv2d)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_folding_a_layer_alone_and_a_shared_one() -> None:
    layer, arguments = make("paper")
    alone = fold(layer)
    assert isinstance(alone, FoldedLCCLConv2d)
    shared = fold(nn.ModuleDict({"a": layer, "b": layer}))
    assert shared["a"] is shared["b"]
    torch.testing.assert_close(alone(**arguments), layer.eval()(**arguments))


@pytest.mark.parametrize("name", [n for n in FORMS if not n.startswith("external")])
def test_every_parameter_is_trained(name: str) -> None:
    layer, arguments = make(name)
    layer.train()
    layer(**arguments).square().sum().backward()
    silent = [k for k, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_attributes_of_the_gate_activations() -> None:
    curves = {name: LCCLConv2d(4, 4, 3, padding=1, gate_activation=name).eval().fold()[1] for name in get_args(GateActivation)}
    assert {k: (a.gate_slope, a.gate_max) for k, a in curves.items()} == {
        "relu": (1.0, pytest.approx(FLT_MAX)),
        "hardtanh": (1.0, 1.0),
        "binary": (BINARY_SLOPE, 1.0),
    }


def test_a_networks_options_are_those_of_its_layers() -> None:
    own = get_type_hints(LCCLConv2d.__init__)
    keywords = inspect.unwrap(LCCLConv2d.__init__).__kwdefaults__.keys() - {
        "activation",
        "post_activation",
        "groups",
        "padding_mode",
    }
    assert get_type_hints(LayerOptions) == {name: own[name] for name in keywords}


def test_each_gate_activation_has_its_curve() -> None:
    assert set(get_args(GateActivation)) == set(GATE_CURVES)


@pytest.mark.parametrize("name", GATE_CURVES)
def test_each_curve_is_1_at_logit_1(name: str) -> None:
    """An open gate's logits are 1, and its map has to be 1 with them."""
    curve = GATE_CURVES[name]
    assert min(max(curve.slope, 0), curve.bound) == 1
    gate = Gate(3, (1, 1), (1, 1), (0, 0, 0, 0), activation=name).eval()  # type: ignore[arg-type]
    open_gate(gate)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(gate.activate(gate(x)), torch.ones(2, 1, 4, 4))


def test_the_threshold_is_a_knob_of_deployment() -> None:
    layer, arguments = make("paper")
    layer.eval()
    open_pixels = (layer(**arguments).abs().sum(1) > 0).sum()
    layer.gate_threshold = 0.5
    assert (layer(**arguments).abs().sum(1) > 0).sum() < open_pixels


def test_grid_gate_sees_its_whole_block() -> None:
    """A change anywhere in a block's window of X changes its gate."""
    layer, _ = make("grid")
    layer.eval()
    x = torch.zeros(1, 5, 8, 8)
    base = layer.gate(x)
    for i, j in ((0, 0), (3, 3), (0, 3), (3, 0)):
        changed = x.clone()
        changed[0, :, i, j] = 1
        assert (layer.gate(changed) != base)[0, 0].tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "5x5"}, "gate is"),
        ({"gate": "1x1", "gate_size": 2}, "gate_size = 2 goes with"),
        ({"gate": "grid", "gate_size": 0}, "is at least 1"),
        ({"gate": "grid", "gate_size": "a"}, "gate_size takes a whole number, not 'a'"),
        ({"gate": "grid", "gate_size": 2.0}, "gate_size takes a whole number, not 2.0"),
        ({"gate": "grid", "gate_size": True}, "gate_size takes a whole number, not True"),
        ({"gate": "kxk", "gate_size": None}, "gate_size takes a whole number, not None"),
        ({"gate": "grid", "gate_size": 2, "gate_kernel_size": 0}, "gate_kernel_size takes one whole number above 0 or two"),
        (
            {"gate": "grid", "gate_size": 2, "gate_kernel_size": True},
            "gate_kernel_size takes a whole number, a list of whole numbers or None, not True",
        ),
        ({"gate_norm": 1}, "gate_norm takes True, False or None, not 1"),
        ({"gate_activation": []}, "gate_activation takes a name, not \\[\\]"),
        ({"gate": "kxk", "gate_kernel_size": 5}, 'goes with gate="grid"'),
        ({"gate": "1x1", "padding": 0}, "take the k x k gate"),
        ({"gate_activation": "sigmoid"}, "gate_activation is one of"),
        ({"order": "mine"}, "order is"),
        ({"activation": "gelu"}, "an activation is"),
        ({"padding": "same", "stride": 2}, "needs stride 1"),
        ({"padding": "valid"}, "padding is"),
        ({"padding": (1, 2, 3)}, "padding takes"),
        ({"padding": -1}, "padding takes"),
        ({"kernel_size": (1, 2, 3)}, "kernel_size takes"),
        ({"gate_threshold": -0.5}, "gate_threshold not negative"),
        ({"gate_threshold": float("nan")}, "gate_threshold not negative"),
        ({"activation": float("inf")}, "activation_alpha must be a finite"),
        ({"gate": "external", "stride": 0}, "stride takes one whole number above 0 or two, not 0"),
        ({"stride": 1.5}, "stride takes"),
        ({"dilation": (1, 0)}, r"dilation takes .* not \(1, 0\)"),
        ({"kernel_size": 0}, "kernel_size takes"),
        ({"gate": "grid"}, "needs gate_size"),
        ({"groups": 2}, "groups = 2, .* leave grouped layers as nn.Conv2d"),
        ({"padding_mode": "reflect"}, "padding_mode = 'reflect', .* pad before the layer"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LCCLConv2d(4, 4, **{"kernel_size": 3, "padding": 1, **options})


def test_an_external_gate_must_be_given() -> None:
    layer, arguments = make("external")
    with pytest.raises(UserError, match="needs its map"):
        layer(arguments["x"])


def test_a_norm_without_statistics_cannot_be_folded() -> None:
    layer = LCCLConv2d(4, 4, 3, padding=1)
    layer.norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(UserError, match="running statistics"):
        layer.eval()(torch.zeros(1, 4, 5, 5))


def test_half_precision_decides_gates_in_float32() -> None:
    layer, arguments = make("paper")
    layer.eval()
    wide = layer(**arguments)
    half = layer.half()(arguments["x"].half())
    assert half.dtype == torch.float16
    np.testing.assert_allclose(
        half.detach().float().numpy(), wide.detach().numpy(), atol=2e-2 * float(wide.detach().abs().max())
    )


def test_a_synchronised_norm_is_folded() -> None:
    """Users of DistributedDataParallel convert every BatchNorm to SyncBatchNorm."""
    layer, arguments = make("paper")
    expected = layer.eval()(**arguments)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert isinstance(converted.norm, nn.SyncBatchNorm)
    torch.testing.assert_close(converted(**arguments), expected, rtol=0, atol=0)


def test_another_kind_of_norm_is_refused() -> None:
    layer, arguments = make("paper")
    layer.norm = nn.GroupNorm(1, 7)
    with pytest.raises(UserError, match="GroupNorm cannot be folded"):
        layer.eval()(**arguments)


def test_a_subclass_with_its_own_forward_is_not_folded() -> None:
    class Doubled(LCCLConv2d):
        def forward(self, x, gate=None, residual=None):
            return 2 * super().forward(x, gate, residual)

    layer = Doubled(3, 4, 3, padding=1).eval()
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(fold(nn.Sequential(layer))(x), layer(x))


def test_a_folded_layer_keeps_its_float32_inputs() -> None:
    layer, arguments = make("released")
    folded = fold(layer).half()
    types = {name: buffer.dtype for name, buffer in folded.named_buffers()}
    assert {n for n, t in types.items() if t == torch.float32} == {"B", "gate_B", "post_scale", "post_bias"}
    assert folded(arguments["x"].half()).dtype == torch.float16


def test_groups_1_and_zero_padding_are_accepted() -> None:
    layer = LCCLConv2d(4, 4, 3, groups=1, padding_mode="zeros", gate="grid", gate_size=1, gate_kernel_size=3)
    assert layer.gate is not None


@pytest.mark.parametrize("build", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize(
    ("options", "hw"),
    [
        ({"gate": "grid", "gate_size": 4}, (4, 4)),
        ({"gate": "grid", "gate_size": 8, "order": "released"}, (5, 3)),
        ({"gate": "1x1", "kernel_size": 1, "padding": 0, "norm": False}, (1, 1)),
        ({"gate": "kxk", "norm": False}, (1, 1)),
        ({"gate": "kxk", "padding": 0, "norm": False, "gate_activation": "binary"}, (3, 3)),
    ],
    ids=["grid", "grid-released", "pixel-1x1", "pixel-kxk", "unpadded"],
)
def test_a_gate_of_one_value_takes_its_running_statistics(options: dict[str, Any], hw: Any, build: Any) -> None:
    """One value has no variance. The convolution trains on such a batch, and so does the gate."""
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 6, **{"kernel_size": 3, "padding": 1, **options})
    layer.gate.norm = build(1)
    x = torch.randn(1, 3, *hw)
    layer(torch.randn(4, 3, *hw))
    before = copy.deepcopy(layer.gate.norm.state_dict())
    logits = layer.gate(x)
    assert logits.shape == (1, 1, 1, 1)
    torch.testing.assert_close(copy.deepcopy(layer).eval().gate(x), logits)
    layer(x).square().sum().backward()
    assert all(p.grad is not None for p in layer.gate.parameters())
    after = layer.gate.norm.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "no step of its statistics"
    layer(torch.randn(2, 3, *hw))
    assert not torch.equal(layer.gate.norm.running_mean, before["running_mean"]), "two values have statistics"


def test_a_gate_of_one_value_without_running_statistics() -> None:
    layer = LCCLConv2d(3, 6, 1, gate="1x1", norm=False)
    layer.gate.norm = nn.BatchNorm2d(1, track_running_stats=False)
    with pytest.raises(UserError, match="larger batches, or take gate_norm=False"):
        layer(torch.randn(1, 3, 1, 1))


def test_a_synchronised_gate_of_one_value_waits_for_the_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wait for it in vain otherwise."""
    layer = LCCLConv2d(3, 6, 1, gate="1x1", norm=False)
    layer.gate.norm = nn.SyncBatchNorm(1)
    called = []
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda _, logits: called.append(logits) or logits)
    for size in (1, 2):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda group, size=size: size)
        layer(torch.randn(1, 3, 1, 1))
        assert len(called) == size - 1


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8), ()])
def test_an_input_that_is_no_batch_of_maps(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"X is \[N, C, H, W\], not"):
        LCCLConv2d(3, 4, 3, padding=1).eval()(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_binary_gate_learns_what_it_misses(dtype: torch.dtype) -> None:
    """Where the gate is closed, the gradient says by how much the loss would fall if it opened, behind a ReLU too."""
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 4, 3, padding=1, gate_activation="binary", gate_norm=False, norm=False).to(dtype).train()
    with torch.no_grad():
        layer.gate.conv.weight.zero_()
        layer.gate.conv.bias.fill_(-0.5)
    x = torch.randn(2, 3, 6, 6).to(dtype)
    y = layer(x)
    assert float(y.detach().abs().max()) < 1e-4
    wanted = torch.ones_like(y)
    (F.relu(y) * wanted).sum().backward()
    with torch.no_grad():
        dense = F.relu(layer.conv(F.pad(x, (1, 1, 1, 1))).float())
        slope = 4 * torch.sigmoid(torch.tensor(-2.0)) * torch.sigmoid(torch.tensor(2.0))
        expected = float(slope * dense.sum())
    assert float(layer.gate.conv.bias.grad) == pytest.approx(expected, rel=0.02)
    layer.eval()
    assert not layer(x).any()


def test_a_held_gates_gradient_is_that_of_a_batch_norm() -> None:
    """With running statistics that are the batch's own, freezing them changes neither outputs nor gradients."""
    torch.manual_seed(0)
    gate = Gate(3, (3, 3), (1, 1), (1, 1, 1, 1), activation="binary").train()
    gate.norm.bias.data.fill_(0.3)
    x = torch.randn(4, 3, 8, 8)
    wanted = torch.randn(4, 1, 8, 8)
    found = []
    raw = gate.conv(F.pad(x, (1, 1, 1, 1))).detach()
    gate.norm.running_mean.copy_(raw.mean().view(1))
    gate.norm.running_var.copy_(raw.var(unbiased=False).view(1))
    for frozen, held in ((False, None), (True, (1, ())), (True, None)):
        gate.frozen, gate.held = frozen, held
        gate.norm.momentum = 0.0
        gate.zero_grad()
        logits = gate(x)
        (logits * wanted).sum().backward()
        found.append((logits.detach(), gate.conv.weight.grad.clone(), gate.norm.bias.grad.clone()))
    (y, w, b), (y_held, w_held, b_held), (_, w_plain, _) = found
    torch.testing.assert_close(y_held, y, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(w_held, w, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(b_held, b)
    assert not torch.allclose(w_plain, w, rtol=0.01), "without it the gradient is another one"
