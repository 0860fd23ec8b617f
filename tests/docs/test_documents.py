"""Every block of every document runs or is listed with the reason; tables are what commands print; links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path

import pytest

import lccl
from conftest import ROOT

NOT_OURS = {"build", "dist", "node_modules"}
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        *(f"{depth}README.md" for depth in ("", "*/", "*/*/", "*/*/*/")),
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/**/*.md",
    )
    for path in ROOT.glob(pattern)
    if not any(part in NOT_OURS or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
ELSEWHERE = {
    "make demo": "its output is held against the table of docs/demo.md below",
    "pip install torch": "installs; tests/packaging installs a wheel with its extras",
    "make test": "would be this run again; that it collects is seen below",
    "lccl export samples/pages/pixel.pt": "the demo runs these commands",
    "lccl tune samples/pages": "a quarter of an hour; docs/train.md tunes a smaller network, in a block that is run",
    "lccl export tuned.pt -o tuned.onnx --factory": "reads what the tuning wrote, which is not run",
    "make train-pages": "hours; tests/unit/samples takes two steps of it",
    "CIFAR10=": "hours, and needs CIFAR-10; tests/unit/samples trains on a small set of its form",
    "make train-digits": "overwrites the committed files; one epoch of it is run below",
    "lccl-build-plugin": "minutes of nvcc; tests/native builds the libraries, and for one GPU by this command",
    "cmake --preset emulator": "minutes on the emulated machine; tests/unit/bench/test_gpu_command.py rehearses with this command",
    "lccl build-plugin": "minutes of nvcc; tests/native builds the libraries, and for one GPU by this command",
    "trtexec": "needs TensorRT and a GPU; tests/trt builds and runs engines where they are",
    "cmake -S samples/cpp_runtime": "needs TensorRT's headers; tests/trt compiles the sample where they are",
}
"""Commands of which a block is not run by itself -> why."""
NEEDS_LIBRARY = re.compile(r"lccl measure (?!--list)|--backend onnxruntime")
"""Commands that time the CPU op, whose library a checkout has only once it is built."""
TIMES = re.compile(r"\d+\.\d{3}|\d+\.\d{2}x|\d\.\de-\d\d")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def elsewhere(self) -> str | None:
        """Why the block is not run as it stands, if it is not."""
        lines = self.text.splitlines()
        return next((why for start, why in ELSEWHERE.items() if any(line.startswith(start) for line in lines)), None)


def blocks_of(document: str) -> list[Block]:
    lines = (ROOT / document).read_text().splitlines()
    found, start = [], None
    for i, line in enumerate(lines, 1):
        if start is None and line.startswith("    ") and (i == 1 or not lines[i - 2].strip()):
            end = next((k for k, text in enumerate(lines[i:], i) if not text.startswith("    ")), len(lines))
            found.append(Block(document, i, "bash", "\n".join(text[4:] for text in lines[i - 1 : end])))
        if line.startswith("```"):
            if start is None:
                start, language = i, line[3:].strip() or "bash"
            else:
                found.append(Block(document, start, language, "\n".join(lines[start : i - 1])))
                start = None
    assert start is None, f"{document}: a block is not closed"
    return found


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
COMMANDS = [b for b in BLOCKS if b.language in ("bash", "python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Document -> a folder as its reader's: the samples beside it, and what the document's earlier blocks wrote."""

    @cache
    def of(document: str) -> Path:
        path = tmp_path_factory.mktemp("reader")
        (path / "samples").symlink_to(ROOT / "samples")
        return path

    return of


def run(arguments: list[str], cwd: Path, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path, **environment}
    )
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    return process.stdout


def test_every_block_is_run_or_shows_output() -> None:
    assert {"README.md", "bench/README.md", "docs/demo.md", "samples/digits/README.md", "trt_plugin/README.md"} <= set(
        DOCUMENTS
    )
    assert {b.language for b in BLOCKS} == {"bash", "cpp", "python", "text"}
    assert {b.elsewhere for b in COMMANDS} == {None, *ELSEWHERE.values()}
    assert len([b for b in COMMANDS if b.elsewhere is None]) >= 5


def test_indented_blocks_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.md").write_text("Text\n\n    one\n    two\n\n```python\n\n    three\n```\n* a list\n    of two lines\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [(b.line, b.language, b.text) for b in blocks_of("d.md")] == [
        (3, "bash", "one\ntwo"),
        (6, "python", "\n    three"),
    ]


@pytest.mark.parametrize("block", COMMANDS, ids=lambda b: b.id)
def test_block(block: Block, folder: Callable[[str], Path], request: pytest.FixtureRequest) -> None:
    """A document's blocks run one after the other. No document needs another's, and none uses an old spelling."""
    if block.elsewhere is not None:
        pytest.skip(block.elsewhere)
    here = folder(block.document)
    library = {"LCCL_ORT_LIBRARY": str(request.getfixturevalue("ort_library"))} if NEEDS_LIBRARY.search(block.text) else {}
    if block.language == "python":
        run([sys.executable, "-W", "error::FutureWarning", "-c", block.text], here, PYTHONPATH=str(here), **library)
    else:
        run(["bash", "-euo", "pipefail", "-c", block.text], here, PYTHONWARNINGS="error::FutureWarning", **library)


@pytest.fixture(scope="module")
def demo() -> str:
    """What `make demo` prints."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    blocks = {b.document: b.text for b in COMMANDS if b.text == "make demo"}
    assert set(blocks) == {"README.md", "docs/demo.md"}
    return run(["bash", "-c", blocks["README.md"]], ROOT)


def alike(shown: str, printed: str) -> bool:
    """Whether two lines have the same words, and counts of MACs within half a percent: rounding flips a pixel of a gate here and there."""
    pairs = list(zip_longest(shown.split(), printed.split()))
    return all(a == b or (None not in (a, b) and _near(a, b)) for a, b in pairs)


def _near(a: str, b: str) -> bool:
    if not all(re.fullmatch(r"\d{1,3}(,\d{3})+", text) for text in (a, b)):
        return False
    first, second = (int(text.replace(",", "")) for text in (a, b))
    return abs(first - second) <= 0.005 * first


def test_lines_are_alike_with_nearly_the_same_counts() -> None:
    assert alike("conv gated 10.2 % 84,934,656", "conv gated 10.2 % 84,934,700")
    assert not alike("conv gated 10.2 % 84,934,656", "conv gated 10.2 % 83,934,656")
    assert not alike("metric 0.9864", "metric 0.9863")
    assert not alike("conv gated", "conv dense")
    assert not alike("conv gated", "conv")


def test_the_table_of_the_demo_is_its_output(demo: str) -> None:
    """Line by line; times differ from run to run, and so do the last digits of errors and the processor's name."""
    (shown,) = [b.text for b in BLOCKS if b.language == "text" and b.document == "docs/demo.md"]

    def stable(text: str) -> list[str]:
        lines = [re.sub(r"\s+|-{4,}", " ", TIMES.sub("#", line)).strip() for line in text.splitlines()]
        lines = [re.sub(r"\d+\.\d+ % dense", "# % dense", line) for line in lines]  # the largest of ten logits on empty paper
        return [re.sub(r" on [^.]*\.$", "", line) for line in lines if line]

    if "onnxruntime-lccl" in demo.partition("Not run:")[2]:
        pytest.skip("the demo could not compile the CPU op here, whose row the README shows: build/ort.log says why")
    printed = stable(demo)
    missing = [line for line in stable(shown) if not any(alike(line, other) for other in printed)]
    assert missing == []
    assert len(stable(shown)) > 20
    assert (ROOT / "build" / "demo" / "pages.png").read_bytes().startswith(b"\x89PNG")


def test_make_test_runs_every_folder_of_tests_once() -> None:
    """The whole run would be this run again; what is left to see is what it starts."""
    (block,) = [b for b in COMMANDS if b.text == "make test"]
    shown = run(["bash", "-c", f"{block.text} --dry-run --no-print-directory"], ROOT)
    first, second = (line.split() for line in re.findall(r"-m pytest ([^\n|&;\x27]*)", shown)[-2:])
    started = {path for path in first if path.startswith("tests/")}
    assert started
    assert all((ROOT / path).exists() for path in started)
    assert {word.removeprefix("--ignore=") for word in second if word.startswith("--ignore=")} == {*started, "tests/real"}


def test_the_demos_networks_can_be_trained_again(tmp_path: Path) -> None:
    """One epoch of what `make train-digits` runs 45 of."""
    (block,) = [b for b in COMMANDS if b.text == "make train-digits"]
    shown = run(["make", "--dry-run", "--no-print-directory", "train-digits"], ROOT)
    (command,) = [line for line in shown.splitlines() if line.endswith("train.py")]
    script = ROOT / command.split()[-1]
    printed = run([sys.executable, str(script), "--epochs", "1", "--out", str(tmp_path)], ROOT)
    assert block.document == f"{script.parent.relative_to(ROOT).as_posix()}/README.md"
    assert printed.count("held-out images") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"lccl.pt", "dense.pt"}
    assert lccl.load_checkpoint(tmp_path / "lccl.pt").training is False


def prose_of(document: str) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors_of(document: str) -> set[str]:
    """Where links into the document may lead, as both GitHub and the site name headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", prose_of(document)):
            path = (ROOT / document).parent / target if target else ROOT / document
            assert path.exists(), f"{document} links to {target}"
            page = path / "README.md" if path.is_dir() else path
            if anchor:
                name = page.resolve().relative_to(ROOT).as_posix()
                assert anchor in anchors_of(name), f"{document} links to {target}#{anchor}"


def test_the_readme_is_a_shop_window() -> None:
    assert 90 <= len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_map_names_every_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    folders = {p.name for p in (ROOT / "exporter" / "lccl").iterdir() if (p / "__init__.py").exists()}
    assert {name for name in folders if f"exporter/lccl/{name}/" not in text} == set()


RENAMED_ELSEWHERE = (
    ("LCCL_CPU_LEVEL", "LCCL_CPU_ISA"),
    ("level", "isa"),
    ("level_asked", "isa_asked"),
    ("engine", "math"),
    ("lccl_cpu_level", "lccl_cpu_isa"),
    ("lccl_cpu_level_count", "lccl_cpu_isa_count"),
    ("lccl_cpu_level_at", "lccl_cpu_isa_at"),
    ("lccl_cpu_level_runs", "lccl_cpu_isa_runs"),
    ("lccl_engine", "lccl_math"),
)
"""Old and new names that no declaration in the package's Python tells: a variable, keys of JSON, names in C."""
MOVED = {
    "bench/cpu_layers.py": "bench/cpu/layers.py",
    "bench/cpu_models.py": "bench/cpu/models.py",
    "bench/cpu_targets.py": "bench/cpu/targets.py",
    "bench/recognise_large.py": "bench/cpu/recognise_large.py",
    "bench/gpu_layers.py": "bench/gpu/layers.py",
    "bench/gpu_targets.py": "bench/gpu/targets.py",
    "scripts/gpu_check.py": "bench/gpu/check.py",
    "scripts/gpu_fit.py": "bench/gpu/fit.py",
    "scripts/gpu_verdict.py": "bench/gpu/verdict.py",
}
"""Scripts of documented commands -> where they are now."""


def test_every_old_spelling_is_on_the_page_of_renames() -> None:
    """What the package still accepts, as its sources declare it."""
    sources = {path: path.read_text() for path in sorted((ROOT / "exporter" / "lccl").rglob("*.py"))}
    declared = re.compile(r"@renamed_(?:keywords|fields)\(([^)]*)\)")
    keywords = [
        pair for text in sources.values() for call in declared.findall(text) for pair in re.findall(r'(\w+)="(\w+)"', call)
    ]
    names = [pair for text in sources.values() for pair in re.findall(r'"(\w+)": \("(\w+)", lambda', text)]
    commands = [text for path, text in sources.items() if path.parent.name == "cli" and "keep_old_spelling(" in text]
    options = [pair for text in commands for pair in re.findall(r'\(?"(--[\w-]+)", "(--[\w-]+)"\)', text)]
    assert len(keywords) >= 5
    assert len(names) >= 3
    assert len(options) >= 8
    page = (ROOT / "docs" / "renamed.md").read_text()
    rows = [re.findall(r"`([^`]+)`", line) for line in page.splitlines() if line.startswith("|")]
    told = {(old.rstrip("=").split(".")[-1], new.rstrip("=").split(".")[-1]) for row in rows for old, new in pairwise(row)}
    assert {pair for pair in (*keywords, *names, *options, *RENAMED_ELSEWHERE) if pair not in told} == set()
    assert "`min-dense-agreement` is named `min-baseline-agreement`" in page
    for old, new in MOVED.items():
        assert f"| `{old}` | `{new}` |" in page
        assert (ROOT / new).exists()
        assert not (ROOT / old).exists()


def test_make_help_names_every_target() -> None:
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in phony for target in line.split()}
    told = {line.split()[1] for line in run(["make", "--no-print-directory", "help"], ROOT).splitlines()}
    assert told == targets
