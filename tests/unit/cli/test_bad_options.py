"""Options and inputs that would be ignored or prove nothing: refused in one sentence, nothing written."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from test_bad_input import COMPARE, EXPORT, refused

import lccl
from conftest import Outcome
from lccl.command_line import recorded, show, stdout_kept
from lccl.loading.importing import import_object
from lccl.loading.onnx import load_onnx
from lccl.loading.pickle_scan import pickled_globals
from lccl.loading.torch_file import load_checkpoint, load_model

Invoke = Callable[..., Outcome]


# ---- code of the user's ---------------------------------------------------------------------------------------------


def test_a_module_that_exits_on_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse at a module's top level would end this program with 2, which CI reads as a failed limit."""
    (tmp_path / "exits_on_import.py").write_text("import argparse\nargparse.ArgumentParser().error('no such option')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lccl.UserError, match="importing exits_on_import raised SystemExit"):
        import_object("exits_on_import:build", "factory")


def test_ctrl_c_while_importing_is_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted_on_import.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import_object("interrupted_on_import:build", "factory")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("sklearn", r"needs sklearn, which is not installed: pip install scikit-learn$"),
        ("no_such_helpers", r"needs no_such_helpers, which is not installed: install the package that has it, or run from"),
    ],
)
def test_a_module_that_needs_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str) -> None:
    """Its own folder is the right one, so that to run from there is no fix."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    name = f"needs_{missing.replace('.', '_')}"
    (tmp_path / f"{name}.py").write_text(f"import {missing}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lccl.UserError, match=f"{name} {message}"):
        import_object(f"{name}:load", "loader")


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.module"])
def test_a_module_that_is_not_there(name: str) -> None:
    with pytest.raises(lccl.UserError, match=f"cannot import {name}: run from the folder it is in"):
        import_object(f"{name}:load", "loader")


@pytest.mark.slow
def test_what_a_loader_prints_is_not_the_result(
    invoke: Invoke, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talking_loader.py").write_text(
        "import numpy as np\n"
        "print('importing')\n"
        "def load():\n    print('loading')\n    return np.ones((2, 1, 16, 16), np.float32)\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = invoke(COMPARE, exported, "--data", "talking_loader:load", "--runs", "0", "--json")
    assert json.loads(outcome.out)["passed"] is True
    assert outcome.err == "importing\nloading\n"
    outcome = invoke(EXPORT, exported, "-o", tmp_path / "m.onnx", "--data", "talking_loader:load", "--json")
    assert json.loads(outcome.out)["path"] == str(tmp_path / "m.onnx")


def test_what_a_library_prints_is_not_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    """C++ code writes to the descriptor, past Python's own stream."""
    with stdout_kept():
        os.write(1, b"from a library\n")
    os.write(1, b"the result\n")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("the result\n", "from a library\n")


def test_buffered_words_of_a_library_go_with_the_others() -> None:
    """C's stream and Python's own hold back what they print to a pipe."""
    program = (
        "import ctypes, sys\nfrom lccl.command_line import stdout_kept\n"
        "with stdout_kept():\n    ctypes.CDLL(None).printf(b'in C\\n')\n    sys.__stdout__.write('in Python\\n')\nprint('result')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert process.stdout == "result\n"
    assert sorted(process.stderr.splitlines()) == ["in C", "in Python"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"factory": "build"},
        {"factory": print},
        {"factory": ":build"},
        {"input_shape": (1, 1, 16, 16)},
        {"input_shape": (1, 0, 16)},
        {"input_shape": 16},
        {"input_shape": (True, 16, 16)},
    ],
)
def test_a_checkpoint_that_nobody_could_use(small_model: torch.nn.Module, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(lccl.UserError, match=r"a factory is named|input_shape is \(C, H, W\)"):
        lccl.save_checkpoint(tmp_path / "m.pt", small_model, **{"factory": "pkg.module:build", **wrong})
    assert not (tmp_path / "m.pt").exists()


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [("--factory", "a:b"), ("--state-dict-key", "model"), ("--unsafe-pickle",), ("--dynamic-hw",)]
)
def test_checkpoint_options_on_onnx(invoke: Invoke, exported: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    refused(invoke(EXPORT, exported, *options, "-o", tmp_path / "m.onnx"), f"{options[0]} goes with a checkpoint")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"dynamic_hw": True}, {"input_names": ["x"]}, {"output_names": ["y"]}])
def test_module_options_on_an_onnx_model(exported: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(lccl.UserError, match=f"they cannot be chosen: leave out {next(iter(option))}$"):
        lccl.export(onnx.load(exported), None, tmp_path / "m.onnx", **option)


def test_a_factory_beside_a_whole_module(small_model: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(small_model, tmp_path / "module.pt")
    for options in ({"factory": "lccl.models.resnet:cifar_resnet"}, {"state_dict_key": "model"}):
        with pytest.raises(lccl.UserError, match="is a whole pickled module"):
            load_model(tmp_path / "module.pt", unsafe_pickle=True, **options)


def test_a_key_into_our_own_checkpoint(checkpoint: Path) -> None:
    with pytest.raises(lccl.UserError, match=r"leave out state_dict_key$"):
        load_model(checkpoint, state_dict_key="state_dict")


@pytest.mark.parametrize("option", ["--factory", "--baseline-factory"])
def test_a_factory_without_a_checkpoint(invoke: Invoke, exported: Path, samples: Path, option: str) -> None:
    refused(invoke(COMPARE, exported, "--data", samples, option, "mine:build"), option, "needs a checkpoint, but none is given")


@pytest.mark.parametrize("value", ["nan", "-1", "inf"])
def test_a_time_that_is_none(invoke: Invoke, exported: Path, samples: Path, value: str) -> None:
    refused(invoke(COMPARE, exported, "--data", samples, "--max-seconds", value), "--max-seconds", value)


def test_a_superscript_is_no_number(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    refused(invoke(EXPORT, checkpoint, "--input-shape", "1x²x16x16", "-o", tmp_path / "m.onnx"), "1x3x224x224")


def test_a_decomposed_network_is_no_dense_one(invoke: Invoke, exported: Path, samples: Path) -> None:
    decomposed = exported.with_suffix(".decomposed.onnx")
    refused(invoke(COMPARE, exported, "--baseline", decomposed, "--data", samples), "has gates, so it is not a dense network")


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_damaged_central_directory(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    at = content.rindex(b"PK\x01\x02")
    (tmp_path / "damaged.pt").write_bytes(content[:at] + b"PKxx" + content[at + 4 :])
    refused(invoke(EXPORT, tmp_path / "damaged.pt", "-o", tmp_path / "m.onnx"), "cut off")


def test_what_a_bare_pickle_would_call(tmp_path: Path) -> None:
    """Names whose module was memoised before, and torch's own functions but those that its unpickler allows."""
    path = tmp_path / "bare.pt"
    path.write_bytes(pickle.dumps([json.loads, json.dumps], protocol=4))
    assert pickled_globals(path) == ["json.dumps", "json.loads"]
    path.write_bytes(pickle.dumps([torch.hub.load, torch._utils._rebuild_tensor_v2], protocol=2))
    assert pickled_globals(path) == ["torch.hub.load"]


def test_infinite_weights(small_model: torch.nn.Module, exported: Path, tmp_path: Path) -> None:
    """As NaN does, they tell of a training gone wrong."""
    module = pickle.loads(pickle.dumps(small_model))
    module.stages[0][0].conv1.conv.weight.data[0, 0, 0, 0] = float("inf")
    torch.save(module, tmp_path / "module.pt")
    with pytest.raises(lccl.UserError, match=r"stages\.0\.0\.conv1\.conv\.weight holds infinity"):
        load_model(tmp_path / "module.pt", unsafe_pickle=True)
    model = onnx.load(exported)
    tensor = next(t for t in model.graph.initializer if t.name == "classifier.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.inf
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(lccl.UserError, match=r"classifier\.weight holds infinity"):
        load_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stages.0.0.conv1.norm.running_var", -1.0, "holds a variance below 0"),
        ("stages.0.0.conv1.gate.norm.running_var", -1.0, "holds a variance below 0"),
        ("stages.0.0.conv1.gate.conv.weight", float("inf"), "holds infinity"),
    ],
)
def test_weights_that_no_training_should_leave(
    invoke: Invoke, checkpoint: Path, small_model: torch.nn.Module, tmp_path: Path, name: str, value: float, words: str
) -> None:
    """A variance below 0 has no root: NaN closes a gate, and closed gates agree with each other."""
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"][name].view(-1)[0] = value
    torch.save(content, tmp_path / "broken.pt")
    refused(invoke(EXPORT, tmp_path / "broken.pt", "-o", tmp_path / "m.onnx"), f"{name} {words}", "use an earlier checkpoint")
    module = pickle.loads(pickle.dumps(small_model))
    module.state_dict()[name].view(-1)[0] = value
    with pytest.raises(lccl.UserError, match=f"the model's {name} {words}"):
        lccl.export(module, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_variance_below_0_in_onnx(tmp_path: Path) -> None:
    values = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "variance": -1.0}
    stored = [onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [value]) for name, value in values.items()]
    node = onnx.helper.make_node("BatchNormalization", ["x", *values], ["y"])
    sizes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 4, 4]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", sizes[:1], sizes[1:], stored)), tmp_path / "m.onnx")
    with pytest.raises(lccl.UserError, match="variance holds a variance below 0"):
        load_onnx(tmp_path / "m.onnx")


def test_python_is_not_told_of_a_commands_options(small_model: torch.nn.Module, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(small_model.state_dict(), path)
    with pytest.raises(lccl.UserError, match=r"pass factory='pkg\.module:factory' with a function that builds it$"):
        load_checkpoint(path)
    assert load_checkpoint(path, lambda: pickle.loads(pickle.dumps(small_model))) is not None
    torch.save({"a": small_model.state_dict(), "b": small_model.state_dict()}, path)
    with pytest.raises(lccl.UserError, match=r"pass state_dict_key='a'$"):
        load_checkpoint(path)
    torch.save(small_model, path)
    with pytest.raises(lccl.UserError, match=r"or unsafe_pickle=True if you trust the file$"):
        load_checkpoint(path)


# ---- inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_prove_nothing(invoke: Invoke, exported: Path, tmp_path: Path, value: float) -> None:
    inputs = np.ones((4, 1, 16, 16), np.float32)
    inputs[2, 0, 3, 3] = value
    np.savez(tmp_path / "broken.npz", x=inputs)
    refused(invoke(EXPORT, exported, "--data", tmp_path / "broken.npz", "-o", tmp_path / "m.onnx"), "holds NaN or infinity")
    refused(invoke(COMPARE, exported, "--data", tmp_path / "broken.npz"), "holds NaN or infinity")
    with pytest.raises(lccl.UserError, match="holds NaN or infinity"):
        lccl.export(onnx.load(exported), None, tmp_path / "m.onnx", data={"x": inputs})


def test_inputs_of_another_type(invoke: Invoke, exported: Path, tmp_path: Path) -> None:
    """Pixels of 0 to 255 are not what the network was trained on; only the width of a float is a matter of form."""
    np.savez(tmp_path / "pixels.npz", x=np.ones((4, 1, 16, 16), np.uint8))
    refused(
        invoke(EXPORT, exported, "--data", tmp_path / "pixels.npz", "-o", tmp_path / "m.onnx"),
        "input x is uint8, but the model takes float32",
    )
    result = lccl.export(onnx.load(exported), None, tmp_path / "m.onnx", data={"x": np.ones((4, 1, 16, 16))})
    assert result.checked.samples == 2 + 4


@pytest.mark.parametrize("label", [-1, 10, 2.5, float("nan"), "1"])
def test_labels_that_are_no_class(invoke: Invoke, exported: Path, tmp_path: Path, label: Any) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 1, 16, 16), np.float32), labels=np.array([label, label, label]))
    refused(invoke(COMPARE, exported, "--data", tmp_path / "data.npz"), f"the label {label}", "whole numbers from 0 to 9")


def test_whole_numbers_may_be_floats(invoke: Invoke, exported: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 1, 16, 16), np.float32), labels=np.array([0.0, 9.0, 1.0]))
    assert invoke(COMPARE, exported, "--data", tmp_path / "data.npz", "--runs", "0").code == 0


# ---- results --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    value: float

    def as_dict(self) -> dict[str, Any]:
        return {"rows": [{"value": self.value}], "pair": (1, self.value)}


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    for value in (float("nan"), float("inf")):
        show(Result(value), as_json=True)
        assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"rows": [{"value": None}], "pair": [1, None]}


@pytest.mark.slow
def test_a_recorded_command_names_no_folder(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    assert recorded(["lccl-export", "/a/b/c.pt", "--data=/d/e.npz", "-o", "m/n.onnx", "--factory", "mine:build"]) == [
        "lccl-export",
        "c.pt",
        "--data=e.npz",
        "-o",
        "n.onnx",
        "--factory",
        "mine:build",
    ]
    assert invoke(EXPORT, checkpoint, "-o", tmp_path / "m.onnx").code == 0
    notes = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert notes["lccl.command"] == f"lccl-export {checkpoint.name} -o m.onnx"


@pytest.mark.parametrize("module", [EXPORT, COMPARE, "lccl.cli.build_engine", "lccl.cli.build_plugin"])
@pytest.mark.parametrize("wrong", ["usage", "option"])
def test_an_error_is_json_too(invoke: Invoke, tmp_path: Path, module: str, wrong: str) -> None:
    """Every command, in what argparse refuses and in what the command itself does."""
    absent = tmp_path / "absent.onnx"
    needed = {EXPORT: ["-o", tmp_path / "m.onnx"], COMPARE: ["--data", tmp_path / "d.npz"]}.get(module, [])
    arguments = ["--jobs", "0"] if module == "lccl.cli.build_plugin" else [absent, *needed]
    outcome = invoke(module, *arguments, "--json", *(["--no-such-option"] if wrong == "usage" else []))
    assert outcome.code == 1
    assert outcome.err == f"error: {json.loads(outcome.out)['error']}\n"
    assert "Traceback" not in outcome.err
