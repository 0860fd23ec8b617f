"""The package from outside: what importing costs, which way dependencies point."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lccl
from conftest import ROOT

PACKAGE = ROOT / "exporter" / "lccl"
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnx_graphsurgeon",
    "onnxscript",
    "polygraphy",
    "tensorrt",
    "tensorrt_rtx",
    "numpy",
    "rich",
)


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(out.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import lccl") == set()


@pytest.mark.parametrize("command", ["export", "build_engine", "build_plugin", "compare"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = f"from lccl.cli.{command} import command\ntry:\n    command(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0"
    assert loaded_by(code) == set()


def test_public_names_are_functions_whatever_was_imported_before() -> None:
    """A submodule of the same name would take a function's place."""
    code = "import lccl, lccl.exporting, lccl.comparing, lccl.profiling, lccl.engine\n" + "".join(
        f"assert callable(lccl.{n}), '{n}'\n"
        for n in ("export", "compare", "profile", "build_engine", "load_checkpoint", "save_checkpoint")
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(lccl.__all__) <= set(dir(lccl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lccl.nothing


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports here are absolute"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lccl"):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("lccl")}
    return found


MAY_IMPORT = {
    "op": {"errors", "numerics", "op"},
    "graph": {"errors", "numerics", "op", "quiet", "weights", "graph"},
    "backends": {
        "errors",
        "files",
        "graph",
        "native",
        "numerics",
        "op",
        "progress",
        "torch_calls",
        "weights",
        "backends",
    },
    "cuda": {"backends", "errors", "text"},
    "ort": {"backends", "errors", "files"},
    "plugin": {"backends", "errors", "files"},
    "nn": {"backends", "errors", "op", "text", "torch_calls", "nn"},
    "models": {"errors", "nn", "models"},
    "train": {"nn", "train"},
    "loading": {"checkpoint", "errors", "files", "nn", "text", "torch_calls", "weights", "loading"},
    "profiling": {"backends", "data", "errors", "graph", "loading", "nn", "numerics", "op", "text", "torch_calls", "profiling"},
    "exporting": {
        "backends",
        "data",
        "errors",
        "files",
        "graph",
        "loading",
        "nn",
        "numerics",
        "op",
        "profiling",
        "progress",
        "quiet",
        "text",
        "torch_calls",
        "verify",
        "weights",
        "exporting",
    },
    "engine": {"backends", "errors", "files", "graph", "loading", "op", "progress", "verify", "engine"},
}


SHARED = {
    "checkpoint": {"errors", "files", "nn", "text"},
    "data": {"errors", "files", "loading", "numerics"},
    "deprecation": {"errors"},
    "errors": set(),
    "files": {"errors"},
    "native": {"errors", "files"},
    "numerics": {"errors", "text"},
    "progress": set(),
    "quiet": set(),
    "requires": {"errors"},
    "text": set(),
    "torch_calls": set(),
    "types": {"data"},
    "verify": {"backends", "errors", "graph", "numerics"},
    "version": set(),
    "weights": {"errors", "files", "numerics"},
}
"""The modules beside the folders."""


@pytest.mark.parametrize("layer", [*MAY_IMPORT, *SHARED])
def test_dependencies_point_one_way(layer: str) -> None:
    allowed = {f"lccl.{name}" for name in (MAY_IMPORT | SHARED)[layer] | {"deprecation", "requires", "types", "version"}}
    paths = list((PACKAGE / layer).rglob("*.py")) if layer in MAY_IMPORT else [PACKAGE / f"{layer}.py"]
    assert paths
    for path in paths:
        for module in imports_of(path):
            assert any(module == a or module.startswith(a + ".") for a in allowed), f"{path.name} imports {module}"


def test_every_part_of_the_package_has_its_rule() -> None:
    """comparing and cli stand on top: they may import all that is below."""
    parts = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert parts - {"__init__", "comparing", "cli"} == set(MAY_IMPORT) | set(SHARED)


def test_nothing_imports_the_commands() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "cli":
            assert not any(m.startswith("lccl.cli") for m in imports_of(path)), path


def test_graph_passes_do_not_know_pytorch() -> None:
    for path in (PACKAGE / "graph").rglob("*.py"):
        assert "import torch" not in path.read_text(), path
