"""Archives of torch.export and TorchScript that call the package's own op, read by a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lccl
from lccl.nn import LCCLConv2d, fold

SHAPE = (2, 3, 9, 9)


def network(form: str) -> nn.Module:
    torch.manual_seed(5)
    gated = nn.Sequential(LCCLConv2d(3, 6, 3, padding=1), LCCLConv2d(6, 4, 3, stride=2, gate="grid", gate_size=2)).eval()
    return fold(gated) if form == "folded" else gated


def saved(model: nn.Module, suffix: str, folder: Path) -> Path:
    path, x = folder / f"net{suffix}", torch.randn(SHAPE)
    if suffix == ".pt2":
        batch = torch.export.Dim("batch", min=1, max=64)
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=[{0: batch}]), path)
    else:
        torch.jit.trace(model, x).save(str(path))  # type: ignore[no-untyped-call]
    return path


@pytest.mark.slow
@pytest.mark.parametrize("form", ["layers", "folded"])
@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_a_new_process_exports_it(tmp_path: Path, suffix: str, form: str) -> None:
    """Only the command itself can have imported the op there."""
    model = network(form)
    path = saved(model, suffix, tmp_path)
    words = [str(path), "-o", str(tmp_path / "m.onnx"), "--unsafe-pickle"]
    words += [] if suffix == ".pt2" else ["--input-shape", "x".join(map(str, SHAPE))]
    done = subprocess.run([sys.executable, "-m", "lccl.cli.export", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 convolutions are gated" in done.stdout
    assert done.stderr == ""
    x = torch.randn(4, *SHAPE[1:])
    session = lccl.ort.session(str(tmp_path / "m.onnx"))
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_a_new_process_loads_it(tmp_path: Path, suffix: str) -> None:
    path = saved(network("folded"), suffix, tmp_path)
    code = f"import lccl, torch\nprint(tuple(lccl.load_checkpoint({str(path)!r}, unsafe_pickle=True)(torch.zeros(2, 3, 9, 9)).shape))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("(2, 4, 4, 4)\n", 0), done.stderr


OWN_OP = """
import sys, torch
@torch.library.custom_op("userops::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2
@double.register_fake
def _(x):
    return torch.empty_like(x)
class Net(torch.nn.Module):
    def forward(self, x):
        return torch.ops.userops.double(x) + 1
x = torch.zeros(1, 3, 4, 4)
torch.jit.trace(Net(), x).save(sys.argv[1] + ".pt")
torch.export.save(torch.export.export(Net(), (x,)), sys.argv[1] + ".pt2")
"""


@pytest.mark.slow
def test_an_op_of_another_package_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """PyTorch says of an archive only that its log has the reason, and writes pages into it."""
    subprocess.run([sys.executable, "-c", OWN_OP, str(tmp_path / "net")], check=True, capture_output=True)
    for suffix, what in ((".pt", "TorchScript"), (".pt2", r"a torch\.export archive")):
        with pytest.raises(lccl.UserError, match=rf"{what} that calls the op userops\.double, which no imported package has"):
            lccl.load_checkpoint(tmp_path / f"net{suffix}", unsafe_pickle=True)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_program_as_a_module(tmp_path: Path) -> None:
    """Its gates cannot be opened for the check, as those of layers can."""
    program = torch.export.export(network("layers"), (torch.randn(SHAPE),), dynamic_shapes=[{0: torch.export.Dim("n", min=1)}])
    result = lccl.export(program.module(), torch.randn(SHAPE), tmp_path / "m.onnx")
    assert (result.gated, result.checked_open) == (2, None)


@pytest.mark.slow
def test_gates_of_layers_are_opened_beside_a_script(tmp_path: Path) -> None:
    """What checks an export is not lost for other networks."""

    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    result = lccl.export(nn.Sequential(Doubled(), LCCLConv2d(3, 4, 3)).eval(), torch.randn(SHAPE), tmp_path / "m.onnx")
    assert result.checked_open is not None
