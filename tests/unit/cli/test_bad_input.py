"""What a user can do wrong: one clear sentence on stderr, exit code 1, no traceback, nothing written."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Outcome

EXPORT, BUILD, COMPARE = "lccl.cli.export", "lccl.cli.build_engine", "lccl.cli.compare"
Invoke = Callable[..., Outcome]


def refused(outcome: Outcome, *words: str) -> None:
    """Exit code 1 and one sentence that holds ``words``; nothing on stdout."""
    assert outcome.code == 1, outcome
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err, outcome.err


@pytest.fixture
def output(tmp_path: Path):
    """Where nothing must be written; the folder is held empty but for what the test put there."""
    target = tmp_path / "out"
    target.mkdir()
    yield target / "model.onnx"
    assert list(target.iterdir()) == [], "something was left behind"


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the current folder."""
    name = f"userfactories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\n"
        "from lccl.models.resnet import cifar_resnet\n"
        "def good():\n    return cifar_resnet(8, 4, in_channels=1, gated='both')\n"
        "def other():\n    return cifar_resnet(8, 8, in_channels=1, gated='both')\n"
        "def deeper():\n    return cifar_resnet(14, 4, in_channels=1, gated='both')\n"
        "def dense():\n    return cifar_resnet(8, 4, in_channels=1, gated='none')\n"
        "def broken():\n    raise RuntimeError('no such dataset')\n"
        "def exits():\n    raise SystemExit(2)\n"
        "def not_a_module():\n    return 42\n"
        "number = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    return name


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.pt", "absent.onnx"])
def test_no_such_file(invoke: Invoke, output: Path, name: str) -> None:
    refused(invoke(EXPORT, name, "-o", output), f"no such file: {name}")


def test_a_folder_is_not_a_file(invoke: Invoke, output: Path, tmp_path: Path) -> None:
    refused(invoke(EXPORT, tmp_path, "-o", output), "is not a file")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 64], ids=["empty", "text", "random"])
def test_not_a_model(invoke: Invoke, output: Path, tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    refused(invoke(EXPORT, path, "-o", output), "is not a", "cut off")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_checkpoint(invoke: Invoke, output: Path, tmp_path: Path, checkpoint: Path, part: float) -> None:
    content = checkpoint.read_bytes()
    path = tmp_path / "short.pt"
    path.write_bytes(content[: int(part * len(content))])
    refused(invoke(EXPORT, path, "-o", output), "cut off")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("module", [EXPORT, BUILD])
def test_truncated_onnx(invoke: Invoke, output: Path, tmp_path: Path, exported: Path, part: float, module: str) -> None:
    content = exported.read_bytes()
    path = tmp_path / "short.onnx"
    path.write_bytes(content[: int(part * len(content))])
    refused(invoke(module, path, "-o", output), "cut off")


class Evil:
    """Unpickling this would run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_pickle_that_runs_code(invoke: Invoke, output: Path, tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    if form == "bare":
        path.write_bytes(pickle.dumps(Evil(marker)))
    else:
        torch.save({"state_dict": Evil(marker)}, path, _use_new_zipfile_serialization=form == "zip")
    refused(invoke(EXPORT, path, "-o", output), "system", "--unsafe-pickle", "state_dict")
    assert not marker.exists()


def test_a_pickled_module_names_its_classes(invoke: Invoke, output: Path, tmp_path: Path, small_model: torch.nn.Module) -> None:
    path = tmp_path / "module.pt"
    torch.save(small_model, path)
    refused(invoke(EXPORT, path, "-o", output), "lccl.models.resnet.CifarResNet", "--unsafe-pickle")


@pytest.mark.slow
def test_unsafe_pickle_loads_it(invoke: Invoke, tmp_path: Path, small_model: torch.nn.Module) -> None:
    path, target = tmp_path / "module.pt", tmp_path / "model.onnx"
    torch.save(small_model, path)
    outcome = invoke(EXPORT, path, "-o", target, "--unsafe-pickle", "--input-shape", "1x1x16x16")
    assert outcome.code == 0, outcome.err
    assert target.exists()


@pytest.mark.slow
def test_classes_of_the_current_folder(tmp_path: Path) -> None:
    """As a factory's module is found."""
    (tmp_path / "own_net.py").write_text("import torch\nclass Net(torch.nn.Conv2d):\n    pass\n")
    save = "import own_net, torch; torch.save(own_net.Net(1, 2, 3), 'whole.pt')"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True)
    command = command_line("whole.pt", "-o", "m.onnx", "--unsafe-pickle", "--input-shape", "1x1x16x16")
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "the model has no LCCL layer" in process.stderr


def test_torchscript_says_what_to_do(invoke: Invoke, output: Path, tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    refused(invoke(EXPORT, path, "-o", output), "TorchScript", "--factory")


# ---- checkpoint and factory -----------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path, small_model: torch.nn.Module) -> Path:
    path = tmp_path / "weights.pth"
    torch.save({"model": small_model.state_dict(), "epoch": 3}, path)
    return path


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("{m}:other", ["do not fit", "stem.0.weight", "right factory"]),
        ("{m}:deeper", ["do not fit", "missing", "right factory"]),
        ("{m}:broken", ["raised RuntimeError: no such dataset"]),
        ("{m}:exits", ["raised SystemExit"]),
        ("{m}:not_a_module", ["returned an int, not an nn.Module"]),
        ("{m}:number", ["is not callable"]),
        ("{m}:absent", ["has no 'absent'"]),
        ("nosuchmodule:f", ["cannot import nosuchmodule"]),
        ("nocolon", ["pkg.module:callable"]),
    ],
)
def test_factory(invoke: Invoke, output: Path, weights: Path, factories: str, factory: str, words: list[str]) -> None:
    refused(
        invoke(EXPORT, weights, "--factory", factory.format(m=factories), "--input-shape", "1x1x16x16", "-o", output), *words
    )


def test_weights_without_a_factory(invoke: Invoke, output: Path, weights: Path) -> None:
    refused(invoke(EXPORT, weights, "-o", output), "--factory pkg.module:factory")


def test_weights_without_a_shape(invoke: Invoke, output: Path, weights: Path, factories: str) -> None:
    refused(invoke(EXPORT, weights, "--factory", f"{factories}:good", "-o", output), "--input-shape")


@pytest.mark.slow
@pytest.mark.parametrize(
    "factory",
    [
        "lccl.models.resnet:nn.modules.module.torch.os.system",
        "lccl.models.resnet:CifarResNet",
        "lccl.models.resnet:nn.Sequential",
        "os:system",
        "userfactories:broken",
    ],
)
def test_a_file_does_not_reach_code_through_a_trusted_module(
    invoke: Invoke, output: Path, tmp_path: Path, checkpoint: Path, samples: Path, factory: str
) -> None:
    """Attributes of a trusted module lead anywhere: only exact names are trusted."""
    marker = tmp_path / "ran"
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "factory": factory, "kwargs": {"command": f"touch {marker}"}}, tmp_path / "evil.pt")
    refused(invoke(EXPORT, tmp_path / "evil.pt", "-o", output), "asks to run", f"--factory {factory}")
    refused(invoke(COMPARE, tmp_path / "evil.pt", "--data", samples), "asks to run", f"--factory {factory}")
    dense = invoke(COMPARE, checkpoint, "--baseline", tmp_path / "evil.pt", "--data", samples)
    refused(dense, "asks to run", f"--baseline-factory {factory}")
    assert not marker.exists()


@pytest.mark.slow
def test_a_module_in_the_current_folder_hides_no_package(tmp_path: Path, checkpoint: Path) -> None:
    """Exporting in a folder that somebody else filled runs nothing of it."""
    for name in ("onnxscript", "onnxruntime", "numpy", "torch"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    script = Path(sys.executable).parent / "lccl-export"
    process = subprocess.run([script, checkpoint, "-o", "m.onnx"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert list(tmp_path.glob("*.ran")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"factory": 5},
        {"factory": None},
        {"kwargs": [1, 2]},
        {"input_shape": "abc"},
        {"input_shape": [0, -1, 3]},
        {"state_dict": None},
        {"state_dict": {1: torch.zeros(1)}},
    ],
)
def test_a_malformed_checkpoint_of_our_own(
    invoke: Invoke, output: Path, tmp_path: Path, checkpoint: Path, change: dict[str, object]
) -> None:
    torch.save({**torch.load(checkpoint, weights_only=True), **change}, tmp_path / "own.pt")
    refused(invoke(EXPORT, tmp_path / "own.pt", "-o", output), "not a well-formed lccl checkpoint")


def test_several_state_dicts(
    invoke: Invoke, output: Path, tmp_path: Path, small_model: torch.nn.Module, factories: str
) -> None:
    path = tmp_path / "two.pt"
    torch.save({"a": small_model.state_dict(), "b": small_model.state_dict()}, path)
    refused(invoke(EXPORT, path, "--factory", f"{factories}:good", "-o", output), "a, b", "--state-dict-key")
    refused(
        invoke(EXPORT, path, "--state-dict-key", "c", "--factory", f"{factories}:good", "-o", output), "no state dict under 'c'"
    )


def test_no_state_dict(invoke: Invoke, output: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.pt"
    for content, kind in (([1, 2, 3], "a list"), (torch.zeros(2), "a Tensor"), ({"epoch": 3}, "the keys epoch")):
        torch.save(content, path)
        refused(invoke(EXPORT, path, "-o", output), f"holds no state dict; it holds {kind}: save model.state_dict()")


def test_nan_in_the_weights(invoke: Invoke, output: Path, tmp_path: Path, small_model: torch.nn.Module, factories: str) -> None:
    state = {k: v.clone() for k, v in small_model.state_dict().items()}
    state["stages.1.0.conv1.conv.weight"][0, 0, 0, 0] = float("nan")
    path = tmp_path / "nan.pt"
    torch.save(state, path)
    refused(invoke(EXPORT, path, "--factory", f"{factories}:good", "-o", output), "stages.1.0.conv1.conv.weight", "NaN")


def test_nan_in_onnx_weights(invoke: Invoke, output: Path, tmp_path: Path, exported: Path) -> None:
    import onnx

    model = onnx.load(exported)
    tensor = next(t for t in model.graph.initializer if t.name == "stages.0.0.conv1.W")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = tmp_path / "nan.onnx"
    onnx.save(model, path)
    refused(invoke(EXPORT, path, "-o", output), "stages.0.0.conv1.W", "NaN")


@pytest.mark.slow
def test_a_model_without_a_gate(invoke: Invoke, output: Path, tmp_path: Path, factories: str, exported: Path) -> None:
    from lccl.models.resnet import cifar_resnet

    path = tmp_path / "dense.pt"
    torch.save(cifar_resnet(8, 4, in_channels=1, gated="none").state_dict(), path)
    arguments = ["--factory", f"{factories}:dense", "--input-shape", "1x1x16x16", "-o", output]
    refused(invoke(EXPORT, path, *arguments), "no LCCL layer", "lccl.nn.LCCLConv2d")
    refused(invoke(EXPORT, exported.with_suffix(".dense.onnx"), "-o", output), "no LCCL layer or LCCLConv node")


# ---- shapes and options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("1x3x16x16", ["does not run", "[1, 3, 16, 16]"]),
        ("1x16", ["does not run"]),
        ("1x16x16", ["does not run", "includes the batch", "--input-shape 1x1x16x16"]),
        ("axb", ["1x3x224x224"]),
        ("0x1", ["1x3x224x224"]),
    ],
)
def test_wrong_input_shape(invoke: Invoke, output: Path, checkpoint: Path, shape: str, words: list[str]) -> None:
    refused(invoke(EXPORT, checkpoint, "--input-shape", shape, "-o", output), *words)


@pytest.mark.slow
def test_wrong_real_inputs(invoke: Invoke, output: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, x=np.zeros((4, 3, 16, 16), np.float32))
    refused(invoke(EXPORT, checkpoint, "--data", path, "-o", output), "[4, 3, 16, 16]")


def test_inputs_that_are_no_npz(invoke: Invoke, output: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.npz"
    path.write_text("hello")
    refused(invoke(EXPORT, checkpoint, "--data", path, "-o", output), "is not an .npz file")


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-1"])
def test_a_tolerance_that_checks_nothing(invoke: Invoke, output: Path, checkpoint: Path, tolerance: str) -> None:
    refused(invoke(EXPORT, checkpoint, "--tolerance", tolerance, "-o", output), "tolerance is a number of at least 0")


@pytest.mark.parametrize(
    "limit",
    [("--min-agreement", "99"), ("--min-agreement", "nan"), ("--min-speedup", "inf"), ("--min-baseline-agreement", "-1")],
)
def test_limits_out_of_range(invoke: Invoke, exported: Path, samples: Path, limit: tuple[str, str]) -> None:
    refused(invoke(COMPARE, exported, "--data", samples, *limit), limit[0], limit[1])


def test_output_name(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    refused(invoke(EXPORT, checkpoint, "-o", tmp_path / "model.pt"), "ends with .onnx")


def test_output_folder_is_missing(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    refused(invoke(EXPORT, checkpoint, "-o", tmp_path / "absent" / "model.onnx"), "does not exist")


@pytest.mark.parametrize("module", [EXPORT, BUILD, COMPARE])
def test_wrong_usage_is_the_users_fault(invoke: Invoke, module: str) -> None:
    outcome = invoke(module, "--no-such-option")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert "--help" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-shapes", "x:8x3x16x16"], ["does not fit input x", "?x1x16x16"]),
        (["--max-shapes", "y:8x1x16x16"], ["no input 'y'"]),
        (["--max-shapes", "8x1x16x16"], ["input:1x3x224x224"]),
        (["--min-shapes", "x:4x1x16x16", "--max-shapes", "x:2x1x16x16"], ["must grow"]),
        (["--compute-capability", "9.0"], ["not for 9.0", "8.9"]),
        (["--compute-capability", "sm89"], ["written like 8.9"]),
        (["--workspace", "0"], ["--workspace"]),
        (["--timing-cache", "cache"], ["--timing-cache"]),
    ],
)
def test_engine_options(invoke: Invoke, exported: Path, tmp_path: Path, options: list[str], words: list[str]) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: pip install 'lccl[rtx]'")
    target = tmp_path / "model.engine"
    refused(invoke(BUILD, exported, "-o", target, "--backend", "tensorrt-rtx", *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_does_not_replace_its_model(invoke: Invoke, exported: Path) -> None:
    before = exported.read_bytes()
    refused(invoke(BUILD, exported, "-o", exported), "would replace its model")
    assert exported.read_bytes() == before


# ---- the machine ----------------------------------------------------------------------------------------------------


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lccl.cli.export", *map(str, arguments)]


def test_no_permission(invoke: Invoke, checkpoint: Path) -> None:
    """As a user who may not write there: root, who may write anywhere, becomes nobody for the call."""
    is_root = os.getuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source = Path(folder) / "small.pt"
        source.write_bytes(checkpoint.read_bytes())
        source.chmod(0o644)
        locked = Path(folder) / "locked"
        locked.mkdir(mode=0o555)
        if is_root:
            os.setresuid(65534, 65534, 0)
        try:
            outcome = invoke(EXPORT, source, "-o", locked / "m.onnx")
        finally:
            if is_root:
                os.setresuid(0, 0, 0)
        refused(outcome, "no permission to write")
        assert list(locked.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk(checkpoint: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the write fails in the middle."""
    process = subprocess.run(
        command_line(checkpoint, "-o", tmp_path / "m.onnx"),
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},  # its file is larger
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    refused(Outcome(process.returncode, process.stdout, process.stderr), "cannot write", "nothing was written")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
@pytest.mark.parametrize("library", ["libtorch_cpu", "libtorch_python", "onnx_cpp2py_export"])
def test_interrupted_while_importing(checkpoint: Path, tmp_path: Path, library: str, number: signal.Signals) -> None:
    """The moment is when the process has mapped the library's file: its import is under way."""
    process = subprocess.Popen(
        command_line(checkpoint, "-o", tmp_path / "m.onnx"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and f"/{library}" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.001)
    process.send_signal(number)
    assert ended(process) == (1, "", "interrupted: no file was left half-written\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_interrupted_while_writing(tmp_path: Path, number: signal.Signals) -> None:
    """Also from inside code that is run by ``exec``, as libraries do."""
    program = (
        "import sys, time\n"
        "from lccl.command_line import run\n"
        "from lccl.files import atomic_path\n"
        "def command(arguments):\n"
        "    with atomic_path(arguments[0]) as temporary:\n"
        "        temporary.write_text('half')\n"
        "        exec('print(\"ready\", flush=True); time.sleep(60)')\n"
        "run(command)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "m.onnx"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["half"]
    process.send_signal(number)
    assert ended(process) == (1, "", "interrupted: no file was left half-written\n")
    assert list(tmp_path.iterdir()) == []


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """A process's exit code and what it printed since it was last read."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.slow
def test_ctrl_c_while_writing(invoke: Invoke, output: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    outcome = invoke(EXPORT, checkpoint, "-o", output)
    assert (outcome.code, outcome.err) == (1, "interrupted: no file was left half-written\n")


def test_missing_builder(invoke: Invoke, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(invoke(BUILD, exported, "-o", tmp_path / "m.engine"), "no engine builder", "lccl[trt]", "lccl[rtx]")
    refused(invoke(BUILD, exported, "-o", tmp_path / "m.engine", "--backend", "tensorrt"), "TensorRT is not installed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_result_that_cannot_be_printed(exported: Path, samples: Path) -> None:
    command = [sys.executable, "-m", "lccl.cli.compare", str(exported), "--data", str(samples), "--runs", "0"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (process.returncode, process.stderr) == (1, "error: No space left on device\n")


# ---- compare --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": np.zeros((4, 3, 16, 16), np.float32)}, ["x is [4, 3, 16, 16], but the model takes"]),
        ({"x": np.zeros((4, 1, 16, 16), np.float32), "labels": np.zeros(3)}, ["differ in length"]),
        ({"x": np.zeros((0, 1, 16, 16), np.float32)}, ["no sample"]),
    ],
)
def test_compare_data(invoke: Invoke, exported: Path, tmp_path: Path, data: dict[str, np.ndarray], words: list[str]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **data)
    refused(invoke(COMPARE, exported, "--data", path), *words)


def test_compare_limits_that_nothing_can_be_held_to(invoke: Invoke, exported: Path, samples: Path) -> None:
    """The decomposed file has one runner wherever it is: the CPU op finds no node in it."""
    arguments = (exported.with_suffix(".decomposed.onnx"), "--data", samples, "--runs", "0")
    refused(
        invoke(COMPARE, *arguments, "--min-agreement", "1"),
        "min-agreement needs a second runner",
        "pass --min-baseline-agreement 1.0",
    )
    refused(invoke(COMPARE, *arguments, "--max-accuracy-drop", "1"), "max-accuracy-drop needs", "--baseline")
    refused(invoke(COMPARE, *arguments, "--min-speedup", "1"), "min-speedup needs")


def test_compare_a_dense_model_as_lccl(invoke: Invoke, exported: Path, samples: Path) -> None:
    refused(
        invoke(COMPARE, exported.with_suffix(".dense.onnx"), "--data", samples),
        "no LCCLConv node",
        f"--baseline {exported.with_suffix('.dense.onnx')}",
    )


def test_compare_unknown_file(invoke: Invoke, samples: Path) -> None:
    refused(invoke(COMPARE, samples, "--data", samples), "a network is a .pt, .onnx or .engine file")


def test_compare_loader_that_raises(invoke: Invoke, exported: Path, factories: str) -> None:
    refused(invoke(COMPARE, exported, "--data", f"{factories}:broken"), "raised RuntimeError: no such dataset")
