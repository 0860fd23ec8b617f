"""bench/cpu/forms.py from end to end on small networks, and what its table says. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cpu import forms as bench
from bench.cpu.common import NO_LIBRARY
from lccl.backends.onnxruntime.library import ENVIRONMENT
from lccl.forms import choosing


@pytest.fixture(autouse=True)
def library(ort_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT, str(ort_library))
    monkeypatch.setattr(choosing, "FINAL_ROUNDS", 5)
    return ort_library


@pytest.mark.slow
def test_a_network_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "f.json"), "--markdown", str(tmp_path / "f.md"), "--picture", str(tmp_path / "f.png")]
    arguments = ["--networks", "resnet20", "digits", "--densities", "0.3", *files]
    assert bench.main(arguments) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "f.md").read_text().strip() == text.strip()
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    first, second = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert (first["network"], first["density"], first["gates"]) == ("resnet20", 0.3, 16)
    assert (second["network"], second["density"], second["gates"]) == ("digits", None, 6)
    assert 0.3 < first["macs"] < 0.5
    assert min(first["file"], first["gated"], first["standard"], first["written"], first["dense_ms"], first["int8"]) > 0
    assert f"* command: bench/cpu/forms.py {' '.join(arguments)}" in text


@pytest.mark.slow
def test_random_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = bench.main(["--random", "2", "--json", str(tmp_path / "f.json")])
    found = json.loads((tmp_path / "f.json").read_text())
    assert code == (2 if found["slower"] else 0)
    assert found["networks"] == len(found["each"]) == 2
    assert found["worst"] == max(entry["over_better"] for entry in found["each"])
    assert '"networks": 2' in capsys.readouterr().out


def test_the_part_of_the_ideal() -> None:
    """MACs of 0.4 allow 2.5x: 2x is 80 % of that."""
    row = bench.Row("net", 0.3, 1, 0.4, 1.0, 1.5, 1.8, 0.9, 2.0, "chosen", 3, 4, 1, (7, 2), 1.6, None)
    assert row.of_ideal == pytest.approx((0.6, 0.8))
    line = bench.markdown({"cpu": "x"}, [row]).splitlines()[-1]
    assert line == "| net | 0.3 | 1 | 1.00 | 1.50x | 1.80x | 0.90x | 2.00x | 1.60x | - | 60% | 80% | 3 of 4 | 1 | 7 -> 2 |"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json", "/nowhere/f.json"], "/nowhere does not exist"),
        (["--library", "/nothing.so"], "no such file: /nothing.so"),
        (["--random", "1", "--picture", "p.png"], "--random counts networks, and has no picture"),
        (["--library", NO_LIBRARY], "cannot be timed without the op's library"),
    ],
)
def test_wrong_use(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--networks", "resnet20", *words]) == 1
    assert said in capsys.readouterr().err
