"""The HTML report: its verdict, its numbers beside the JSON's, and the page in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lccl
from lccl.comparing.report.gate_look import MOST_SHOWN, GateLook, look
from lccl.comparing.report.report import Extras, page, tuning_figure, verdict
from lccl.comparing.results import Check, Comparison, Environment, Latency, Row
from support.browser import DESKTOP, PHONE, Browser, browser_path

Invoke = Callable[..., Any]
LCCL = Row("m.onnx", "lccl", "onnxruntime-lccl", "CPU", accuracy=0.91, agreement=0.97, reference="d.pt (torch)", speedup=1.5)
DENSE = Row("d.pt", "baseline", "torch", "CPU", accuracy=0.92, latency=Latency(3.0, 4.0, 50))
SETTING = Environment(100, 1, 1, "a processor")


def comparison(*rows: Row, checks: tuple[Check, ...] = (), metric: str | None = None) -> Comparison:
    return Comparison(rows or (LCCL, DENSE), None, checks, SETTING, metric)


# ---- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (comparison(), "open", "No limit was set. The gated network is 1.50x as fast as the dense network in onnxruntime-lccl; its top-1 is 91.0 %, the dense network's 92.0 %."),
        (comparison(checks=(Check("min-speedup", 1.5, 1.0, True),)), "passed", "The limit passed."),
        (
            comparison(checks=(Check("min-speedup", 1.5, 1.0, True), Check("max-accuracy-drop", 1.0, 0.5, False))),
            "failed",
            "1 limit of 2 failed: max-accuracy-drop is 1, allowed is 0.5.",
        ),
        (comparison(Row("m", "lccl", "onnxruntime", "CPU", speedup=0.8), DENSE), "open", "is SLOWER than the dense network in onnxruntime: 0.80x"),
        (
            comparison(
                Row("m", "lccl", "onnxruntime", "CPU", speedup=2.0, speedup_over="t (onnxruntime)"), Row("t", "dense twin", "onnxruntime", "CPU")
            ),
            "open",
            "2.00x as fast as its own dense twin",
        ),
        (comparison(Row("m", "lccl", "torch", "CPU", metric=0.5), metric="f1, higher is better"), "open", "Its f1 is 0.5."),
        (comparison(Row("m", "lccl", "torch", "CPU", agreement=0.5, reference="d")), "open", "50.0 % of its predictions are those of d."),
        (comparison(Row("m", "lccl", "torch", "CPU")), "open", "Nothing could be compared."),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 12 else "",
)  # fmt: skip
def test_the_verdict(found: Comparison, state: str, words: str) -> None:
    said = verdict(found)
    assert said.state == state
    assert words in f"{said.word} {said.sentence}"


def test_what_a_user_named_is_text_not_markup() -> None:
    from lccl.profiling.profiles import LayerProfile, NetworkProfile

    hostile = "<script>alert(1)</script>$x_$"
    row = Row(f"{hostile}.onnx", "lccl", "torch", "CPU", accuracy=1.0, latency=Latency(1.0, 2.0, 5))
    profile = NetworkProfile((LayerProfile(hostile, "gated", 100, 1, 0.5),), 1)
    seen = GateLook(np.zeros((1, 2, 2)), {hostile: np.zeros((1, 2, 2), bool)}, {hostile: np.array([0.5])})
    text = page(Comparison((row,), profile, (), SETTING), Extras(look=seen, command="<b>"))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 4, "in tables, captions and charts"
    assert "<b>" not in text
    assert "$x_$" in text, "a name is no formula"


def test_a_hostile_score_of_a_tuning(tmp_path: Path) -> None:
    point = {"score": 0.5, "macs": 0.5}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"points": [point], "chosen": point, "built": point, "score": "<img src=x>$_$"}))
    figure = tuning_figure(path)
    assert "<img" not in figure["svg"]
    assert "<img" not in page(comparison(), Extras(tuning=figure))


# ---- what gates did -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_maps_and_densities(small_model: nn.Module, tmp_path: Path) -> None:
    import onnx

    path = lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx").path
    x = np.random.default_rng(0).standard_normal((7, 1, 16, 16), np.float32)
    model = onnx.load(path)
    name = model.graph.input[0].name
    seen = look(model, [{name: x[:3]}, {name: x[3:]}])
    profile = lccl.profile(small_model, [torch.from_numpy(x)])
    assert {n: float(d.mean()) for n, d in seen.densities.items()} == pytest.approx(
        {p.name: p.density for p in profile.gated}, abs=1e-6
    )
    assert seen.inputs.shape == (MOST_SHOWN, 16, 16)
    assert (seen.inputs.min(), seen.inputs.max()) == (0, 1)
    for layer, maps in seen.maps.items():
        np.testing.assert_allclose(maps.mean(axis=(1, 2)), seen.densities[layer][:MOST_SHOWN])


# ---- the page -------------------------------------------------------------------------------------------------------


class Tables(HTMLParser):
    """The cells of all tables, by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def written(small_model: nn.Module, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report by the command, and what it prints as JSON."""
    folder = tmp_path_factory.mktemp("report")
    x = np.random.default_rng(0).standard_normal((12, 1, 16, 16), np.float32)
    np.savez(folder / "data.npz", x=x, labels=np.arange(12) % 10)
    path = lccl.export(small_model, torch.zeros(1, 1, 16, 16), folder / "m.onnx", data=x).path
    point = {"score": 0.9, "macs": 0.5, "latency": None}
    (folder / "tuning.json").write_text(
        json.dumps({"points": [point] * 3, "chosen": point, "built": point | {"macs": 0.8}, "score": "top-1"})
    )
    (folder / "training.json").write_text(
        json.dumps({"epochs": [{"density": 0.9, "score": 0.5}, {"density": 0.4, "score": 0.7}]})
    )
    result = lccl.compare(
        [checkpoint, path],
        folder / "data.npz",
        latency=lccl.LatencyPlan(runs=12, warmup=1),
        limits=lccl.Limits(min_agreement=0.5),
        html=folder / "a report.html",
        tuning=folder / "tuning.json",
        training=folder / "training.json",
        command="lccl compare words",
    )
    return folder / "a report.html", json.loads(json.dumps(result.as_dict()))


@pytest.mark.slow
def test_its_numbers_are_those_of_the_json(written: tuple[Path, dict[str, Any]]) -> None:
    path, said = written
    text = path.read_text()
    tables = Tables()
    tables.feed(text)
    for row in (r for r in said["rows"] if not r["skipped"]):
        (cells,) = [c for c in tables.rows if c[:2] == [row["network"], row["runner"]]]
        assert f"{row['latency']['median_ms']:.3f}" in cells
        assert f"{row['latency']['p95_ms']:.3f}" in cells
        if row["speedup"] is not None:
            assert f"{row['speedup']:.2f}x" in cells
        if row["accuracy"] is not None and row["role"] == "lccl":
            assert f"{100 * row['accuracy']:.1f} %" in cells
    for layer in said["profile"]["layers"]:
        cells = next(c for c in tables.rows if c[0] == layer["name"])
        assert cells[1] == ("dense" if layer["density"] is None else f"{100 * layer['density']:.1f} %")
        assert cells[2] == f"{layer['dense_macs'] / 1e6:.2f}"
    (check,) = said["checks"]
    assert ["min-agreement", f"{check['value']:.4g}", "0.5", "passed"] in tables.rows
    for words in ("lccl compare words", said["environment"]["cpu"], "What tuning measured", "The training", "12 samples"):
        assert words in text


@pytest.mark.slow
def test_it_is_one_file_that_loads_nothing(written: tuple[Path, dict[str, Any]]) -> None:
    text = written[0].read_text()
    assert len(text) < 2_000_000
    assert not re.search(r"#010203|#0a0b0\d", text), "the page has put in its own colours"
    assert re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?!data:|#)[^"\'>\s)]+', text) == []
    assert "<script" not in text
    assert "http" not in re.sub(r'xmlns[:\w]*="[^"]*"', "", text)


def test_layers_of_a_built_file_have_their_reasons() -> None:
    from lccl.profiling.profiles import LayerProfile, NetworkProfile

    profile = NetworkProfile((LayerProfile("conv", "gated", 10**6, 10, 0.3),), 5)
    found = Comparison((LCCL, DENSE), profile, (), SETTING)
    row = {"name": "conv", "form": "standard ops", "reason": "41 us, gated 47 us", "chosen_us": 41.0, "dense_us": 44.5}
    seen = GateLook(np.zeros((0, 1, 1)), {"conv": np.zeros((0, 1, 1), bool)}, {"conv": np.array([0.1, 0.5])})
    tables = Tables()
    tables.feed(page(found, Extras(look=seen, decisions={"conv": row})))
    assert ["conv", "30.0 %", "1.00", "0.30", "70.0 %", "standard ops", "41.0", "44.5", "41 us, gated 47 us"] in tables.rows


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = browser_path()
    if path is None:
        pytest.skip("there is no Chromium here: apt install chromium")
    with Browser(path) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_in_a_browser(written: tuple[Path, dict[str, Any]], browser: Browser, size: tuple[int, int], dark: bool) -> None:
    """It loads without a word on the console and without another file, fits the width, and axe-core finds nothing serious."""
    import axe_core_python

    axe = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
    with browser.page() as shown:
        shown.open(written[0], size, dark=dark)
        assert shown.run("document.querySelectorAll('svg').length") >= 4
        assert shown.run("[...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length > 4")
        assert shown.run("document.documentElement.scrollWidth") <= size[0], "nothing but tables scrolls sideways"
        background = shown.run("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(18, 24, 31)" if dark else "rgb(255, 255, 255)")
        shown.run(axe + ";0")
        found = shown.run("axe.run().then(r => r.violations.map(v => [v.id, v.impact, v.nodes.length, v.nodes[0].html]))")
        assert [v for v in found if v[1] in ("serious", "critical")] == []
        shown.run("document.querySelector('.scroll').focus()")
        assert shown.run("document.activeElement.className") == "scroll", "the keyboard reaches what scrolls"
        assert shown.problems == []


# ---- wrong use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tuning": "{folder}/t.json"}, "is shown in an HTML file: pass html='report.html'"),
        ({"html": "/nowhere/r.html"}, "/nowhere does not exist"),
        ({"html": "{folder}/r.html", "tuning": "{folder}/absent.json"}, "no such file"),
        ({"html": "{folder}/r.html", "tuning": "{folder}/text.json"}, "text.json is no JSON of lccl tune"),
        ({"html": "{folder}/r.html", "tuning": "{folder}/empty.json"}, "is not what lccl tune prints as JSON"),
        ({"html": "{folder}/r.html", "training": "{folder}/empty.json"}, "does not hold the epochs of a training"),
        ({"html": "{folder}/r.html", "tuning": "{folder}/odd.json"}, "is not what lccl tune prints as JSON"),
        ({"html": "{folder}/r.html", "training": "{folder}/odd.json"}, "does not hold the epochs of a training"),
    ],
    ids=str,
)
def test_wrong_use(options: dict[str, str], said: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("text")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "odd.json").write_text(json.dumps({"points": [1], "chosen": 1, "built": 1, "score": 1, "epochs": [1]}))
    given: Any = {name: value.format(folder=tmp_path) for name, value in options.items()}
    images = np.zeros((2, 1, 16, 16), np.float32)
    with pytest.raises(lccl.UserError, match=said):
        lccl.compare(checkpoint, images, latency=None, dense_twin=False, **given)
    assert not (tmp_path / "r.html").exists()


def test_without_what_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(lccl.UserError, match=r"a report needs Jinja2: pip install 'lccl\[train\]'"):
        page(comparison(), Extras())


def test_a_full_disk_leaves_no_half_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lccl.comparing.report import report as module

    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises((lccl.UserError, OSError), match="No space left"):
        module.write_report(tmp_path / "r.html", comparison(), Extras())
    assert list(tmp_path.iterdir()) == []
