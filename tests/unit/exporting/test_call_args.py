"""Networks in wrappers, with forwards of any signature, and example inputs of any form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import lccl
from conftest import Outcome
from lccl.nn import LCCLConv2d
from lccl.nn.call_args import by_signature, call_args

Invoke = Callable[..., Outcome]
EXPORT = "lccl.cli.export"
X = torch.randn(1, 3, 10, 10, generator=torch.Generator().manual_seed(1))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = LCCLConv2d(3, 4, 3, padding=1)


class Scaled(Base):
    def forward(self, x: Tensor, scale: Any) -> Tensor:
        return self.net(x) * scale


class Pair(Base):
    def forward(self, views: Any) -> Tensor:
        return self.net(views[0]) + self.net(views[1])


class Named(Base):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self.net(batch["image"]) / batch["rate"]


class Deep(Base):
    def forward(self, x: Tensor, rest: Any, doubled: bool = True) -> Tensor:
        y: Tensor = self.net(x) + rest[0]["bias"] * rest[1]
        return y * 2 if doubled else y


class Rooted(Base):
    """A rate below 0 would give NaN."""

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        return self.net(x) * rate.sqrt()


class Counted(Base):
    def forward(self, x: Tensor, count: Any) -> Tensor:
        return self.net(x) * (count + 1)


class Star(Base):
    def forward(self, *xs: Tensor) -> Tensor:
        return self.net(xs[0]) + (self.net(xs[1]) if len(xs) > 1 else 0)


class StarAndNames(Base):
    def forward(self, x: Tensor, *others: Tensor, **options: Any) -> Tensor:
        return self.net(x) - sum(self.net(other) for other in others)


class NamesAlone(Base):
    def forward(self, **inputs: Tensor) -> Tensor:
        return self.net(inputs["x"])


def bias() -> Tensor:
    return torch.randn(1, 4, 10, 10)


CASES: list[tuple[str, nn.Module, Any, list[str], dict[str, object]]] = [
    ("a 0-d tensor", Scaled(), (X, torch.tensor(2.0)), ["x", "scale"], {}),
    ("a 0-d array", Scaled(), (X.numpy(), np.float32(2.0)), ["x", "scale"], {}),
    ("a 0-d tensor of whole numbers", Counted(), (X, torch.tensor(3)), ["x", "count"], {}),
    ("a 0-d tensor under a root", Rooted(), (X, torch.tensor(4.0)), ["x", "rate"], {}),
    ("a float", Scaled(), (X, 2.0), ["x"], {"scale": 2.0}),
    ("an int", Counted(), (X, 3), ["x"], {"count": 3}),
    ("a bool", Counted(), (X, True), ["x"], {"count": True}),
    ("a list", Pair(), ([X, X + 1],), ["views_0", "views_1"], {}),
    ("a tuple", Pair(), ((X, X + 1),), ["views_0", "views_1"], {}),
    ("a dict last", Named(), ({"image": X, "rate": torch.tensor(4.0)},), ["batch_image", "batch_rate"], {}),
    ("a dict alone, with a number", Named(), {"image": X, "rate": 4.0}, ["batch_image"], {"batch['rate']": 4.0}),
    (
        "containers in containers",
        Deep(),
        (X, [{"bias": bias()}, torch.tensor(3.0)], False),
        ["x", "rest_0_bias", "rest_1"],
        {"doubled": False},
    ),
    ("*xs", Star(), (X, X * 2), ["xs_0", "xs_1"], {}),
    ("*xs of one", Star(), X, ["xs_0"], {}),
    ("*others and **options", StarAndNames(), (X, X * 2, X - 1), ["x", "others_0", "others_1"], {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "args", "names", "constants"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_inputs_of_any_form(
    tmp_path: Path, model: nn.Module, args: Any, names: list[str], constants: dict[str, object]
) -> None:
    path = tmp_path / "m.onnx"
    result = lccl.export(model.eval(), args, path)
    assert (result.gated > 0, result.constants) == (True, constants)
    for name, value in constants.items():
        assert f"{name} = {value!r} in the file, as in the example: PyTorch makes an input of a tensor alone" in str(
            result.warning
        )
    assert [i.name for i in onnx.load(path).graph.input] == names
    call = call_args(args if isinstance(args, tuple) else (args,))
    tensors = [t * 1.5 if t.is_floating_point() else t for t in call.tensors]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {name: t.numpy() for name, t in zip(names, tensors, strict=True)})
    with torch.no_grad():
        np.testing.assert_allclose(got, model(*call.with_tensors(tensors)).numpy(), atol=1e-5)


def test_values_that_are_no_inputs(tmp_path: Path) -> None:
    with pytest.raises(lccl.UserError, match="an input is a tensor, a number, or a list, tuple or dict of these, not"):
        lccl.export(Scaled().eval(), (X, object()), tmp_path / "m.onnx")
    with pytest.raises(lccl.UserError, match="needs an example input that is a tensor"):
        lccl.export(Scaled().eval(), (2.0, [3.0]), tmp_path / "m.onnx")


@pytest.mark.slow
def test_an_input_that_is_not_given(tmp_path: Path) -> None:
    """None is no constant that anybody has to be told of."""

    class Optional(Base):
        def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
            return self.net(x) if mask is None else self.net(x) * mask

    result = lccl.export(Optional().eval(), (X, None), tmp_path / "m.onnx")
    assert (result.constants, result.warning) == ({}, None)


@pytest.mark.slow
def test_a_program_with_containers_and_numbers(tmp_path: Path) -> None:
    program = torch.export.export(Deep().eval(), (X, [{"bias": bias()}, torch.tensor(2.0)], False))
    result = lccl.export(program, None, tmp_path / "m.onnx")
    assert list(result.constants.values()) == [False]
    assert len(onnx.load(tmp_path / "m.onnx").graph.input) == 3


def test_arguments_as_the_signature_has_them() -> None:
    assert by_signature(Scaled(), (1, 2)) == (1, 2)
    assert by_signature(Star(), (1, 2)) == ((1, 2),)
    assert by_signature(StarAndNames(), (1, 2, 3)) == (1, (2, 3))
    assert by_signature(StarAndNames(), (1,)) == (1,)


# ---- wrappers -------------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(LCCLConv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)).eval()


class OneProcess(nn.parallel.DistributedDataParallel):
    """DistributedDataParallel without processes, which a test cannot start."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": OneProcess,
    "compiled": lambda net: torch.compile(net, backend="eager"),  # type: ignore[return-value]
    "AveragedModel": AveragedModel,
    "compiled average in DataParallel": lambda net: nn.DataParallel(torch.compile(AveragedModel(net), backend="eager")),  # type: ignore[arg-type]
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_network_is_exported_profiled_and_compared(tmp_path: Path, kind: str) -> None:
    net = network()
    wrapped = WRAPPERS[kind](net).eval()
    result = lccl.export(wrapped, X, tmp_path / "m.onnx")
    assert [layer.name for layer in result.layers] == ["0", "1"]
    session = lccl.ort.session(str(tmp_path / "m.onnx"))
    (got,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    np.testing.assert_allclose(got, net(X).detach().numpy(), atol=1e-5)
    assert [layer.name for layer in lccl.profile(wrapped, X).layers] == ["0", "1"]
    rows = lccl.compare(wrapped, X, latency=None, dense_twin=False).rows
    assert {row.runner for row in rows} >= {"torch", "onnxruntime"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_networks_recipe_is_its_own(tmp_path: Path, kind: str) -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    gated = lccl.nn.convert(dense, where=["0", "2"]).eval()
    wrapped = WRAPPERS[kind](gated)
    assert lccl.nn.recipe(wrapped) == lccl.nn.recipe(gated)
    lccl.save_checkpoint(tmp_path / "w.pt", wrapped, "nets:build")
    loaded = lccl.load_checkpoint(tmp_path / "w.pt", lambda: dense)
    assert torch.equal(loaded(X), gated(X))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_network_is_converted_first(kind: str) -> None:
    wrapped = WRAPPERS[kind](nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)))
    with pytest.raises(lccl.UserError, match=r"the network is wrapped in \w+: convert it first, then wrap or compile it$"):
        lccl.nn.convert(wrapped)


@pytest.mark.slow
def test_modes_of_a_wrapped_network_stay(tmp_path: Path) -> None:
    wrapped = nn.DataParallel(network()).train()
    wrapped.module[1].eval()
    before = [module.training for module in wrapped.modules()]
    lccl.export(wrapped, X, tmp_path / "m.onnx")
    lccl.profile(wrapped, X)
    assert [module.training for module in wrapped.modules()] == before


@pytest.mark.slow
def test_forwards_without_names_are_profiled_and_compared() -> None:
    for model, data in ((Star(), X), (Star(), {"left": X, "right": X + 1}), (StarAndNames(), X)):
        rows = lccl.compare(model.eval(), data, latency=None, dense_twin=False).rows
        assert {row.runner for row in rows} >= {"torch", "onnxruntime"}, type(model)
    assert lccl.profile(Star().eval(), X).gated
    assert lccl.profile(NamesAlone().eval(), {"x": X}).gated


def test_a_forward_with_inputs_by_name_alone(tmp_path: Path) -> None:
    said = (
        r"NamesAlone\.forward takes inputs by name alone, and an export passes them by position: wrap the network in a module"
    )
    with pytest.raises(lccl.UserError, match=said):
        lccl.export(NamesAlone().eval(), X, tmp_path / "m.onnx")
    with pytest.raises(lccl.UserError, match=said):
        lccl.compare(NamesAlone().eval(), {"x": X}, latency=None)


@pytest.mark.slow
def test_a_forward_without_names_on_the_command_line(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Star().state_dict(), tmp_path / "w.pt")
    np.savez(tmp_path / "d.npz", left=X.numpy(), right=X.numpy() + 1)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = [tmp_path / "w.pt", "--factory", "test_call_args:Star", "-o", tmp_path / "m.onnx"]
    assert invoke(EXPORT, *words, "--data", tmp_path / "d.npz").code == 0
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == ["left", "right"]
    assert invoke(EXPORT, *words, "--input-shape", "1x3x10x10").code == 0
