"""Which package belongs to which extra, held against pyproject.toml and the package's own imports, and what users are told."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lccl
from conftest import ROOT
from lccl.errors.requires import NEEDS, PACKAGES, MissingPackageError, as_missing_package, how_to_install, needing, require

PACKAGE = ROOT / "exporter" / "lccl"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = {"google", "ml_dtypes", "numpy", "onnx", "onnxruntime"}
"""Modules of the base install: onnx brings protobuf, which is google's."""
OPTIONAL = {
    "rich": "without it there is no bar",
    "tensorrt_rtx_bindings": "stands for tensorrt_rtx where that is not",
    "triton": "the CUDA builds of PyTorch bring it; without it layers on CUDA compute every pixel",
}
"""Modules that the package does without."""


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~ ;\[]", text)[0] for text in requirements}


def imported() -> set[str]:
    """Top-level modules that the package imports, wherever in a file."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"lccl"}


@pytest.mark.slow
def test_every_import_is_of_the_base_install_or_of_an_extra() -> None:
    assert imported() - BASE - set(OPTIONAL) <= set(PACKAGES)
    assert imported() | {"tensorrt", "tensorrt_rtx"} >= set(PACKAGES)  # these two are imported by name


def test_the_extras_bring_what_is_said_of_them() -> None:
    extras = {name: names_of(listed) for name, listed in PROJECT["optional-dependencies"].items()}
    for package in PACKAGES.values():
        runtime = {name for name in set(extras) - {"bench", "docs", "dev"} if package.distribution in extras[name]}
        assert runtime == set(package.extras), package.label
    assert names_of(PROJECT["dependencies"]) == {"ml_dtypes", "numpy", "onnx", "onnxruntime"}
    for need in NEEDS.values():
        assert all(set(need.extras) <= set(PACKAGES[module].extras) for module in need.modules)


def test_the_versions_that_work_together_name_all_of_them() -> None:
    pinned = names_of((ROOT / "constraints.txt").read_text().splitlines())
    listed = PROJECT["dependencies"] + [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    not_tested = {"lccl", "tensorrt", "matplotlib", "openvino"}
    assert names_of([text for text in listed if "==" not in text]) - not_tested <= pinned


def error_of(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in PACKAGES:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("module", "what", "said"),
    [
        ("torch", "lccl-export", "lccl-export needs PyTorch: pip install 'lccl[export]'"),
        ("onnx_graphsurgeon", "lccl-export", "lccl-export needs PyTorch: pip install 'lccl[export]'"),
        ("torch", "lccl export", "lccl export needs PyTorch: pip install 'lccl[export]'"),
        ("torch", "lccl.train", "lccl.train needs PyTorch: pip install 'lccl[train]'"),
        (
            "onnx_graphsurgeon",
            "lccl-build-engine",
            "lccl-build-engine needs onnx-graphsurgeon: pip install 'lccl[rtx]' or 'lccl[trt]'",
        ),
        ("polygraphy", "lccl-compare", "lccl-compare needs Polygraphy: pip install 'lccl[rtx]' or 'lccl[trt]'"),
        ("tensorrt", "an engine", "an engine needs TensorRT: pip install 'lccl[trt]'"),
    ],
)
def test_one_sentence_says_which_extra(module: str, what: str, said: str) -> None:
    error = as_missing_package(error_of(module), what)
    assert error is not None
    assert str(error) == said
    assert isinstance(error, lccl.UserError)
    assert isinstance(error, ImportError)


@pytest.mark.usefixtures("nothing_installed")
def test_the_outermost_caller_is_the_one_that_is_named() -> None:
    expected = pytest.raises(MissingPackageError, match=r"^lccl-export needs PyTorch: pip install 'lccl\[export\]'$")
    with expected, needing("lccl-export"), needing("lccl.nn"):
        raise error_of("torch")


def test_a_package_that_no_extra_brings_stays_an_error_of_the_import() -> None:
    assert as_missing_package(error_of("PIL"), "lccl-export") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'PIL'") as caught, needing("lccl-export"):
        raise error_of("PIL")
    assert not isinstance(caught.value, lccl.UserError)


def test_a_package_that_is_installed_but_broken_stays_an_error_of_the_import() -> None:
    assert as_missing_package(error_of("torch.nothing"), "lccl-export") is None
    assert as_missing_package(error_of("torch"), "lccl-export") is None  # it is here
    assert as_missing_package(ImportError("cannot import name"), "lccl-export") is None


def test_what_needs_no_more_than_the_base_install_is_let_through(nothing_installed: None) -> None:
    for name in ("lccl.ort", "lccl.plugin_path", "lccl.load_plugin", "lccl-build-plugin", "lccl.nothing"):
        require(name)


def test_the_command_that_brings_a_module() -> None:
    assert how_to_install("tensorrt") == "pip install 'lccl[trt]'"


# ---- at the edges ----------------------------------------------------------------------------------------------------

WITHOUT = f"import sys\nfor name in {tuple(PACKAGES)!r}: sys.modules[name] = None\n"
"""As in the base install."""


def without_extras(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("export", ["m.onnx", "-o", "out.onnx"], "lccl-export needs PyTorch: pip install 'lccl[export]'"),
        ("compare", ["m.onnx", "--data", "d.npz"], "lccl-compare needs PyTorch: pip install 'lccl[export]'"),
        ("inspect", ["m.onnx"], "lccl-inspect needs onnx-graphsurgeon: pip install 'lccl[export]'"),
        ("measure", ["m.onnx", "-o", "c.json"], "lccl-measure needs onnx-graphsurgeon: pip install 'lccl[export]'"),
        (
            "build_engine",
            ["m.onnx"],
            "lccl-build-engine needs onnx-graphsurgeon: pip install 'lccl[rtx]' or 'lccl[trt]'",
        ),
    ],
)
def test_a_command_says_which_extra_it_needs(command: str, words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes((ROOT / "samples/session/gated.onnx").read_bytes())
    code = f"from lccl.cli.{command} import command\nfrom lccl.command_line import execute\n"
    done = without_extras(f"{code}sys.exit(execute(command, {words!r}))", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {said}\n")
    done = without_extras(f"{code}sys.exit(execute(command, {[*words, '--json']!r}))", tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (1, {"error": said})
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_public_names_say_which_extra_they_need() -> None:
    done = without_extras(
        """
import lccl
for name in dir(lccl):
    try:
        getattr(lccl, name)
    except lccl.UserError as error:
        print(error)
try:
    from lccl.nn import LCCLConv2d
except ImportError as error:
    print(f"import: {error}")
"""
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    named = {line.partition(" needs ")[0].removeprefix("lccl.") for line in lines}
    assert {"export", "compare", "profile", "build_engine", "load_checkpoint", "save_checkpoint", "nn"} <= named
    assert not {"ort", "UserError", "plugin_path", "load_plugin"} & named
    assert lines[-1] == "import: lccl.nn needs PyTorch: pip install 'lccl[train]'"


@pytest.mark.slow
def test_a_star_import_gives_what_works_here() -> None:
    done = without_extras("from lccl import *\nprint(*sorted(name for name in dir() if not name.startswith('__')))")
    assert done.returncode == 0, done.stderr
    assert {"UserError", "ort", "plugin_path"} <= set(done.stdout.split())
    assert not {"export", "compare", "nn", "train"} & set(done.stdout.split())
    assert sorted(lccl.__all__) == dir(lccl)  # with all extras, nothing is left out


def test_what_needs_no_torch_loads_none() -> None:
    """The packages that a name needs are all that its face loads of the others."""
    names = {name: set(NEEDS[name].modules) if name in NEEDS else set() for name in dir(lccl)}
    for needed in ({"onnx_graphsurgeon"}, set()):
        code = "import sys, lccl\n" + "".join(f"lccl.{name}\n" for name, own in names.items() if own == needed)
        code += f"print(*(m for m in {tuple(PACKAGES)!r} if m in sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()) == needed


@pytest.mark.slow
def test_a_session_opens_without_any_extra(tmp_path: Path) -> None:
    code = f"import lccl\nlccl.ort.session({str(ROOT / 'samples/session/gated.onnx')!r})\n"
    done = without_extras(code, tmp_path)
    assert done.returncode == 0, done.stderr
