"""Public functions and commands on arguments of every wrong type: each gives one sentence.

Nothing but ``UserError`` may come out of a function, and nothing but exit codes 0, 1 and 2 out of a
command. An argument that Python itself does not know (another keyword, one that is missing) is
Python's own TypeError, and no case here.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import lccl
import lccl.plugin
from lccl.cli import build_engine, build_plugin, compare, doctor, export, measure, tune
from lccl.cli.inspect import command as inspect_command
from lccl.command_line import execute
from lccl.data import load_data
from lccl.forms.costs import CostTable, LayerCost, Machine
from lccl.nn import LCCLConv2d

pytestmark = pytest.mark.slow

CALLS = 110
"""Of each function, and of each command."""
MOST_CHARACTERS = 700
"""Of a sentence."""
SHAPE = (1, 3, 8, 8)

WRONG: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "bytes": lambda: b"some bytes",
    "many bytes": lambda: b"x" * 100_000,
    "bytearray": lambda: bytearray(b"ab"),
    "empty text": lambda: "",
    "text": lambda: "no such thing",
    "long text": lambda: "x" * 5000,
    "text with a zero": lambda: "a\0b",
    "a missing module": lambda: "no_such_module:factory",
    "not callable": lambda: "os:name",
    "a missing file": lambda: "missing.onnx",
    "a folder": lambda: ".",
    "a path": lambda: Path("missing.pt"),
    "zero": lambda: 0,
    "a negative number": lambda: -3,
    "a huge number": lambda: 10**30,
    "a float": lambda: 1.5,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "complex": lambda: 1j,
    "True": lambda: True,
    "an empty list": lambda: [],
    "a list of None": lambda: [None],
    "a list of numbers": lambda: [1, 2, 3],
    "a list of texts": lambda: ["a", "b"],
    "a nested list": lambda: [[1, [2]], 3],
    "a tuple": lambda: (1, "a"),
    "an empty dict": dict,
    "a dict": lambda: {"a": 1},
    "a dict of odd keys": lambda: {1: None},
    "a dict of arrays": lambda: {"x": np.zeros(SHAPE, np.float32)},
    "a set": lambda: {1, 2},
    "a range": lambda: range(3),
    "a generator": lambda: (i for i in range(3)),
    "an object": object,
    "a class": lambda: int,
    "a function": lambda: len,
    "a function that raises": lambda: _raises,
    "a 0-d array": lambda: np.float32(1),
    "an empty array": lambda: np.zeros((0, 3, 8, 8), np.float32),
    "a matrix": lambda: np.zeros((2, 3)),
    "another rank": lambda: np.zeros((1, 1, 3, 8, 8), np.float32),
    "other channels": lambda: np.zeros((1, 5, 8, 8), np.float32),
    "integers": lambda: np.zeros(SHAPE, np.int64),
    "complex numbers": lambda: np.zeros(SHAPE, np.complex64),
    "an array of texts": lambda: np.array(["a", "b"]),
    "an array of objects": lambda: np.array([object(), None]),
    "a record array": lambda: np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "a tensor": lambda: torch.zeros(3),
    "a sparse tensor": lambda: torch.zeros(2, 2).to_sparse(),
    "a meta tensor": lambda: torch.zeros(SHAPE, device="meta"),
    "a dtype": lambda: torch.float16,
    "a module": lambda: torch.nn.ReLU(),
    "an empty module": lambda: torch.nn.Module(),
    "an empty ONNX model": onnx.ModelProto,
    "a tensor of ONNX": onnx.TensorProto,
}


def _raises(*_: object, **__: object) -> object:
    raise RuntimeError("it raises\non two lines")


@dataclass(frozen=True)
class Function:
    """A public function, and arguments with which it works."""

    call: Callable[..., object]
    valid: Callable[[Path], Mapping[str, object]]


def dense() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1))


def gated() -> torch.nn.Module:
    return torch.nn.Sequential(LCCLConv2d(3, 4, 3, padding=1)).eval()


def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((2, *SHAPE[1:])).astype(np.float32)


FUNCTIONS = {
    "export": Function(
        lccl.export,
        lambda folder: {
            "model": gated(),
            "args": torch.zeros(SHAPE),
            "path": folder / "out.onnx",
            "dynamic_hw": False,
            "dense_twin": False,
            "decomposed": False,
            "tensorrt": False,
            "data": None,
            "input_names": None,
            "output_names": None,
            "fuse": True,
            "tolerance": None,
            "metadata": None,
        },
    ),
    "export of a file": Function(
        lccl.export,
        lambda folder: {"model": folder / "model.onnx", "args": None, "path": folder / "out.onnx", "data": None},
    ),
    "build_engine": Function(
        lccl.build_engine,
        lambda folder: {
            "model": folder / "model.onnx",
            "path": folder / "out.engine",
            "backend": "no backend",
            "min_shapes": None,
            "opt_shapes": None,
            "max_shapes": None,
            "precision": "fp32",
            "workspace": None,
            "timing_cache": None,
            "compute_capabilities": (),
            "plugin": True,
            "plugin_library": None,
            "alias_residual": False,
            "tf32": False,
            "verbose": False,
        },
    ),
    "compare": Function(
        lccl.compare,
        lambda folder: {
            "networks": folder / "model.onnx",
            "data": images(),
            "baseline": None,
            "factory": None,
            "baseline_factory": None,
            "state_dict_key": None,
            "baseline_state_dict_key": None,
            "state_dict_prefix": None,
            "baseline_state_dict_prefix": None,
            "unsafe_pickle": False,
            "dense_twin": False,
            "threads": 1,
            "latency": None,
            "limits": lccl.Limits(),
            "allow_skipped": False,
            "plugin_library": None,
        },
    ),
    "profile": Function(lccl.profile, lambda _: {"model": gated(), "data": images()}),
    "inspect": Function(
        lccl.inspect,
        lambda folder: {
            "source": folder / "model.onnx",
            "data": images(),
            "args": SHAPE,
            "factory": None,
            "unsafe_pickle": False,
            "costs": None,
            "threads": 1,
            "foreign_costs": False,
        },
    ),
    "profile of a file": Function(lccl.profile, lambda folder: {"model": folder / "model.onnx", "data": images()}),
    "load_checkpoint": Function(
        lccl.load_checkpoint,
        lambda folder: {
            "path": folder / "model.pt",
            "factory": gated,
            "state_dict_key": None,
            "state_dict_prefix": None,
            "unsafe_pickle": False,
        },
    ),
    "save_checkpoint": Function(
        lccl.save_checkpoint,
        lambda folder: {
            "path": folder / "out.pt",
            "model": gated(),
            "factory": "some:factory",
            "kwargs": None,
            "input_shape": SHAPE[1:],
        },
    ),
    "convert": Function(
        lccl.nn.convert,
        lambda _: {
            "model": dense(),
            "gate": "kxk",
            "where": ["2"],
            "gate_size": 1,
            "gate_kernel_size": None,
            "gate_activation": "relu",
            "gate_norm": None,
            "order": "paper",
            "args": None,
            "density": 0.3,
            "inplace": False,
            "dry_run": False,
        },
    ),
    "recipe": Function(lccl.nn.recipe, lambda _: {"model": gated()}),
    "apply_recipe": Function(lccl.nn.apply_recipe, lambda _: {"model": dense(), "data": []}),
    "fold": Function(lccl.nn.fold, lambda _: {"model": gated()}),
    "LCCLConv2d": Function(
        LCCLConv2d,
        lambda _: {
            "in_channels": 3,
            "out_channels": 4,
            "kernel_size": 3,
            "stride": 1,
            "padding": 1,
            "dilation": 1,
            "gate": "kxk",
            "gate_size": 1,
            "gate_kernel_size": None,
            "gate_activation": "relu",
            "gate_norm": None,
            "gate_threshold": 0.0,
            "order": "paper",
            "norm": True,
            "activation": "default",
            "post_activation": "default",
            "bias": None,
            "groups": 1,
            "padding_mode": "zeros",
        },
    ),
    "ort.session": Function(
        lccl.ort.session,
        lambda folder: {"model": folder / "model.onnx", "threads": 1, "options": None, "library": None},
    ),
    "load_data": Function(load_data, lambda _: {"source": "samples.digits.data:held_out", "axes": None}),
    "load_plugin": Function(lccl.plugin.load_plugin, lambda folder: {"library": folder / "model.onnx"}),
    "warm_up": Function(lccl.warm_up, lambda _: {"model": gated(), "example": torch.zeros(SHAPE)}),
    "DensitySchedule": Function(
        lccl.train.DensitySchedule,
        lambda _: {
            "model": gated(),
            "target": 0.3,
            "steps": 10,
            "bounds": None,
            "learned": False,
            "freeze_after": None,
            "start": 1.0,
        },
    ),
    "DensityLoss": Function(lccl.train.DensityLoss, lambda _: {"model": gated(), "target": 0.3}),
    "fit_gates": Function(
        lccl.train.fit_gates,
        lambda _: {"model": gated(), "batches": [torch.zeros(SHAPE)], "importance": "energy", "loss": None, "ridge": 0.01},
    ),
    "macs_budget": Function(lccl.train.macs_budget, lambda _: {"model": gated(), "args": torch.zeros(SHAPE), "fraction": 0.7}),
    "sensitivity": Function(
        lccl.train.sensitivity,
        lambda _: {
            "model": gated(),
            "batches": [(torch.zeros(SHAPE), torch.zeros(1, dtype=torch.long))],
            "loss": lambda outputs, _: outputs.square().mean(),
            "densities": (0.5,),
        },
    ),
    "recalibrate": Function(
        lccl.train.recalibrate, lambda _: {"model": gated(), "batches": [torch.zeros(SHAPE)], "norms": "gates", "score": None}
    ),
    "time_budget": Function(
        lccl.train.time_budget,
        lambda folder: {
            "model": gated(),
            "args": SHAPE,
            "costs": folder / "costs.json",
            "fraction": 0.5,
            "threads": 1,
            "foreign_costs": False,
        },
    ),
    "parameter_groups": Function(
        lccl.train.parameter_groups, lambda _: {"model": gated(), "lr": 0.1, "weight_decay": 0.0, "gate_lr": 0.1}
    ),
    "distillation_loss": Function(
        lccl.train.distillation_loss, lambda _: {"outputs": torch.zeros(2, 3), "teacher": torch.zeros(2, 3), "temperature": 2.0}
    ),
    "Limits": Function(
        lccl.Limits,
        lambda _: {"min_agreement": 1, "min_baseline_agreement": None, "max_accuracy_drop": 1.0, "min_speedup": 1.0},
    ),
}

REFUSED = {"build_engine": "backend is one of", "load_plugin": "TensorRT is not installed|does not take the plugin"}
"""What is refused with valid types too, since no valid value is quick or at hand, and the words."""

COMMANDS = {
    "export": (export.command, ["{model}", "-o", "{out}", "--quiet"]),
    "compare": (compare.command, ["{model}", "--data", "{data}", "--runs", "0", "--quiet"]),
    "build-engine": (build_engine.command, ["{model}", "--backend", "no backend", "--quiet"]),
    "tune": (tune.command, ["{model}", "-o", "{folder}/tuned.onnx", "--data", "{data}", "--target-macs", "0.01", "--quiet"]),
    "measure": (measure.command, ["{model}", "-o", "{folder}/costs.json", "--max-seconds", "0", "--gate", "2x2", "--quiet"]),
    "inspect": (inspect_command, ["{model}", "--threads", "0", "--quiet"]),
    "doctor": (doctor.command, ["--require", "nothing of this name"]),
    "build-plugin": (build_plugin.command, ["--out", "{folder}/plugin", "--cmake", "no-such-cmake"]),
}
WORDS = [
    "", "-", "--", "a\0b", "\udcff", "x" * 5000, "0", "-1", "1e400", "nan", "inf", "[]", "{}", "None", "a:b", "x:1x3", "x:0x0x0x0",
    "1x3x8x8", "1xx3", "missing.onnx", "missing.pt", "/dev/null", ".", "/", "os:getcwd", "os:name", "sys:exit", "no.module:thing",
    "--json", "--help=1", "--data", "--args", "--factory", "--baseline", "--fp16", "--precision", "--dense-twin", "--tolerance",
    "--threads", "--min-shapes", "--opt-shapes", "--max-shapes", "--workspace", "--compute-capability", "--input-names",
    "--min-agreement", "--max-accuracy-drop", "--batch", "--state-dict-key", "--unsafe-pickle", "--plugin-library", "--explain",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with which everything works."""
    made = tmp_path_factory.mktemp("fuzz")
    model = gated()
    lccl.export(model, torch.zeros(SHAPE), made / "model.onnx")
    torch.save(model.state_dict(), made / "model.pt")
    np.savez(made / "data.npz", x=images())
    costs_of(model).save(made / "costs.json")
    return made


def costs_of(model: torch.nn.Module) -> CostTable:
    """A table with made-up times of the model's gated layers on this machine."""
    layers = []
    for layer in lccl.profile(model, torch.zeros(SHAPE)).gated:
        gated_layer = model.get_submodule(layer.name)
        assert isinstance(gated_layer, LCCLConv2d)
        conv, times = gated_layer.conv, {str(gated_layer.gate_kind): {"0.0": 1.0, "1.0": 90.0}}
        pairs = {"kernel": conv.kernel_size, "strides": conv.stride, "dilations": conv.dilation, "out_hw": (1, 1)}
        sizes = {"in_channels": conv.in_channels, "out_channels": conv.out_channels, "macs": layer.dense_macs}
        layers.append(LayerCost(name=layer.name, dense_us=100.0, gated_us=times, chained_us=times, **pairs, **sizes))  # type: ignore[arg-type]
    return CostTable(Machine.here(), 1, 1, {}, (), tuple(layers))


@contextlib.contextmanager
def within(folder: Path) -> Iterator[None]:
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def require_sentence(text: str) -> None:
    assert text.strip()
    assert "\n" not in text.strip(), text
    assert len(text) <= MOST_CHARACTERS, text[:MOST_CHARACTERS]
    assert "object at 0x" not in text, text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_valid_arguments_work(name: str, folder: Path) -> None:
    """Or else nothing below would say anything."""
    function = FUNCTIONS[name]
    with within(folder):
        if name in REFUSED:
            with pytest.raises(lccl.UserError, match=REFUSED[name]):
                function.call(**function.valid(folder))
        else:
            function.call(**function.valid(folder))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_of_each_wrong_type(name: str, folder: Path) -> None:
    function = FUNCTIONS[name]
    options = list(function.valid(folder))
    some = st.dictionaries(st.sampled_from(options), st.sampled_from(list(WRONG)), min_size=1, max_size=2)
    calls = 0

    @settings(max_examples=CALLS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(some)
    def call(wrong: dict[str, str]) -> None:
        nonlocal calls
        calls += 1
        arguments = {**function.valid(folder), **{option: WRONG[kind]() for option, kind in wrong.items()}}
        with within(folder):
            try:
                function.call(**arguments)
            except lccl.UserError as error:
                require_sentence(str(error))

    call()
    assert calls >= min(CALLS, len(options) * len(WRONG))


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_words_of_every_kind(name: str, folder: Path) -> None:
    command, valid = COMMANDS[name]
    places = {"model": folder / "model.onnx", "out": folder / "out.onnx", "data": folder / "data.npz", "folder": folder}
    words = [word.format(**places) for word in valid]
    changes = st.lists(st.tuples(st.integers(0, len(words)), st.sampled_from(WORDS), st.booleans()), min_size=1, max_size=3)
    calls = 0

    @settings(max_examples=CALLS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(changes)
    def call(changes: list[tuple[int, str, bool]]) -> None:
        nonlocal calls
        code: object
        calls += 1
        given = list(words)
        for at, word, replace in changes:
            given[at : at + replace] = [word]
        out, err = io.StringIO(), io.StringIO()
        with within(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = execute(command, given)
            except SystemExit as ended:  # of --help and --version
                code = ended.code
        assert code in (0, 1, 2), given
        if code == 1:
            lines = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, (given, err.getvalue())
            require_sentence(lines[0])
            assert "Traceback" not in err.getvalue(), given

    call()
    assert calls >= CALLS // 2


def test_there_are_enough_calls() -> None:
    assert (len(FUNCTIONS) + len(COMMANDS)) * CALLS >= 2000
