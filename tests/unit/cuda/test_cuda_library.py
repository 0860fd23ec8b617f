"""Lookup and loading of the kernels' library, and its functions in Python, without PyTorch."""

from __future__ import annotations

import _ctypes
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lccl.backends.torch.cuda import library as library_module
from lccl.backends.torch.cuda import planning
from lccl.backends.torch.cuda.interface import ConvParams, Device, Dtype, Family, Math
from lccl.backends.torch.cuda.library import ENVIRONMENT, Library, library_path, load
from lccl.backends.torch.cuda.planning import conv_params, layer_attributes, layer_shapes
from lccl.cuda.__main__ import EPILOG
from lccl.errors import ContractError, UserError

H200 = Device(90, 132, 232448, 233472)


def layer(grid: int = 1, density: float = 0.25, dtype: Dtype = Dtype.FLOAT16, size: int = 56, batch: int = 8) -> ConvParams:
    """A 3x3 layer of 64 channels."""
    gate_kernel = (grid, grid)
    attributes = layer_attributes((3, 3), grid=grid, gate_kernel=gate_kernel, density=density)
    shapes = layer_shapes((batch, 64, size, size), 64, (3, 3), attributes, gate_kernel)
    return conv_params(shapes, attributes, dtype)


# ---- finding and loading -------------------------------------------------------------------------


def test_a_missing_library_is_one_sentence_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no kernel library at .*none.so: build it .* or set {ENVIRONMENT}"):
        load(tmp_path / "none.so")


def test_a_file_that_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.so").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"does not load: .*text\.so"):
        load("text.so")


def test_a_library_of_something_else() -> None:
    with pytest.raises(UserError, match="has no function lccl_conv_config_count"):
        load(_ctypes.__file__)


def test_a_library_of_another_version(emulator_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library refuses a call with a struct of another version."""
    monkeypatch.setattr(planning, "ABI", 999)
    with pytest.raises(UserError, match=r"does not take the calls of this version of lccl .*build it again"):
        Library(emulator_library.path)


def test_the_order_of_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library_module, "PACKAGED", tmp_path / "packaged.so")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert library_path() == tmp_path / "packaged.so"
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "named.so"))
    assert library_path() == tmp_path / "named.so"
    assert library_path(tmp_path / "given.so") == tmp_path / "given.so"
    with pytest.raises(UserError, match=r"named\.so"):
        load()


def test_a_library_is_loaded_once(emulator_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(emulator_library.path))
    assert load() is load(emulator_library.path)
    assert str(emulator_library.path) in repr(load())


def test_loading_needs_neither_pytorch_nor_numpy() -> None:
    code = "import lccl.backends.torch.cuda.library, lccl.cuda.__main__, sys; print(*(m for m in ('torch', 'numpy', 'onnx') if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == []


# ---- the table -----------------------------------------------------------------------------------


def test_configurations(emulator_library: Library) -> None:
    configs = emulator_library.configs()
    assert len({c.id for c in configs}) == len({c.name for c in configs}) == len(configs)
    assert all(c.id > 0 for c in configs)
    assert {(c.family, c.math) for c in configs} == {(f, e) for f in Family for e in Math}
    assert all(c.tile_m > 0 and c.shared_bytes > 0 and 0 < c.max_registers <= 255 for c in configs)
    assert configs[0].as_dict()["family"] == configs[0].family.name.lower()
    assert configs[0].as_dict()["engine"] == configs[0].as_dict()["math"] == configs[0].math.name.lower()


def test_a_row_by_id_or_name(emulator_library: Library) -> None:
    config = emulator_library.configs()[1]
    assert emulator_library.config(config.id) == emulator_library.config(config.name) == config
    with pytest.raises(UserError, match="no configuration 'other'"):
        emulator_library.config("other")


# ---- planning ------------------------------------------------------------------------------------


def test_support_is_true_or_says_why(emulator_library: Library) -> None:
    for params, family in ((layer(1), Family.BLOCK), (layer(4), Family.PIXEL)):
        for config in emulator_library.configs():
            support = emulator_library.supported(params, H200, config.id)
            assert bool(support) == (config.math == Math.MMA and config.family != family), config.name
            assert bool(support) == (support.reason == "")
            assert support or config.name in support.reason
    assert emulator_library.supported(layer(), H200).as_dict() == {"supported": True, "reason": ""}


def test_the_choice_is_the_smallest_prediction(emulator_library: Library) -> None:
    for grid in (1, 8):
        for density in (-1.0, 0.05, 0.5, 1.0):
            params = layer(grid, density)
            times = {c.id: emulator_library.predict(params, H200, c.id) for c in emulator_library.configs()}
            can = {id_: time for id_, time in times.items() if time is not None}
            assert set(can) == {c.id for c in emulator_library.configs() if emulator_library.supported(params, H200, c.id)}
            assert min(can.values()) > 0
            assert can[emulator_library.choose(params, H200)] == min(can.values())


def test_none_can_run_a_kernel_of_eight(emulator_library: Library) -> None:
    attributes = layer_attributes((8, 8))
    params = conv_params(layer_shapes((1, 8, 20, 20), 8, (8, 8), attributes), attributes, Dtype.FLOAT16)
    assert emulator_library.choose(params, H200) == 0
    assert "1x1 to 7x7" in emulator_library.supported(params, H200).reason


def test_workspace_grows_with_the_input(emulator_library: Library) -> None:
    for config in emulator_library.configs():
        if not emulator_library.supported(layer(), H200, config.id):
            continue
        sizes = [
            emulator_library.workspace(layer(size=size, batch=batch), H200, config.id)
            for batch in (1, 2, 8)
            for size in (7, 56, 160)
        ]
        assert sizes[0] > 0
        for i, smaller in enumerate(sizes):
            assert all(smaller <= sizes[j] for j in range(len(sizes)) if j // 3 >= i // 3 and j % 3 >= i % 3), config.name


def test_a_launch_that_is_refused(emulator_library: Library) -> None:
    blocks = next(c for c in emulator_library.configs() if c.family == Family.BLOCK)
    with pytest.raises(ContractError, match="skips blocks"):
        emulator_library.launch(layer(1), H200, blocks.id, 256, 1 << 30)
    with pytest.raises(ContractError, match="lccl_conv_choose gives one"):
        emulator_library.launch(layer(1), H200, 0, 256, 1 << 30)
    chosen = emulator_library.choose(layer(1), H200)
    needed = emulator_library.workspace(layer(1), H200, chosen)
    call = layer(1)
    for name in ("x", "weight", "bias", "gate_weight", "gate_bias", "post_scale", "post_bias", "y"):
        setattr(call, name, 256)  # never read: the call is refused
    with pytest.raises(UserError, match=f"the workspace has {needed - 1} bytes, and the call needs {needed}"):
        emulator_library.launch(call, H200, chosen, 256, needed - 1)


def test_rates_move_predictions(emulator_library: Library) -> None:
    """Every constant changes some prediction; without constants, the device's own apply."""
    rates = emulator_library.rates(H200)
    assert all(getattr(rates, name) > 0 for name, _ in rates._fields_)
    calls = [(layer(1, 0.05), "pixel"), (layer(1, 0.9), "dense"), (layer(8, 0.25, batch=1, size=7), "block")]
    chosen = [(p, c.id) for p, family in calls for c in emulator_library.configs() if c.name.startswith(f"{family}-mma")]
    float32 = layer(1, 0.5, Dtype.FLOAT32)
    chosen.append((float32, emulator_library.choose(float32, H200)))
    added = layer(1, 0.05)
    added.has_residual = 1
    chosen.append((added, emulator_library.choose(added, H200)))
    before = [emulator_library.predict(p, H200, c) for p, c in chosen]
    assert before == [emulator_library.predict(p, H200, c, rates) for p, c in chosen]
    for name, _ in rates._fields_:
        if name in ("rows_flops", "boxes_flops"):
            continue  # of kernels that the emulator has not
        other = emulator_library.rates(H200)
        setattr(other, name, getattr(rates, name) / 100)
        assert [emulator_library.predict(p, H200, c, other) for p, c in chosen] != before, name


def test_blocks_that_run_at_once(emulator_library: Library) -> None:
    config = emulator_library.config("pixel-mma-64x64-s4-w2x2")
    assert emulator_library.resident_blocks(H200, config.id) == 132 * 3
    assert emulator_library.resident_blocks(Device(86, 84, 101376, 102400), config.id) == 84
    assert emulator_library.resident_blocks(H200, 12345) == 0


def test_the_device_of_the_library(emulator_library: Library) -> None:
    device = emulator_library.device()
    assert device.compute_capability >= 70
    assert device.sm_count > 0
    assert device.shared_per_sm >= device.shared_per_block >= 48 * 1024


def test_the_device_that_is_not_there(emulator_library: Library) -> None:
    with pytest.raises(UserError, match="CUDA device -2 cannot be asked"):
        emulator_library.device(-2)


# ---- the command ---------------------------------------------------------------------------------


def command(*arguments: str, library: Path | None = None) -> subprocess.CompletedProcess[str]:
    given = ("--library", str(library)) if library else ()
    return subprocess.run([sys.executable, "-m", "lccl.cuda", *given, *arguments], capture_output=True, text=True, check=False)


def test_the_command_prints_the_table(emulator_library: Library) -> None:
    out = command(library=emulator_library.path)
    assert out.returncode == 0, out.stderr
    for config in emulator_library.configs():
        assert re.search(rf"^0x{config.id:x} .*{config.name}", out.stdout, re.MULTILINE)


def test_the_command_prints_json(emulator_library: Library) -> None:
    out = command("--json", library=emulator_library.path)
    assert json.loads(out.stdout)["configs"] == [c.as_dict() for c in emulator_library.configs()]
    out = command("--shape", "1x64x56x56", "--device", "9.0x132", "--json", library=emulator_library.path)
    said = json.loads(out.stdout)
    times = {row["id"]: row["predicted_us"] for row in said["configs"] if row["predicted_us"] is not None}
    assert said["chosen"] == min(times, key=lambda id_: times[id_])


def test_the_command_says_what_each_configuration_would_cost(emulator_library: Library) -> None:
    arguments = "--shape 1x64x56x56 --out-channels 64 --kernel 3 --grid 8 --gate-kernel 8 --density 0.25 --device 9.0x132"
    out = command(*arguments.split(), library=emulator_library.path)
    assert out.returncode == 0, out.stderr
    params = layer(8, batch=1)
    chosen = emulator_library.config(emulator_library.choose(params, H200))
    assert out.stdout.splitlines()[-1] == f"chosen: {chosen.name}"
    for config in emulator_library.configs():
        time = emulator_library.predict(params, H200, config.id)
        line = next(line for line in out.stdout.splitlines() if line.startswith(f"{config.name} "))
        said = "chosen" if config == chosen else emulator_library.supported(params, H200, config.id).reason
        assert line.endswith(said)
        assert (f" {time:.2f} " in f"{line} ") == (time is not None) if time is not None else " -  " in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--shape 1x64x56", "--shape takes 4 whole numbers"),
        ("--shape 1x64x56x56 --kernel 3x3x3", "--kernel takes 1 or 2 whole numbers"),
        ("--shape 1x64x56x56 --device 9", "a device is written like 9.0x132"),
        ("--shape 1x64x56x56 --device 99.0x1", "the shared memory of compute capability 99.0 is not known here"),
        ("--shape 1x64x56x56 --pads 0,0,0,0 --device 9.0x132", "cannot cover"),
        ("--shape 1x64x56x56 --density 2 --device 9.0x132", "density must be"),
        ("--size 3", "unrecognized arguments"),
        (
            "--shape 1x64x56x56 --kernel 9 --device 9.0x132",
            "no configuration can run this layer: kernels are 1x1 to 7x7, not 9x9",
        ),
        ("--shape 1x64x56x56 --kernel 9 --device 9.0x132 --json", "no configuration can run this layer"),
        ("--density 0.25", "--density is of a layer: name the layer with --shape"),
        ("--out-channels 64 --external", "--out-channels is of a layer"),
    ],
)
def test_the_command_refuses_in_one_sentence(emulator_library: Library, arguments: str, message: str) -> None:
    out = command(*arguments.split(), library=emulator_library.path)
    assert out.returncode == 1
    assert message in out.stderr
    assert len(out.stderr.splitlines()) == 1
    if "--json" in arguments:
        assert out.stderr == f"error: {json.loads(out.stdout)['error']}\n"
    else:
        assert out.stdout == ""


def test_the_examples_of_the_help_skip(emulator_library: Library) -> None:
    examples = [line.split()[3:] for line in EPILOG.splitlines() if line.startswith("  python -m lccl.cuda --")]
    assert len(examples) == 2
    for example, family in zip(examples, ("pixel", "block"), strict=True):
        out = command(*example, library=emulator_library.path)
        last = json.loads(out.stdout)["chosen_name"] if "--json" in example else out.stdout.splitlines()[-1]
        assert f"{family}-" in last, out


def test_the_command_without_a_library(tmp_path: Path) -> None:
    out = command(library=tmp_path / "none.so")
    assert (out.returncode, out.stdout) == (1, "")
    assert out.stderr.startswith("error: there is no kernel library at")
    assert len(out.stderr.splitlines()) == 1
