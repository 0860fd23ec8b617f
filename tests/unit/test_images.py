"""Folders of images as data: what they become, and what is wrong with them, in a sentence."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lccl
from lccl.data import load_data
from lccl.loading import images as module
from lccl.numerics import not_finite

Invoke = Callable[..., Any]


def write(path: Path, shape: tuple[int, ...] = (4, 6, 3), seed: int = 0) -> np.ndarray:
    """Write a random image and return its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(values).save(path)
    return values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of two classes, by sub-folder, in a path with a space and letters beyond ASCII."""
    root = tmp_path / "die Bilder ä"
    for i, name in enumerate(("dog/b.png", "cat/a.png", "cat/c.bmp")):
        write(root / name, seed=i)
    return root


def test_values_order_and_classes(folder: Path) -> None:
    data = load_data(folder)
    (x,) = data.inputs.values()
    wanted = [write(folder / name, seed=i) for i, name in ((1, "cat/a.png"), (2, "cat/c.bmp"), (0, "dog/b.png"))]
    np.testing.assert_array_equal(x, np.float32(np.stack(wanted).transpose(0, 3, 1, 2)) / np.float32(255))
    assert data.labels.tolist() == [0, 0, 1]  # type: ignore[union-attr]
    assert isinstance(x, np.memmap), "they lie in a file"
    assert len(data) == 3


def test_options(folder: Path) -> None:
    plain = next(iter(load_data(folder).inputs.values()))
    found = next(iter(load_data(f"{folder}?mean=0.5,0.25,0&std=0.5,1,2").inputs.values()))
    scale = np.float32([0.5, 1, 2]).reshape(3, 1, 1)
    np.testing.assert_allclose(found, (plain - np.float32([0.5, 0.25, 0]).reshape(3, 1, 1)) / scale, atol=1e-6)
    assert next(iter(load_data(f"{folder}?size=8x5&channels=1").inputs.values())).shape == (3, 1, 8, 5)
    grey = next(iter(load_data(f"{folder}?channels=1").inputs.values()))
    weights = np.float32([299, 587, 114]).reshape(3, 1, 1) / 1000
    np.testing.assert_allclose(grey[:, 0], (plain * weights).sum(1), atol=1.5 / 255)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_file_of_labels(tmp_path: Path, suffix: str) -> None:
    for i, name in enumerate(("a.png", "b.png")):
        write(tmp_path / "images" / name, seed=i)
    labels = tmp_path / f"labels{suffix}"
    labels.write_text("name,class\nb.png,7\na.png, 3\n" if suffix == ".csv" else json.dumps({"a.png": 3, "b.png": 7}))
    assert load_data(f"{tmp_path / 'images'}?labels={labels}").labels.tolist() == [3, 7]  # type: ignore[union-attr]
    assert load_data(tmp_path / "images").labels is None


def break_(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\nshowpage\n%%EOF\n"
"""PostScript, which Pillow would hand to Ghostscript."""


def write16(path: Path) -> None:
    Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000).save(path)


def test_a_class_without_images_keeps_its_number(folder: Path) -> None:
    (folder / "cow").mkdir()
    assert load_data(folder).labels.tolist() == [0, 0, 2]  # type: ignore[union-attr]


def test_a_network_may_write_into_its_input(folder: Path) -> None:
    """The images lie in a file that cannot be written: each runtime gets a copy of its own."""
    data = load_data(folder)
    (feed,) = data.chunks(("x",), 8)
    before = next(iter(data.inputs.values())).copy()
    feed["x"][:] = -1
    np.testing.assert_array_equal(next(iter(data.inputs.values())), before)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda f: [p.unlink() for p in f.rglob("*.*")], "", "holds no image: give a folder with files such as .png"),
        (lambda f: break_(f / "cat" / "c.bmp"), "", "c.bmp cannot be read as an image .*: remove it, or write it again"),
        (lambda f: (f / "cat" / "a.png").write_bytes(b""), "", "a.png cannot be read as an image"),
        (
            lambda f: write(f / "dog" / "b.png", (9, 6, 3)),
            "",
            "b.png is 9 x 6, but .*a.png is 4 x 6: .*size=4x6' resizes them all",
        ),
        (lambda f: write(f / "loose.png"), "", "loose.png lies beside folders of classes"),
        (lambda f: write16(f / "cat" / "a.png"), "", "a.png holds more than 8 bits a channel"),
        (lambda f: (f / "cat" / "a.png").write_text(EPS), "", "a.png cannot be read as an image"),
        (lambda f: None, "?size=8", "the option size of images is written like size=224x224, not 'size=8'"),
        (lambda f: None, "?size=0x8", "the size of images is a height and a width above 0"),
        (lambda f: None, "?mean=1,2", "the mean of images has 3 numbers, one for each channel, not 2"),
        (lambda f: None, "?std=0", "the std of images is above 0, not 0.0"),
        (lambda f: None, "?channels=4", "images have 1 or 3 channels, not 4"),
        (lambda f: None, "?colour=red", "images have no option 'colour': .* takes size, mean, std, channels, labels"),
        (lambda f: None, "?labels=nowhere.csv", "no such file: nowhere.csv"),
    ],
    ids=[str(i) for i in range(14)],
)
def test_what_is_wrong(folder: Path, change: Callable[[Path], object], options: str, said: str) -> None:
    change(folder)
    with pytest.raises(lccl.UserError, match=said):
        load_data(f"{folder}{options}")


@pytest.mark.parametrize(
    ("text", "suffix", "said"),
    [
        ("a.png,x\n", ".csv", "has no class of a.png"),
        ("a.png,1\nb.png,x\n", ".csv", "entry 2: a label is a name and a whole number"),
        ("a.png\n", ".csv", "has no class of a.png"),
        ("[1]", ".json", 'is no file of labels .*: write lines "name,class", or JSON'),
        ('{"a.png": 99999999999999999999}', ".json", "entry 1: a label is a name and a whole number"),
        ("a.png,0\na.png,-1\n", ".csv", "entry 2: a label is a name and a whole number"),
        ('{"a.png": 1.5}', ".json", "entry 1: a label is a name and a whole number"),
        ("\x00", ".json", "is no file of labels"),
    ],
)
def test_wrong_labels(tmp_path: Path, text: str, suffix: str, said: str) -> None:
    write(tmp_path / "images" / "a.png")
    (tmp_path / f"l{suffix}").write_text(text)
    with pytest.raises(lccl.UserError, match=said):
        load_data(f"{tmp_path / 'images'}?labels={tmp_path / f'l{suffix}'}")


def test_an_image_that_claims_billions_of_pixels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PIXELS", 20)
    with pytest.raises(lccl.UserError, match="claims 6 x 4 pixels: that is more than 20"):
        load_data(folder)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(lccl.UserError, match=r"No space left on device.: make room there, or name another folder in TMPDIR"):
        load_data(folder)


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(lccl.UserError, match="a folder of images needs Pillow: pip install 'lccl"):
        load_data(folder)


def test_finite_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lccl.numerics._PART", 8)
    x = np.zeros((7, 5), np.float32)
    assert not_finite({"x": x, "s": np.float32(1)}) is None
    x[6, 4] = np.nan
    assert not_finite({"x": x}) == "x"
    assert not_finite({"s": np.array(np.inf, np.float32)}) == "s"
    assert not_finite({"e": np.zeros((0, 3), np.float32)}) is None


@pytest.mark.slow
def test_a_command_takes_a_folder(tmp_path: Path, checkpoint: Path, invoke: Invoke) -> None:
    for i in range(6):
        write(tmp_path / "scans" / f"{i % 2}" / f"{i}.png", (16, 16), seed=i)
    done = invoke("lccl.cli.inspect", checkpoint, "--data", f"{tmp_path / 'scans'}?channels=1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["images"] == 6
    done = invoke("lccl.cli.inspect", checkpoint, "--data", tmp_path / "scans")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "3" in done.err, "three channels, where the network takes one"
