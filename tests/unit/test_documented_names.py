"""Everything that the READMEs of version 0.1.0 name goes on working: names, calls, commands, options, checkpoints, side-cars.

What is renamed keeps its old spelling for one release. The files in ``documented/`` were written by that version.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import lccl
from conftest import ROOT, Outcome

FOLDER = Path(__file__).parent / "documented"
GATED = FOLDER / "gated.pt"
DENSE_FACTORY = "lccl.models.resnet:cifar_resnet"


@pytest.fixture(autouse=True)
def warnings_are_no_errors() -> Iterator[None]:
    """An old spelling warns; the tests of that are beside each new one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


NAMES = (
    "lccl:__version__",
    "lccl:ContractError",
    "lccl:UserError",
    "lccl:build_engine",
    "lccl:compare",
    "lccl:export",
    "lccl:load_checkpoint",
    "lccl:load_plugin",
    "lccl:plugin_path",
    "lccl:profile",
    "lccl:save_checkpoint",
    "lccl.comparing:Check",
    "lccl.comparing:Comparison",
    "lccl.comparing:Data",
    "lccl.comparing:Latency",
    "lccl.comparing:LatencyPlan",
    "lccl.comparing:Limits",
    "lccl.comparing:Row",
    "lccl.comparing:Setting",
    "lccl.comparing:compare",
    "lccl.data:load_data",
    "lccl.engine:EngineResult",
    "lccl.engine:build_engine",
    "lccl.engine:read_sidecar",
    "lccl.exporting:ExportResult",
    "lccl.exporting:export",
    "lccl.models.resnet:cifar_resnet",
    "lccl.nn:ConvInfo",
    "lccl.nn:ConversionPlan",
    "lccl.nn:Gate",
    "lccl.nn:LCCLConv2d",
    "lccl.nn:apply_recipe",
    "lccl.nn:convert",
    "lccl.nn:fold",
    "lccl.nn:recipe",
    "lccl.ort:Found",
    "lccl.ort:cpu_level",
    "lccl.ort:find_library",
    "lccl.ort:library_path",
    "lccl.ort:look_for_library",
    "lccl.ort:session",
    "lccl.plugin:find_plugin",
    "lccl.plugin:load_plugin",
    "lccl.plugin:plugin_path",
    "lccl.profiling:LayerProfile",
    "lccl.profiling:Profile",
    "lccl.profiling:profile",
    "lccl.metrics:Metric",
    "lccl.train:Budget",
    "lccl.train:DensityLoss",
    "lccl.train:DensitySchedule",
    "lccl.train:allocate",
    "lccl.train:distillation_loss",
    "lccl.train:fit_gates",
    "lccl.train:macs_budget",
    "lccl.train:parameter_groups",
    "lccl.train:recalibrate",
    "lccl.train:sensitivity",
    "lccl.tuning:TuneResult",
    "lccl.tuning:tune",
)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_importable(name: str) -> None:
    module, _, attribute = name.partition(":")
    assert hasattr(import_module(module), attribute)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nn", "ort"])
def test_name_is_reachable_without_an_import_of_its_own(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import lccl; lccl.{name}"], check=True)


# ---- commands ---------------------------------------------------------------------------------------------------------------

EXPORT, BUILD_ENGINE, COMPARE, BUILD_PLUGIN = (f"lccl.cli.{n}" for n in ("export", "build_engine", "compare", "build_plugin"))
LINES = (
    (EXPORT, "lccl.pt -o model.onnx --dense --decomposed --inputs samples.digits.data:held_out"),
    (EXPORT, "lccl.pt -o model.onnx --inputs samples.digits.data:held_out"),
    (EXPORT, "gated.pt --model mynet:build -o model.onnx"),
    (EXPORT, "any.onnx -o model.onnx --explain --no-fuse"),
    (EXPORT, "program.pt2 -o model.onnx --unsafe-pickle"),
    (EXPORT, "model.onnx --output out.onnx --tensorrt --json --quiet"),
    (EXPORT, "w.pth --model m:f --state-dict-key k --input-shape 1x3x8x8 --dynamic-hw --tolerance 1e-3 -q -o m.onnx"),
    (BUILD_ENGINE, "model.onnx --backend tensorrt-rtx --fp16 --compute-capability 8.6 8.9"),
    (BUILD_ENGINE, "model.onnx --bf16"),
    (BUILD_ENGINE, "model.onnx --no-plugin --tf32 --alias-residual"),
    (BUILD_ENGINE, "model.onnx --plugin library.so --workspace 64 --timing-cache cache -v --json --quiet -o m.engine"),
    (BUILD_ENGINE, "model.onnx --min-shapes x:1x3x8x8 --opt-shapes x:8x3x8x8 --max-shapes x:32x3x8x8"),
    (COMPARE, "lccl.pt model.onnx --dense dense.pt --data a:b --min-agreement 0.999 --max-accuracy-drop 0.5"),
    (COMPARE, "gated.pt --model mynet:build --dense dense.pt --dense-model mynet:build --data data.npz"),
    (COMPARE, "lccl.pt lccl.onnx lccl.engine --dense dense.pt --data a:b --min-agreement 1 --allow-skipped"),
    (COMPARE, "a.pt --data d.npz --min-speedup 1 --min-speedup-runner onnxruntime-lccl --min-dense-agreement 0.9"),
    (COMPARE, "a.pt --data d.npz --no-twin --threads 2 --batch 4 --warmup 0 --runs 0 --max-seconds 3 --plugin p.so --json"),
    (BUILD_PLUGIN, ""),
    (BUILD_PLUGIN, "--compute-capability 8.6 8.9"),
    (BUILD_PLUGIN, "--compute-capability all --tensorrt-root /trt --jobs 2 -o folder --json --quiet"),
)


@pytest.mark.parametrize(("module", "line"), LINES, ids=[f"{m.rpartition('.')[2]} {line}"[:60] for m, line in LINES])
def test_options_are_accepted(module: str, line: str) -> None:
    import_module(module).parser().parse_intermixed_args(line.split())


def test_the_commands_are_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for command in ("lccl-export", "lccl-build-engine", "lccl-build-plugin", "lccl-compare"):
        module, _, function = scripts[command].partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("module", ["lccl.ort", "lccl.plugin", "lccl.cuda"])
@pytest.mark.parametrize("option", ["--help", "--library"])
def test_modules_that_are_commands(module: str, option: str) -> None:
    words = [option] if option == "--help" else [option, "/nowhere.so", "--json"]
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if option == "--help" else 1)
    assert "usage: python -m " + module in done.stdout if option == "--help" else done.stderr.startswith("error: ")


def test_what_python_m_lccl_cuda_takes() -> None:
    words = "--shape 8x128x160x160 --out-channels 128 --kernel 3 --grid 8 --density 0.25 --device 8.0x108 --json"
    done = subprocess.run(
        [sys.executable, "-m", "lccl.cuda", "--library", "/nowhere.so", *words.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("error: ")


@pytest.mark.slow
def test_a_walk_through_the_commands(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    """As the README's, on a network of this folder; the compared limit falls short on purpose at the end."""
    expected = np.load(FOLDER / "expected.npz")
    np.savez(tmp_path / "data.npz", x=expected["x"], labels=np.zeros(3, np.int64))
    dense = lccl.models.resnet.cifar_resnet(8, 4, in_channels=1, gated="none").eval()  # type: ignore[attr-defined]
    lccl.save_checkpoint(
        tmp_path / "dense.pt", dense, DENSE_FACTORY, {"depth": 8, "width": 4, "in_channels": 1, "gated": "none"}
    )
    model = tmp_path / "model.onnx"
    done = invoke(EXPORT, GATED, "-o", model, "--dense", "--decomposed", "--tensorrt", "--inputs", tmp_path / "data.npz")
    assert done.code == 0, done.err
    assert {p.name for p in tmp_path.glob("*.onnx")} == {
        f"model{kind}.onnx" for kind in ("", ".dense", ".decomposed", ".tensorrt")
    }
    words = (COMPARE, GATED, model, "--dense", tmp_path / "dense.pt", "--data", tmp_path / "data.npz", "--runs", "0")
    done = invoke(*words, "--min-agreement", 1, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["rows"]
    assert invoke(*words, "--max-accuracy-drop", -101).code == 2
    done = invoke(COMPARE, GATED, "--data", "nowhere.npz", "--json")
    assert done.code == 1
    assert json.loads(done.out)["error"].startswith("no such file")


# ---- Python -----------------------------------------------------------------------------------------------------------------


def test_checkpoints_load_with_their_recipes(tmp_path: Path) -> None:
    """One of lccl's own, and one of another format that holds the recipe; the numbers are what 0.1.0 gave."""
    content = torch.load(GATED, weights_only=True)
    own = tmp_path / "own.pt"
    torch.save({"state_dict": content["state_dict"], "lccl_recipe": content["lccl_recipe"]}, own)
    expected = np.load(FOLDER / "expected.npz")

    def build() -> torch.nn.Module:
        return lccl.models.resnet.cifar_resnet(8, 4, in_channels=1, gated="none")  # type: ignore[attr-defined, no-any-return]

    for model in (lccl.load_checkpoint(GATED), lccl.load_checkpoint(own, build)):
        assert any(isinstance(m, lccl.nn.LCCLConv2d) for m in model.modules())
        with torch.no_grad():
            np.testing.assert_allclose(model(torch.from_numpy(expected["x"])).numpy(), expected["y"], rtol=0, atol=1e-6)
    assert lccl.load_checkpoint(ROOT / "samples" / "digits" / "lccl.pt") is not None


def test_sidecars_are_read() -> None:
    from lccl.engine import read_sidecar

    content = read_sidecar(FOLDER / "model.engine")
    assert content["format"] == 1
    assert content["backend"] == "tensorrt"
    assert content["plugin"]["file"] == "liblccl_trt_plugin.so"
    assert content["layers"] == [{"name": "conv", "op": "LCCLConv", "path": "plugin"}]


@pytest.mark.slow
def test_export_run_and_compare(tmp_path: Path) -> None:
    model, x = lccl.load_checkpoint(GATED), np.load(FOLDER / "expected.npz")["x"]
    path = tmp_path / "mine.onnx"
    result = lccl.export(
        model, torch.from_numpy(x), path, dense=True, decomposed=True, tensorrt=True, inputs={"x": x}, fuse=False
    )
    assert "gated" in str(result)
    assert "No product" in result.explain()
    assert result.dense_path == tmp_path / "mine.dense.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # without the CPU op
        session = lccl.ort.session(str(path), threads=1)
    assert session.run(None, {session.get_inputs()[0].name: x})[0].shape == (3, 10)
    assert lccl.profile(model, [x]).images == 3
    comparison = lccl.compare([model, path], x, dense=None, factory=None, dense_factory=None, twin=False, latency=None)
    assert bool(comparison)
    assert {row.role for row in comparison.rows} == {"lccl"}
    limits = lccl.comparing.Limits(min_dense_agreement=0.5)  # type: ignore[attr-defined]
    assert limits.min_dense_agreement == 0.5


def test_data(tmp_path: Path) -> None:
    from lccl.data import load_data

    np.savez(tmp_path / "d.npz", x=np.zeros((2, 1, 4, 4)), labels=np.zeros(2, int))
    data = load_data(tmp_path / "d.npz")
    assert list(data.inputs) == ["x"]
    assert data.labels is not None


def test_convert_train_and_save(tmp_path: Path) -> None:
    from lccl.train import DensityLoss

    dense = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    ).eval()
    example = torch.randn(1, 3, 8, 8)
    print(lccl.nn.convert(dense, dry_run=True, example=example))
    model = lccl.nn.convert(dense, gate="kxk", where="first-of-block", order="released", example=example)
    loss = DensityLoss(model.train(), target=0.3)
    model(torch.randn(2, 3, 8, 8))
    loss().backward()
    loss.close()
    lccl.save_checkpoint(tmp_path / "gated.pt", model, "mynet:build", input_shape=(3, 8, 8))
    assert lccl.nn.recipe(model)


def test_a_gate_takes_its_activation_and_norm_by_position() -> None:
    gate = lccl.nn.Gate(4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), "hardtanh", True)
    assert gate.activation == "hardtanh"
    assert isinstance(gate.norm, torch.nn.BatchNorm2d)


def test_libraries() -> None:
    """Each is a path, or an error that says how to get it."""
    for find in (lccl.plugin_path, lccl.ort.library_path):
        try:
            path = find()
        except lccl.UserError:
            continue
        assert path.is_file()
    with pytest.raises(lccl.UserError):
        lccl.load_plugin("/nowhere.so")
