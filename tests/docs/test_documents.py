"""Every block of every README runs, and the README's table is the demo's own output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT

DOCUMENTS = ("README.md", "samples/digits/README.md")
TIMES = re.compile(r"\d+\.\d{3}|\d+\.\d{2}x|\d\.\de-\d\d")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str) -> list[Block]:
    lines = (ROOT / document).read_text().splitlines()
    found, start = [], None
    for i, line in enumerate(lines, 1):
        if line.startswith("```"):
            if start is None:
                start, language = i, line[3:].strip()
            else:
                found.append(Block(document, start, language, "\n".join(lines[start : i - 1])))
                start = None
    assert start is None, f"{document}: a block is not closed"
    return found


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
MAKE = [b for b in BLOCKS if b.language == "bash" and b.text.startswith("make ")]
COMMANDS = [b for b in BLOCKS if b not in MAKE and b.language in ("bash", "python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user's: the samples beside it, and what earlier blocks wrote."""
    path = tmp_path_factory.mktemp("reader")
    (path / "samples").symlink_to(ROOT / "samples")
    return path


def run(arguments: list[str], cwd: Path, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path, **environment}
    )
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    return process.stdout


def test_every_block_is_run_or_shows_output() -> None:
    assert {b.language for b in BLOCKS} == {"bash", "python", "text"}
    assert len(MAKE) == 2
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("block", COMMANDS, ids=lambda b: b.id)
def test_block(block: Block, folder: Path) -> None:
    if block.language == "python":
        run([sys.executable, "-c", block.text], folder, PYTHONPATH=str(folder))
    else:
        run(["bash", "-euo", "pipefail", "-c", block.text], folder)


@pytest.fixture(scope="module")
def demo() -> str:
    """What `make demo` prints."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    (block,) = [b for b in MAKE if b.text == "make demo"]
    return run(["bash", "-c", block.text], ROOT)


def test_the_readmes_table_is_the_demos_output(demo: str) -> None:
    """Line by line; times differ from run to run, and so do the last digits of errors and the processor's name."""
    shown = next(b for b in BLOCKS if b.language == "text").text

    def stable(text: str) -> list[str]:
        lines = [re.sub(r"\s+|-{4,}", " ", TIMES.sub("#", line)).strip() for line in text.splitlines()]
        return [re.sub(r" on [^.]*\.$", "", line) for line in lines if line]

    printed = stable(demo)
    missing = [line for line in stable(shown) if line not in printed]
    assert missing == []
    assert len(stable(shown)) > 20


def test_make_test_collects() -> None:
    """The whole run would be this run again; that it installs, finds its tests and ends well is what is left to see."""
    (block,) = [b for b in MAKE if b.text == "make test"]
    assert "tests collected" in run(["bash", "-c", block.text], ROOT, PYTEST_ADDOPTS="--collect-only -q")


def test_links_lead_somewhere() -> None:
    for document in (*DOCUMENTS, "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text()):
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"


def test_the_map_names_every_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    folders = {p.name for p in (ROOT / "exporter" / "lccl").iterdir() if (p / "__init__.py").exists()}
    assert {name for name in folders if f"exporter/lccl/{name}/" not in text} == set()
