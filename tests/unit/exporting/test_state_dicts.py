"""Checkpoints whose weights have other names than the network's: wrappers, averages, old versions."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lccl
from conftest import Outcome
from lccl.loading.state_dict import matched_names

EXPORT, COMPARE = "lccl.cli.export", "lccl.cli.compare"
Invoke = Callable[..., Outcome]
State = dict[str, Tensor]


class Tower(nn.Module):
    """A dense network whose BatchNorm follows its first convolution."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.stem(x))
        return y


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    net = Tower()
    with torch.no_grad():
        for buffer in (net.stem[1].running_mean, net.stem[1].running_var):
            buffer.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture
def gated(network: nn.Module) -> nn.Module:
    """The network, gated, with gates that are no longer all open."""
    converted = lccl.nn.convert(network, where=["stem.0", "head"])
    with torch.no_grad():
        for name, parameter in converted.named_parameters():
            if ".gate." in name:
                parameter.normal_(0.2, 0.5)
    return converted.eval()


def same(loaded: nn.Module, network: nn.Module) -> bool:
    x = torch.randn(2, 3, 10, 10)
    with torch.no_grad():
        return torch.equal(loaded.eval()(x), network.eval()(x))


def under(state: State, *prefixes: str) -> State:
    """The state dict with prefixes in front, the first one outermost."""
    return {"".join(prefixes) + key: value for key, value in state.items()}


# ---- wrappers -------------------------------------------------------------------------------------------------------

PREFIXES = [
    ("module.",),
    ("_orig_mod.",),
    ("model.",),
    ("_orig_mod.", "module."),
    ("module.", "_orig_mod."),
    ("model.", "_orig_mod.", "module."),
    ("module.", "model.", "_orig_mod."),
    ("ema_model.", "module."),
    ("lit.", "net.", "backbone."),
]


@pytest.mark.parametrize("prefixes", PREFIXES, ids=lambda prefixes: "".join(prefixes))
@pytest.mark.parametrize("form", ["bare", "nested"])
def test_prefixes_that_all_names_have(network: nn.Module, tmp_path: Path, prefixes: tuple[str, ...], form: str) -> None:
    state = under(network.state_dict(), *prefixes)
    torch.save(state if form == "bare" else {"epoch": 3, "state_dict": state}, tmp_path / "w.ckpt")
    assert same(lccl.load_checkpoint(tmp_path / "w.ckpt", Tower), network)


@pytest.mark.slow
def test_a_recipe_beside_names_with_a_prefix(gated: nn.Module, tmp_path: Path) -> None:
    """The recipe may have been taken of the network, or of what holds it."""
    holder = nn.ModuleDict({"student": gated})
    for name, recipe in (("inner", lccl.nn.recipe(gated)), ("outer", lccl.nn.recipe(holder))):
        torch.save({"state_dict": holder.state_dict(), "lccl_recipe": recipe}, tmp_path / f"{name}.ckpt")
        assert same(lccl.load_checkpoint(tmp_path / f"{name}.ckpt", Tower), gated), name


def wrapped(network: nn.Module, kind: str) -> nn.Module:
    """The network in a wrapper; of an average, after weights that differ."""
    wrappers: dict[str, Callable[[nn.Module], nn.Module]] = {
        "parallel": nn.DataParallel,
        "compiled": lambda net: torch.compile(net, backend="eager"),  # type: ignore[return-value]
        "average": AveragedModel,
        "ema": lambda net: AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
        "parallel average": lambda net: nn.DataParallel(AveragedModel(net)),
        "average of compiled parallel": lambda net: AveragedModel(torch.compile(nn.DataParallel(net), backend="eager")),  # type: ignore[arg-type]
    }
    return wrappers[kind](network)


KINDS = ["parallel", "compiled", "average", "ema", "parallel average", "average of compiled parallel"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapped_network_is_saved_and_its_state_dict_is_read(gated: nn.Module, tmp_path: Path, kind: str) -> None:
    model = wrapped(gated, kind)
    lccl.save_checkpoint(tmp_path / "own.pt", model, "nets:Tower", input_shape=(3, 10, 10))
    written = torch.load(tmp_path / "own.pt", weights_only=True)
    assert list(written["state_dict"]) == list(gated.state_dict())
    assert same(lccl.load_checkpoint(tmp_path / "own.pt", Tower), gated)
    torch.save({"state_dict": model.state_dict(), "lccl_recipe": lccl.nn.recipe(model)}, tmp_path / "users.pt")
    assert same(lccl.load_checkpoint(tmp_path / "users.pt", Tower), gated)


@pytest.mark.slow
def test_an_average_is_what_is_saved(network: nn.Module, tmp_path: Path) -> None:
    average = AveragedModel(network)
    other = Tower()
    for model in (network, other):
        average.update_parameters(model)
    lccl.save_checkpoint(tmp_path / "mean.pt", average, "nets:Tower")
    loaded = lccl.load_checkpoint(tmp_path / "mean.pt", Tower)
    torch.testing.assert_close(loaded.get_parameter("head.weight"), (network.head.weight + other.head.weight) / 2)


def test_wrappers_within_a_network(gated: nn.Module, tmp_path: Path) -> None:
    """As the ImageNet example wraps VGG's features alone, or a part is compiled after its conversion."""
    for name, wrap in (("parallel", nn.DataParallel), ("compiled", lambda part: torch.compile(part, backend="eager"))):
        plain = {key: value.clone() for key, value in gated.state_dict().items()}
        inner, gated.stem = gated.stem, wrap(gated.stem)  # type: ignore[operator]
        lccl.save_checkpoint(tmp_path / f"{name}.pt", gated, "nets:Tower")
        gated.stem = inner
        loaded = lccl.load_checkpoint(tmp_path / f"{name}.pt", Tower)
        assert list(loaded.state_dict()) == list(plain)
        assert same(loaded, gated), name


@pytest.mark.slow
def test_a_factory_may_wrap_its_network(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    for build in (lambda: nn.DataParallel(Tower()), lambda: torch.compile(Tower(), backend="eager")):
        assert same(lccl.load_checkpoint(tmp_path / "w.pt", build), network)


def test_counters_of_a_library_of_averages(network: nn.Module, tmp_path: Path) -> None:
    """Numbers of the wrapper itself are no weights; a number that could be one is."""
    counters = {"initted": torch.tensor(True), "step": torch.tensor([7])}
    torch.save({**counters, **under(network.state_dict(), "ema_model.")}, tmp_path / "ema.pt")
    assert same(lccl.load_checkpoint(tmp_path / "ema.pt", Tower), network)
    torch.save({"temperature": torch.tensor(0.07), **under(network.state_dict(), "visual.")}, tmp_path / "clip.pt")
    with pytest.raises(
        lccl.UserError, match=r"'visual\.' do, beside 1 of something else \(temperature\): pass state_dict_prefix='visual\.'$"
    ):
        lccl.load_checkpoint(tmp_path / "clip.pt", Tower)


# ---- a part of the names --------------------------------------------------------------------------------------------


def test_the_prefix_of_a_part_is_named_and_can_be_given(gated: nn.Module, tmp_path: Path) -> None:
    """Lightning keeps the weights of losses and metrics beside the network's."""
    state = {**under(gated.state_dict(), "model."), "criterion.weight": torch.ones(2), "val_f1.tp": torch.zeros(2)}
    torch.save({"state_dict": state, "lccl_recipe": lccl.nn.recipe(gated)}, tmp_path / "lit.ckpt")
    with pytest.raises(lccl.UserError) as caught:
        lccl.load_checkpoint(tmp_path / "lit.ckpt", Tower)
    assert caught.value.fixes == (lccl.Fix("state_dict_prefix", "model."),)
    assert caught.value.message.endswith(
        "do not fit Tower as they are named; those that begin with 'model.' do, beside 2 of something else (criterion.weight, val_f1.tp)"
    )
    for prefix in ("model.", "model"):
        assert same(lccl.load_checkpoint(tmp_path / "lit.ckpt", Tower, state_dict_prefix=prefix), gated)


def test_two_prefixes_that_would_fit(network: nn.Module, tmp_path: Path) -> None:
    """Which one is right cannot be told: training's own weights, or their average."""
    other = Tower().eval()
    state = {
        **under(network.state_dict(), "online."),
        **under(other.state_dict(), "ema.module."),
        "ema.n_averaged": torch.tensor(4),
    }
    torch.save(state, tmp_path / "pair.pt")
    with pytest.raises(lccl.UserError, match=r"those that begin with 'online\.' and 'ema\.module\.' do: pass") as caught:
        lccl.load_checkpoint(tmp_path / "pair.pt", Tower)
    assert {fix.value for fix in caught.value.fixes} == {"online.", "ema.module."}
    assert same(lccl.load_checkpoint(tmp_path / "pair.pt", Tower, state_dict_prefix="online."), network)
    assert same(lccl.load_checkpoint(tmp_path / "pair.pt", Tower, state_dict_prefix="ema."), other)


def test_weights_beside_their_average(network: nn.Module, tmp_path: Path) -> None:
    torch.save({**network.state_dict(), **under(network.state_dict(), "shadow.")}, tmp_path / "both.pt")
    with pytest.raises(lccl.UserError, match=r"those that begin with 'shadow\.' do"):
        lccl.load_checkpoint(tmp_path / "both.pt", Tower)


def test_a_prefix_that_no_name_has(network: nn.Module, tmp_path: Path) -> None:
    torch.save(under(network.state_dict(), "model."), tmp_path / "w.pt")
    with pytest.raises(lccl.UserError, match=r"no name .* begins with 'ema\.'; they begin with model\.$"):
        lccl.load_checkpoint(tmp_path / "w.pt", Tower, state_dict_prefix="ema.")


def test_a_prefix_that_leads_to_another_network(network: nn.Module, tmp_path: Path) -> None:
    torch.save({**under(network.state_dict(), "a."), **under(Tower(8).state_dict(), "b.")}, tmp_path / "w.pt")
    assert same(lccl.load_checkpoint(tmp_path / "w.pt", Tower, state_dict_prefix="a."), network)
    with pytest.raises(
        lccl.UserError, match=r"stem\.0\.weight is \[8, 3, 3, 3\] in the file and \[4, 3, 3, 3\] in the network"
    ):
        lccl.load_checkpoint(tmp_path / "w.pt", Tower, state_dict_prefix="b.")


@pytest.mark.slow
def test_prefixes_on_the_command_line(invoke: Invoke, small_model: nn.Module, samples: Path, tmp_path: Path) -> None:
    from lccl.models.resnet import cifar_resnet

    dense = cifar_resnet(gated="none", in_channels=1, depth=8, width=4)
    (tmp_path / "build_two_ways.py").write_text(
        "from lccl.models.resnet import cifar_resnet\n"
        "def gated():\n    return cifar_resnet(8, 4, in_channels=1, gated='both')\n"
        "def dense():\n    return cifar_resnet(8, 4, in_channels=1, gated='none')\n"
    )
    rest = {"loss.weight": torch.ones(3)}
    torch.save({**under(small_model.state_dict(), "net."), **rest}, tmp_path / "gated.ckpt")
    torch.save({**under(dense.state_dict(), "old."), **rest}, tmp_path / "dense.ckpt")
    words = [tmp_path / "gated.ckpt", "--factory", "build_two_ways:gated"]
    shape = ["--input-shape", "1x1x16x16", "-o", tmp_path / "m.onnx"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        refused = invoke(EXPORT, *words, *shape)
        assert (refused.code, "pass --state-dict-prefix net.\n" in refused.err) == (1, True), refused.err
        assert invoke(EXPORT, *words, *shape, "--state-dict-prefix", "net.").code == 0
        words += ["--state-dict-prefix", "net.", "--data", samples, "--runs", "0", "--json"]
        words += ["--baseline", tmp_path / "dense.ckpt", "--baseline-factory", "build_two_ways:dense"]
        refused = invoke(COMPARE, *words)
        assert json.loads(refused.out)["fix"]["option"] == "baseline_state_dict_prefix", refused
        assert "pass --baseline-state-dict-prefix old.\n" in refused.err
        assert invoke(COMPARE, *words, "--baseline-state-dict-prefix", "old.").code == 0


# ---- PyTorch decides ------------------------------------------------------------------------------------------------


class Renamed(Tower):
    """Weights of an older version of it have another name for the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
        for key in [key for key in state if key.startswith(f"{prefix}features.")]:
            state[key.replace("features.", "stem.", 1)] = state.pop(key)


class Scaled(Tower):
    """Version 2 stores a scale that version 1 had as 1."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 9.0))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        if metadata.get("version") == 1:
            state[f"{prefix}scale"] = torch.ones(1)
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class WithExtra(Tower):
    """It saves a list beside its tensors."""

    classes = ("cat", "dog")

    def get_extra_state(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.classes = tuple(state["classes"])


def as_old_versions_saved(state: State, versions: dict[str, Any] | None) -> State:
    """Without counts of batches, as PyTorch 0.4 saved BatchNorm, and with its versions or none."""
    old = OrderedDict((key, value) for key, value in state.items() if not key.endswith("num_batches_tracked"))
    if versions is not None:
        old._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return old


@pytest.mark.parametrize("prefix", ["", "module.", "model.module."])
@pytest.mark.parametrize("versions", [None, {"": {"version": 1}}], ids=["none", "old"])
def test_weights_of_an_old_version_of_pytorch(
    network: nn.Module, tmp_path: Path, prefix: str, versions: dict[str, Any] | None
) -> None:
    """In the format of files before 1.6, as published checkpoints still are."""
    state = as_old_versions_saved(under(network.state_dict(), prefix), versions)
    content = {"state_dict": state, "best_prec1": 91.7}
    torch.save(content, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    assert same(lccl.load_checkpoint(tmp_path / "old.th", Tower), network)


def test_a_count_of_batches_that_a_present_version_lost(network: nn.Module, tmp_path: Path) -> None:
    """Its BatchNorm has stored the count; PyTorch refuses a file without it."""
    state = network.state_dict()
    del state["stem.1.num_batches_tracked"]
    torch.save(state, tmp_path / "lost.pt")
    with pytest.raises(lccl.UserError, match=r"1 missing \(stem\.1\.num_batches_tracked\) keys; is it the right factory\?"):
        lccl.load_checkpoint(tmp_path / "lost.pt", Tower)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_that_a_networks_own_hook_changes(network: nn.Module, tmp_path: Path, prefix: str) -> None:
    state = {prefix + key.replace("stem.", "features."): value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "old.pt")
    assert same(lccl.load_checkpoint(tmp_path / "old.pt", Renamed), network)
    with pytest.raises(lccl.UserError, match="unexpected"):
        lccl.load_checkpoint(tmp_path / "old.pt", Tower)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_module_of_an_older_version(network: nn.Module, tmp_path: Path, prefix: str) -> None:
    """Its own code brings the weights up to date, by the version that the file states."""
    state = OrderedDict(under(network.state_dict(), prefix))
    state._metadata = OrderedDict({prefix.removesuffix("."): {"version": 1}})  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "one.pt")
    assert same(lccl.load_checkpoint(tmp_path / "one.pt", Scaled), network)
    torch.save(dict(state), tmp_path / "none.pt")
    with pytest.raises(lccl.UserError, match=r"1 missing \(scale\)"):
        lccl.load_checkpoint(tmp_path / "none.pt", Scaled)


def test_a_checkpoint_states_the_versions_of_its_modules(tmp_path: Path) -> None:
    model = Scaled().eval()
    lccl.save_checkpoint(tmp_path / "scaled.pt", model, "nets:Scaled")
    assert torch.load(tmp_path / "scaled.pt", weights_only=True)["state_dict"]._metadata[""] == {"version": 2}
    assert float(lccl.load_checkpoint(tmp_path / "scaled.pt", Scaled).get_parameter("scale").detach()) == 9


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_a_module_saves_besides_tensors(tmp_path: Path, prefix: str) -> None:
    model = WithExtra()
    model.classes = ("a", "b", "c")
    lccl.save_checkpoint(tmp_path / "own.pt", model, "nets:WithExtra")
    torch.save(under(model.state_dict(), prefix), tmp_path / "bare.pt")
    for name in ("own.pt", "bare.pt"):
        assert lccl.load_checkpoint(tmp_path / name, WithExtra).classes == ("a", "b", "c")


def test_a_network_whose_loading_fails(network: nn.Module, tmp_path: Path) -> None:
    class Broken(Tower):
        def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
            raise KeyError(f"{prefix}gamma")

    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(lccl.UserError, match=r"do not fit .*Broken: KeyError: 'gamma'$"):
        lccl.load_checkpoint(tmp_path / "w.pt", Broken)


class Silent(nn.Module):
    """Its loading returns nothing, as that of many networks of users."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y

    def load_state_dict(self, state: Any, strict: bool = True) -> None:  # type: ignore[override]
        super().load_state_dict(state, strict)


class Strict(Silent):
    """Its loading cannot be lenient."""

    def load_state_dict(self, state: Any) -> None:  # type: ignore[override]
        nn.Module.load_state_dict(self, state)


@pytest.mark.parametrize("kind", [Silent, Strict])
def test_a_network_with_a_loading_of_its_own(kind: type[nn.Module], tmp_path: Path) -> None:
    model = kind()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert same(lccl.load_checkpoint(tmp_path / "w.pt", kind), model)
    torch.save({"conv.weight": model.state_dict()["conv.weight"]}, tmp_path / "less.pt")
    with pytest.raises(lccl.UserError, match="do not fit"):
        lccl.load_checkpoint(tmp_path / "less.pt", kind)


@pytest.mark.parametrize("names", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "average")])
def test_two_state_dicts_of_one_network_have_to_be_chosen_from(
    network: nn.Module, tmp_path: Path, names: tuple[str, str]
) -> None:
    state = network.state_dict()
    other = {f"module.{key}": torch.zeros_like(value) for key, value in state.items()}
    torch.save({names[0]: other, names[1]: state, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(lccl.UserError, match=rf"holds several state dicts \({names[0]}, {names[1]}\)"):
        lccl.load_checkpoint(tmp_path / "w.pt", Tower)
    assert same(lccl.load_checkpoint(tmp_path / "w.pt", Tower, state_dict_key=names[1]), network)


def test_a_missing_recipe_is_asked_for_only_where_there_is_none(gated: nn.Module, tmp_path: Path) -> None:
    state, recipe = gated.state_dict(), lccl.nn.recipe(gated)
    torch.save({"state_dict": state}, tmp_path / "none.pt")
    with pytest.raises(lccl.UserError, match=r"save lccl\.nn\.recipe"):
        lccl.load_checkpoint(tmp_path / "none.pt", Tower)
    torch.save({"state_dict": state, "lccl_recipe": recipe[:1]}, tmp_path / "some.pt")
    with pytest.raises(lccl.UserError, match=r"unexpected .* keys; is it the right factory\?$"):
        lccl.load_checkpoint(tmp_path / "some.pt", Tower)


def test_no_weight_stays_random(network: nn.Module, tmp_path: Path) -> None:
    for lost in ("head.weight", "stem.1.running_var", "stem.0.bias"):
        state = {key: value for key, value in under(network.state_dict(), "module.").items() if key != f"module.{lost}"}
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(lccl.UserError, match=rf"1 missing \({lost}\) keys"):
            lccl.load_checkpoint(tmp_path / "w.pt", Tower)


def test_names_without_wrappers() -> None:
    mapped = matched_names(["net.module.a", "net.module.b.c"], ["a", "b.c", "d"])
    assert mapped is not None
    assert mapped("net.module.b.c") == "b.c"
    assert matched_names(["x.a", "y.b"], ["a", "b"]) is None
    assert matched_names([], ["a"]) is not None
