"""Finding, loading and reporting the plugin, and what building it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lccl
from conftest import Outcome
from lccl.backends.diagnosis import tensorrt_plugin
from lccl.backends.tensorrt import compiler
from lccl.backends.tensorrt import library as plugin_library
from lccl.backends.tensorrt.library import ENVIRONMENT, LIBRARY, find_plugin, load_plugin, plugin_path
from lccl.command_line import execute
from lccl.plugin import __main__ as command

COMMAND = "lccl.cli.build_plugin"


@pytest.fixture(autouse=True)
def no_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine where none was built."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(plugin_library, "PACKAGED", tmp_path / "package" / LIBRARY)
    monkeypatch.setattr(plugin_library, "_loaded", {})


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / LIBRARY
    path.write_bytes(b"a library")
    return path


def tensorrt(taken: bool = True, name: str = "tensorrt") -> Any:
    """A TensorRT whose registry takes any library, or none."""
    loaded: list[str] = []
    registry = SimpleNamespace(
        load_library=loaded.append, get_creator=lambda name, version, namespace: (taken and loaded) or None
    )
    return SimpleNamespace(__name__=name, __version__="11.4", get_plugin_registry=lambda: registry, loaded=loaded)


def test_where_the_plugin_is_looked_for(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    assert find_plugin() is None
    with pytest.raises(
        lccl.UserError, match=f"there is no {LIBRARY}: build it with lccl-build-plugin, or name one in {ENVIRONMENT}"
    ):
        lccl.plugin_path()
    plugin_library.PACKAGED.parent.mkdir()
    plugin_library.PACKAGED.write_bytes(b"")
    assert plugin_path() == plugin_library.PACKAGED
    monkeypatch.setenv(ENVIRONMENT, str(library))
    assert plugin_path() == library
    assert find_plugin(plugin_library.PACKAGED) == plugin_library.PACKAGED
    monkeypatch.setenv(ENVIRONMENT, str(library.parent / "absent.so"))
    with pytest.raises(lccl.UserError, match="no such file"):
        plugin_path()


def test_loading_it(library: Path) -> None:
    trt = tensorrt()
    assert lccl.load_plugin(library, tensorrt=trt) == library
    assert load_plugin(library, tensorrt=trt) == library
    assert trt.loaded == [str(library)], "a registry warns of a creator that it holds already"


def test_a_second_library_in_one_process(library: Path, tmp_path: Path) -> None:
    """The registry keeps the first one's creator, whatever is loaded then."""
    trt = tensorrt()
    load_plugin(library, tensorrt=trt)
    other = tmp_path / "other.so"
    other.write_bytes(b"another")
    with pytest.raises(lccl.UserError, match=r"already: use .*other\.so in another process"):
        load_plugin(other, tensorrt=trt)


def test_a_library_that_tensorrt_does_not_take(library: Path) -> None:
    refused = tensorrt(taken=False)
    with pytest.raises(
        lccl.UserError, match=r"TensorRT 11\.4 does not take the plugin .*: it cannot be loaded \(.*lccl-build-plugin"
    ):
        load_plugin(library, tensorrt=refused)
    other = next(p for p in Path("/proc/self/maps").read_text().split() if "/libc.so" in p or "/libm.so" in p)
    with pytest.raises(lccl.UserError, match="it is another library; build it with lccl-build-plugin"):
        load_plugin(other, tensorrt=refused)


def test_a_library_in_the_current_folder(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's loader looks for a bare name elsewhere."""
    monkeypatch.chdir(library.parent)
    trt = tensorrt()
    assert load_plugin(library.name, tensorrt=trt) == library
    assert trt.loaded == [str(library)]
    monkeypatch.setenv(ENVIRONMENT, library.name)
    assert plugin_path() == library


def test_tensorrt_for_rtx_has_no_plugins(library: Path) -> None:
    """Its parser ends the process where a creator of the op is registered."""
    trt = tensorrt(name="tensorrt_rtx")
    with pytest.raises(lccl.UserError, match="has no plugins"):
        load_plugin(library, tensorrt=trt)
    assert trt.loaded == []


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(lccl.UserError, match="TensorRT is not installed: pip install"):
        load_plugin(library)


def test_the_report(monkeypatch: pytest.MonkeyPatch, library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tensorrt_plugin, "MODULES", ())
    assert execute(command.command, []) == 1
    out = capsys.readouterr().out
    assert f"there is no {LIBRARY}: build it with lccl-build-plugin" in out
    assert "none is installed: pip install 'lccl[trt]'" in out

    monkeypatch.setattr(tensorrt_plugin, "MODULES", ("tensorrt",))
    monkeypatch.setattr(tensorrt_plugin, "is_installed", lambda name: True)
    for taken in (True, False):
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(taken))
        plugin_library._loaded.clear()
        assert execute(command.command, ["--library", str(library), "--json"]) == (0 if taken else 1)
        (registry,) = json.loads(capsys.readouterr().out)["registries"]
        assert (registry["version"], registry["holds_plugin"]) == ("11.4", taken)
    assert execute(command.command, ["--library", str(library)]) == 1
    assert "TensorRT  tensorrt 11.4: without the plugin: TensorRT 11.4 does not take" in capsys.readouterr().out
    assert execute(command.command, ["--library", "absent.so"]) == 1
    assert "error: no such file: absent.so" in capsys.readouterr().err


def test_the_report_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "lccl.plugin", "--json"], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["lccl"] == lccl.__version__
    assert done.stderr == "warning: python -m lccl.plugin is now lccl doctor; the old spelling goes away in 0.3\n"


# ---- building -----------------------------------------------------------------------------------------------------------


def test_what_is_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "present_capabilities", lambda: ("8.6", "9.0"))
    assert compiler.capabilities_for(()) == ("8.6", "9.0")
    assert compiler.capabilities_for(("8.9", "8.9")) == ("8.9",)
    assert compiler.capabilities_for(("all",)) == compiler.SUPPORTED
    with pytest.raises(lccl.UserError, match="not 'bogus'"):
        compiler.capabilities_for(("all", "bogus"))
    monkeypatch.setattr(compiler, "present_capabilities", lambda: ())
    with pytest.raises(
        lccl.UserError, match=r"no NVIDIA GPU here to build for: pass compute_capabilities=\(.8\.9.,\) or the like"
    ):
        compiler.capabilities_for(())


def test_the_newest_gets_ptx_too(tmp_path: Path) -> None:
    tools = {"cmake": "cmake", "nvcc": "nvcc"}
    command = compiler._configure_command(tools, tmp_path, tmp_path / "b", ("8.6", "12.0"), None)
    assert "-DCMAKE_CUDA_ARCHITECTURES=86-real;120" in command
    every = compiler._configure_command(tools, tmp_path, tmp_path / "b", compiler.SUPPORTED, tmp_path)
    assert not any("ARCHITECTURES" in word for word in every), "CMakeLists.txt has that list"
    assert f"-DTENSORRT_ROOT={tmp_path}" in every


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--compute-capability", "89"), "a compute capability is written like 8.9, not '89'"),
        (("--compute-capability", "7.5"), "need compute capability 8.0 or newer, not 7.5"),
        (("--jobs", "0"), "--jobs is a number above 0"),
        (("--compute-capability", "8.9", "--tensorrt-root", "absent"), "has no include/NvInferRuntime.h"),
    ],
)
def test_bad_options(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr(compiler, "find_tool", lambda name: name)
    done: Outcome = invoke(COMMAND, *arguments, "-o", tmp_path)
    assert done.code == 1
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(("tool", "fix"), [("nvcc", "install the CUDA toolkit"), ("cmake", "pip install cmake")])
def test_a_missing_tool(invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, fix: str) -> None:
    which = compiler.shutil.which
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(compiler.shutil, "which", lambda name, path=None: None if name == tool else which(name) or name)
    done: Outcome = invoke(COMMAND, "--compute-capability", "8.9", "-o", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert f"{tool} is not here: {fix}" in done.err
    assert list(tmp_path.iterdir()) == []


def test_without_nvcc_triton_builds_for_the_gpus_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None if name == "nvidia" else name)
    with pytest.raises(lccl.UserError, match=r"Triton alone: pip install nvidia-cuda-runtime nvidia-cuda-crt$"):
        compiler._require_triton(("9.0",))
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name)
    compiler._require_triton(compiler.BY_TRITON)
    with pytest.raises(lccl.UserError, match=r"not 10\.3, 12\.1: install the CUDA toolkit"):
        compiler._require_triton(("9.0", "10.3", "12.1"))


def test_cmake_is_told_of_triton_and_of_no_other_nvcc(tmp_path: Path) -> None:
    command = compiler._configure_command({"cmake": "cmake"}, tmp_path, tmp_path / "b", ("9.0", "10.3"), None)
    assert {"-DLCCL_NVCC=OFF", "-DLCCL_TRITON_CAPABILITIES=90", f"-DLCCL_PYTHON={sys.executable}"} <= set(command)
    every = compiler._configure_command(
        {"cmake": "cmake", "nvcc": "/a/nvcc"}, tmp_path, tmp_path / "b", compiler.SUPPORTED, None
    )
    assert {"-DLCCL_NVCC=/a/nvcc", "-DLCCL_TRITON_CAPABILITIES=80;86;89;90;100;120"} <= set(every)


@pytest.mark.parametrize(
    ("said", "nvcc", "words"),
    [
        ("-- Kernels in Triton 3.9.0 for 90", "/a/nvcc", "Kernels: CUDA's, and those in Triton 3.9.0."),
        (
            "-- Kernels in Triton 3.6.0 for 90",
            None,
            "Kernels: none of CUDA's, since nvcc is not here, and those in Triton 3.6.0.",
        ),
        (
            "-- Without the kernels in Triton: there is no Triton",
            "nvcc",
            "Kernels: CUDA's; none in Triton: there is no Triton.",
        ),
    ],
)
def test_which_kernels_were_built_is_said(said: str, nvcc: str | None, words: str) -> None:
    assert compiler._kernels_of(f"-- first\n{said}\n-- last", nvcc) == words


def test_a_compiler_that_fails(invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first complaint is the sentence, and nothing is left behind."""
    fake = tmp_path / "cmake"
    fake.write_text("#!/bin/sh\necho '[ 10%] Building'\necho 'kernel.cu(3): error: what is this'\nexit 2\n")
    fake.chmod(0o755)
    monkeypatch.setattr(compiler, "find_tool", lambda name: str(fake))
    target = tmp_path / "out"
    done: Outcome = invoke(COMMAND, "--compute-capability", "8.9", "-o", target)
    assert (done.code, done.err) == (1, "error: cmake failed: kernel.cu(3): error: what is this\n")
    assert list(target.iterdir()) == []


def test_a_capability_that_the_compiler_does_not_know(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho compute_80\necho compute_89\necho compute_120\n")
    nvcc.chmod(0o755)
    compiler._require_known(str(nvcc), ("8.9", "12.0"))
    with pytest.raises(lccl.UserError, match=r"does not compile for compute capability 9\.9; it knows 8\.0, 8\.9, 12\.0"):
        compiler._require_known(str(nvcc), ("8.9", "9.9"))


def test_headers_that_are_too_old(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferRuntime.h").write_text("class IPluginV3OneBuild;\n")
    with pytest.raises(lccl.UserError, match=r"older than 10\.3"):
        compiler._require_headers(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_compilers_and_removes_what_they_made(tmp_path: Path, number: signal.Signals) -> None:
    """The command is run as a process: it ends where it stands."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("cmake", "nvcc"):
        script = "echo compute_89" if name == "nvcc" else f"echo $$ > {tmp_path}/pid; sleep 600 & wait"
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), "CUDACXX": ""}
    command = [sys.executable, "-m", COMMAND, "--compute-capability", "8.9", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "interrupted: no file was left half-written\n")
    assert list(tmp_path.glob("lccl-build-*")) == []
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_sources_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "PACKAGE", tmp_path / "site-packages" / "lccl")
    with pytest.raises(lccl.UserError, match="has no native sources"):
        compiler.source_folder()
