"""The site builds without a warning and without the network, and can be read without it; pictures and tables are the commands'."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
    )
    assert process.returncode == 0, process.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    pages = {path.stem for path in site.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= pages
    text = "".join(path.read_text() for path in site.glob("*.html"))
    readmes = [*ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
    for readme in (
        p for p in readmes if not any(part.startswith(".") or part == "build" for part in p.relative_to(ROOT).parts)
    ):
        title = readme.read_text().splitlines()[0].removeprefix("# ")
        assert re.search(rf"<h1[^>]*>{re.escape(title).replace('`', '.{0,7}')}", text), readme


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="?(https?:[^"> ]+)', path.read_text())
        assert loaded == [], path.name


def test_links_between_pages_have_a_target(site: Path) -> None:
    """What mkdocs does not check: copies of files, and pictures."""
    for path in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="?([^"> ]+)', path.read_text()):
            target = link.partition("#")[0]
            if target and ":" not in target and not target.startswith("/"):
                assert (path.parent / target).exists(), f"{path.relative_to(site)} links to {link}"


def test_the_glossary_is_said_once(site: Path) -> None:
    assert "the dense network to beat: trained without gates" in (site / "glossary.html").read_text()
    assert "the dense network to beat: trained without gates" not in (site / "contributing.html").read_text()


def test_the_reference_has_every_public_name(site: Path) -> None:
    import lccl
    import lccl.nn
    import lccl.train

    text = (site / "reference.html").read_text()
    names = {name for name in lccl.__all__ if name not in ("__version__", "nn", "ort", "plugin", "train")}
    names |= {f"nn.{name}" for name in lccl.nn.__all__} | {f"train.{name}" for name in lccl.train.__all__}
    assert {name for name in names if f'id="lccl.{name}"' not in text} == set()


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    """docs/pictures.py."""
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("table", ["table", "pages_table"])
def test_the_readmes_tables_are_what_was_measured(pictures: ModuleType, table: str) -> None:
    assert getattr(pictures, table)() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("measured", ["MEASURED", "PAGES"])
def test_the_readmes_machine_and_command_are_the_measurements(pictures: ModuleType, measured: str) -> None:
    import json

    facts = json.loads(getattr(pictures, measured).read_text())["facts"]
    text = (ROOT / "README.md").read_text()
    assert f"`{facts['command']}`" in text
    assert f"{facts['cpu']} virtual machine" in text
    assert f"ONNX Runtime {facts['onnxruntime']}, {facts['date'][:10]}" in text


def test_the_pictures_can_be_drawn_again(pictures: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their bytes depend on the fonts and on matplotlib; their numbers are the model's and the measurements'."""
    pytest.importorskip("matplotlib", reason="pip install -e '.[docs]'")
    assert pictures.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == f"{pictures.pages_table()}\n\n{pictures.table()}"
    drawn = {path.name for path in tmp_path.iterdir()}
    kept = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    assert drawn == kept - {"report.png"}, "that one is measured, by --report"
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_the_picture_shows_the_pixels_that_the_profile_counts(pictures: ModuleType) -> None:
    import numpy as np
    import torch

    import lccl
    from samples.digits.data import held_out

    image = held_out()[0][pictures.IMAGE : pictures.IMAGE + 1]
    profile = lccl.profile(lccl.load_checkpoint(ROOT / "samples" / "digits" / "lccl.pt"), [torch.from_numpy(image)])
    densities = {layer.name: layer.density for layer in profile.layers}
    seen = list(pictures.look(image))
    assert [s.layer for s in seen] == list(pictures.LAYERS)
    for s in seen:
        assert np.count_nonzero(s.gate) / s.gate.size == densities[s.layer]
        assert np.all(s.output[s.gate == 0] == 0)
