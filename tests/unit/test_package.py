"""The package from outside: what importing costs, which way dependencies point."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lccl
from conftest import ROOT

PACKAGE = ROOT / "exporter" / "lccl"
MOST_FLOORS = 10
"""Of the package: the longest chain of imports from the commands down."""
MOST_ARROWS = 139
"""Of the package: pairs of parts of which one imports the other."""
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


@pytest.mark.parametrize(
    "command", ["export", "build_engine", "build_plugin", "compare", "doctor", "inspect", "measure", "tune"]
)
def test_help_loads_nothing_heavy(command: str) -> None:
    code = f"from lccl.cli.{command} import command\ntry:\n    command(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0"
    assert loaded_by(code) == set()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nothing"]])
def test_the_one_command_loads_nothing_heavy(words: list[str]) -> None:
    assert loaded_by(f"from lccl.cli.main import dispatch\ndispatch({words!r})") == set()


@pytest.mark.slow
def test_public_names_are_functions_whatever_was_imported_before() -> None:
    """A submodule of the same name would take a function's place."""
    code = "import lccl, lccl.exporting, lccl.comparing, lccl.profiling, lccl.engine, lccl.tuning\n" + "".join(
        f"assert callable(lccl.{n}), '{n}'\n"
        for n in ("export", "compare", "profile", "build_engine", "load_checkpoint", "save_checkpoint", "tune")
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(lccl.__all__) <= set(dir(lccl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lccl.nothing


@cache
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
    "errors": set(),
    "console": set(),
    "files": set(),
    "op": set(),
    "graph": {"console", "files", "numerics", "op"},
    "backends": {"console", "files", "graph", "numerics", "op", "torch_calls"},
    "forms": {"backends", "console", "files", "graph", "numerics", "op"},
    "cuda": {"backends", "command_line", "console"},
    "ort": {"backends", "command_line", "files"},
    "plugin": {"backends", "command_line", "files"},
    "nn": {"backends", "console", "forms", "op", "torch_calls"},
    "models": {"nn"},
    "loading": {"console", "files", "nn", "numerics", "torch_calls"},
    "profiling": {"backends", "console", "graph", "loading", "nn", "numerics", "op", "torch_calls"},
    "train": {"console", "files", "forms", "nn", "profiling", "torch_calls"},
    "exporting": {
        "backends",
        "console",
        "files",
        "forms",
        "graph",
        "loading",
        "nn",
        "numerics",
        "op",
        "profiling",
        "torch_calls",
    },
    "engine": {"backends", "console", "files", "forms", "graph", "loading", "op"},
    "tuning": {
        "backends",
        "console",
        "files",
        "forms",
        "graph",
        "loading",
        "metrics",
        "nn",
        "numerics",
        "op",
        "profiling",
        "torch_calls",
    },
}
"""Folder -> what it may import besides itself, the errors and the version."""


SHARED = {
    "command_line": {"files"},
    "data": {"loading"},
    "metrics": {"loading", "numerics"},
    "numerics": {"console"},
    "torch_calls": set(),
    "version": set(),
}
"""The modules beside the folders."""


@pytest.mark.parametrize("layer", [*MAY_IMPORT, *SHARED])
def test_dependencies_point_one_way(layer: str) -> None:
    allowed = {f"lccl.{name}" for name in (MAY_IMPORT | SHARED)[layer] | {layer, "errors", "version"}}
    paths = list((PACKAGE / layer).rglob("*.py")) if layer in MAY_IMPORT else [PACKAGE / f"{layer}.py"]
    assert paths
    for path in paths:
        for module in imports_of(path) - ({"lccl"} if path.name == "__main__.py" else set()):  # the version
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


# ---- the map ---------------------------------------------------------------------------------------

SOURCES = {".py", ".cpp", ".h", ".cu", ".md"}
MADE = {"build", "dist", "site"}
LONGEST_ROW = 140


def mapped() -> dict[str, str]:
    """Folder -> its row of the map in CONTRIBUTING.md, in the map's order."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("\n## Map\n")[1].split("\n## ")[0]
    return {row.split("`")[1].rstrip("/"): row for row in text.splitlines() if row.startswith("| `")}


def test_each_folder_is_on_the_map() -> None:
    """By itself, or, below the packages of lccl, by the folder that it lies in."""
    rows = mapped()
    assert [folder for folder in rows if not (ROOT / folder).is_dir()] == []
    assert [row for row in rows.values() if len(row) > LONGEST_ROW] == []
    packages = {p.parent.relative_to(ROOT).as_posix() for p in PACKAGE.glob("*/__init__.py")}
    assert packages - set(rows) == set()
    top = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")} - MADE
    for folder in sorted(top):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SOURCES and "__pycache__" not in path.parts:
                inside = path.parent.relative_to(ROOT)
                parts = [p.as_posix() for p in (inside, *inside.parents)]
                holds_folders_alone = path.parent == ROOT / folder
                assert holds_folders_alone or set(parts) & set(rows), f"{inside} is not on the map"


def test_the_map_has_the_order_of_dependencies() -> None:
    """A package stands below those that it may import."""
    order = [folder.removeprefix("exporter/lccl/") for folder in mapped() if folder.startswith("exporter/lccl/")]
    place = {folder: i for i, folder in enumerate(order)}
    for layer, allowed in MAY_IMPORT.items():
        assert all(place[below] < place[layer] for below in allowed & set(MAY_IMPORT) - {layer}), layer


def arrows() -> dict[str, set[str]]:
    """Each part of the package, a folder or a module beside the folders -> the parts that it imports."""
    parts = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    below: dict[str, set[str]] = {part: set() for part in parts}
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        below[part] |= {m.split(".")[1] for m in imports_of(path) if "." in m} & parts - {part}
    return below


def floors() -> dict[str, int]:
    """Each part of the package -> the longest chain of imports down from it, itself included."""
    below = arrows()

    @cache
    def floor(part: str) -> int:
        return 1 + max((floor(other) for other in below[part]), default=0)

    return {part: floor(part) for part in below}


def test_chains_of_imports_stay_short() -> None:
    found = floors()
    assert max(found.values()) <= MOST_FLOORS, sorted(found.items(), key=lambda item: -item[1])


def test_parts_know_few_others() -> None:
    below = arrows()
    assert sum(map(len, below.values())) <= MOST_ARROWS, sorted(below.items(), key=lambda item: -len(item[1]))
