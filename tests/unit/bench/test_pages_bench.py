"""bench/cpu/pages.py from end to end on one page, its sentences, and what it says of wrong outputs. No time is asserted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.cpu import pages as bench
from bench.cpu.common import Times


@pytest.mark.slow
def test_one_page_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["--json", str(tmp_path / "p.json"), "--markdown", str(tmp_path / "p.md")]
    arguments = ["--library", "none", "--pages", "1", "--rounds", "1", *files]
    made = bench.exported(tmp_path)
    monkeypatch.setattr(bench, "exported", lambda _: made)
    assert bench.main(arguments) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "p.md").read_text().strip() == text.strip()
    found = json.loads((tmp_path / "p.json").read_text())
    assert [row["network"] for row in found["rows"]] == ["dense", "pixel", "grid"]
    assert found["facts"]["command"] == f"bench/cpu/pages.py {' '.join(arguments)}"
    known = json.loads((bench.FOLDER / "results.json").read_text())
    for row in found["rows"]:
        own = known[row["network"]]
        assert (row["f1"], row["macs"]) == (own["f1"], own["macs_computed"] / own["macs"])
        assert row["ratio"] == pytest.approx(found["rows"][0]["ms"]["median"] / row["ms"]["median"])

    class Other(bench.OrtRunner):
        """Gives other outputs at each call."""

        def run(self, x: np.ndarray) -> np.ndarray:
            self.calls = getattr(self, "calls", 0) + 1
            return super().run(x) + np.float32(id(self) % 1000)

    monkeypatch.setattr(bench, "OrtRunner", Other)
    assert bench.main(["--library", "none", "--pages", "1", "--rounds", "1"]) == 2
    assert "differs from the function body: pixel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pages", "0"], "there are 1 to 100 pages"),
        (["--pages", "101"], "there are 1 to 100 pages"),
        (["--threads", "0"], "at least one thread"),
        (["--library", "nothing.so"], "nothing.so"),
        (["--json", "/nowhere/p.json"], "/nowhere"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_mistake_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_busy_machine_is_told() -> None:
    row = bench.Row("pixel", 1, 0.98, 0.1, Times(9.0, 8.0, 10.0, 3), 3.0, 0.5, None, 1e-7, 0.99)
    assert "busy" not in bench.markdown({}, [row], 20)
    assert "The machine was busy (60 % of the time" in bench.markdown({}, [row, replace(row, cpu_share=0.6)], 20)
    assert "| pixel | 1 | 98.00% | 0.100 | 9.0 (8.0 to 10.0) | 3.00x | 0.50x | - | 1.0e-07 |" in bench.markdown({}, [row], 20)
