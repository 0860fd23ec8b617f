"""samples/cifar10: each form of the data set, what is refused, the network, the runs."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lccl
from lccl.console.progress import silent
from lccl.errors import UserError
from lccl.files import sha256
from samples.cifar10 import data, runs, train, training
from samples.cifar10.network import resnet

COUNT = 40
"""Images in each of the six files of the small set."""


@pytest.fixture(scope="module")
def small() -> dict[str, data.Split]:
    """A set of random images, by file."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {
        name: data.Split(rng.integers(0, 256, (COUNT, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, COUNT)) for name in names
    }


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(data, "IN_A_FILE", COUNT)
    monkeypatch.setattr(data, "HELD_OUT", 50)
    data.cifar10.cache_clear()
    yield
    data.cifar10.cache_clear()


def as_pickle(split: data.Split) -> bytes:
    """As the official files are: bytes for keys, images as rows, labels in a list."""
    return pickle.dumps({b"data": split.images.reshape(COUNT, -1), b"labels": split.labels.tolist(), b"batch_label": b"x"})


def folder(small: dict[str, data.Split], path: Path) -> Path:
    made = path / "cifar-10-batches-py"
    made.mkdir()
    for name, split in small.items():
        (made / name).write_bytes(as_pickle(split))
    return made


def parent(small: dict[str, data.Split], path: Path) -> Path:
    return folder(small, path).parent


def archive(small: dict[str, data.Split], path: Path) -> Path:
    with tarfile.open(path / "cifar-10-python.tar.gz", "w:gz") as made:
        made.add(folder(small, path), "cifar-10-batches-py")
    shutil.rmtree(path / "cifar-10-batches-py")
    return path / "cifar-10-python.tar.gz"


def pngs(small: dict[str, data.Split], path: Path) -> Path:
    image = pytest.importorskip("PIL.Image", reason="pip install -e '.[docs]'")
    for name, split in small.items():
        image.fromarray(split.images.transpose(0, 2, 3, 1).reshape(COUNT, 1024, 3)).save(path / f"{name}.png")
    train = np.concatenate([small[f"data_batch_{i}"].labels for i in range(1, 6)])
    (path / "train_lables.json").write_text(json.dumps(train.tolist()))
    (path / "test_lables.json").write_text(json.dumps(small["test_batch"].labels.tolist()))
    return path


@pytest.mark.parametrize("form", [folder, parent, archive, pngs], ids=lambda form: form.__name__)
def test_each_form_gives_the_same_images(
    form: Callable[[dict[str, data.Split], Path], Path], small: dict[str, data.Split], tmp_path: Path
) -> None:
    found = data.cifar10(str(form(small, tmp_path)))
    assert [len(split.labels) for split in found] == [150, 50, COUNT]
    np.testing.assert_array_equal(found.test.images, small["test_batch"].images)
    np.testing.assert_array_equal(found.test.labels, small["test_batch"].labels)
    every = np.concatenate([found.train.images, found.held_out.images]).reshape(200, -1)
    labels = np.concatenate([found.train.labels, found.held_out.labels])
    given = np.concatenate([small[f"data_batch_{i}"].images for i in range(1, 6)]).reshape(200, -1)
    true = np.concatenate([small[f"data_batch_{i}"].labels for i in range(1, 6)])
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(every, given[order])
    np.testing.assert_array_equal(labels, true[order])


def test_images_are_normalized_by_channel(
    small: dict[str, data.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAR10", str(folder(small, tmp_path)))
    images, labels = data.test_images()
    assert images.dtype == np.float32
    assert labels.shape == (COUNT,)
    assert images[3, 1, 2, 5] == pytest.approx((small["test_batch"].images[3, 1, 2, 5] / 255 - 0.456) / 0.224, abs=1e-5)
    assert data.held_out()[0].shape == (50, 3, 32, 32)


class Runs:
    """An object whose pickle calls a function."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("ran",))


def test_a_pickle_that_runs_code_is_refused(
    small: dict[str, data.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(small, tmp_path)
    (path / "data_batch_2").write_bytes(pickle.dumps({b"data": Runs(), b"labels": []}))
    with pytest.raises(UserError, match=r"data_batch_2 is no file of CIFAR-10 .*builtins\.print"):
        data.cifar10(str(path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no file of CIFAR-10"),
        (pickle.dumps([1, 2]), "is no file of CIFAR-10"),
        (pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2]}), "has 3 images and 3 labels, not 40"),
        (pickle.dumps({b"data": np.zeros((COUNT, 3072), np.uint8), b"labels": [10] * COUNT}), "is no file of CIFAR-10"),
        (pickle.dumps({b"data": np.zeros((COUNT, 3000), np.uint8), b"labels": [0] * COUNT}), "is no file of CIFAR-10"),
    ],
    ids=["empty", "list", "few", "classes", "sizes"],
)
def test_a_broken_file_is_named(content: bytes, said: str, small: dict[str, data.Split], tmp_path: Path) -> None:
    path = folder(small, tmp_path)
    (path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=said):
        data.cifar10(str(path))


def test_a_path_without_the_set_says_where_it_comes_from(
    small: dict[str, data.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIFAR10", raising=False)
    with pytest.raises(UserError, match="set CIFAR10 to"):
        data.cifar10()
    with pytest.raises(UserError, match="has no CIFAR-10"):
        data.cifar10(str(tmp_path))
    with pytest.raises(UserError, match="cannot be read as CIFAR-10"):
        data.cifar10(str(tmp_path / "nothing"))
    broken = folder(small, tmp_path)
    (broken / "data_batch_3").unlink()
    with pytest.raises(UserError, match="cannot be read as CIFAR-10"):
        data.cifar10(str(broken))
    shutil.rmtree(broken)
    whole = archive(small, tmp_path)
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read as CIFAR-10"):
        data.cifar10(str(whole))
    for place in range(len(content) // 3, len(content), len(content) // 3):
        whole.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match="cannot be read as CIFAR-10"):
            data.cifar10(str(whole))
    with tarfile.open(tmp_path / "other.tar", "w") as other:
        other.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with pytest.raises(UserError, match="has no data_batch_1"):
        data.cifar10(str(tmp_path / "other.tar"))


@pytest.mark.parametrize("labels", ["{}", "7", "[null, 1]", "no JSON"])
def test_labels_of_pngs_that_are_none_are_refused(labels: str, small: dict[str, data.Split], tmp_path: Path) -> None:
    path = pngs(small, tmp_path)
    (path / "test_lables.json").write_text(labels)
    with pytest.raises(UserError, match="cannot be read as CIFAR-10"):
        data.cifar10(str(path))


def test_weights_of_others_fit_the_network(tmp_path: Path) -> None:
    network = resnet(20)
    state = {f"module.{name}": value + 1 for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.th")
    loaded = resnet(20, tmp_path / "w.th")
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value + 1)
    with pytest.raises(UserError, match="has no weights of a ResNet-32"):
        resnet(32, tmp_path / "w.th")
    with pytest.raises(UserError, match="depth is 6"):
        resnet(21)
    assert sum(p.numel() for p in network.parameters()) == 269_722  # as He et al. count: 0.27 million


@pytest.mark.slow
def test_its_gated_form_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lccl.nn.convert(resnet(8).eval(), args=runs.IMAGE)
    report = lccl.export(model, torch.randn(2, 3, 32, 32), tmp_path / "m.onnx")
    assert sum(layer.gated for layer in report.layers) == 3


@pytest.mark.slow
@pytest.mark.parametrize("run", runs.RUNS, ids=lambda run: run.name)
def test_a_run_is_gated_as_its_name_says(run: runs.Run, small: dict[str, data.Split]) -> None:
    model, target = runs.gated(run, resnet(20).eval(), small["data_batch_1"])
    gates = {name: layer for name, layer in model.named_modules() if isinstance(layer, lccl.nn.LCCLConv2d)}
    assert len(gates) == (9 if run.where == "first-of-block" else 18)
    for layer in gates.values():
        assert layer.gate is not None
        assert layer.gate_size == run.gate_size
        if run.gate != "grid":
            assert layer.gate.conv.kernel_size == ((1, 1) if run.gate == "1x1" else (3, 3))
    budget = lccl.train.macs_budget(model, runs.IMAGE, run.fraction)
    if run.shares == "learned":
        assert target == budget
    elif run.shares == "sensitivity":
        cost = sum(budget.costs[name] * density for name, density in target.items())
        assert cost + budget.fixed == pytest.approx(budget.limit, rel=0.02)
        assert len(set(target.values())) > 1
    else:
        assert target == budget.density


def test_augmented_images_are_moved_and_mirrored_ones() -> None:
    torch.manual_seed(1)
    images = torch.arange(1, 1 + 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    found = [training.augmented(images) for _ in range(20)]
    assert all(f.shape == images.shape for f in found)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    every = {
        form[0, :, r : r + 32, c : c + 32].contiguous().numpy().tobytes()
        for form in (padded, padded.flip(3))
        for r in range(9)
        for c in range(9)
    }
    seen = {f[0].contiguous().numpy().tobytes() for f in found}
    assert seen <= every
    assert len(seen) > 10


@pytest.mark.slow
def test_runs_are_trained_kept_and_not_repeated(
    small: dict[str, data.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIFAR10", str(folder(small, tmp_path)))
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(training, "BATCH", 50)
    monkeypatch.setattr(runs, "resnet", lambda _, weights: resnet(8, weights))
    torch.save(resnet(8).state_dict(), tmp_path / "w.th")
    arguments = [
        "runs.py",
        "--weights",
        str(tmp_path / "w.th"),
        "--epochs",
        "2",
        "--state",
        str(tmp_path / "state"),
        "--only",
        "0",
        "7",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    runs.main()
    table = capsys.readouterr().out
    assert table.count("\n| ") == 3
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found) == ["dense", runs.RUNS[0].name, runs.RUNS[7].name]
    assert len(found[runs.RUNS[0].name]["epochs"]) == 2
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"0.pt", "7.pt"}
    assert isinstance(lccl.load_checkpoint(tmp_path / "state" / "7.pt", lambda: resnet(8)), torch.nn.Module)
    monkeypatch.setattr(runs, "train", None)  # it would fail if it were called
    runs.main()
    assert capsys.readouterr().out == table
    monkeypatch.setattr(sys, "argv", [*arguments[:4], "1", *arguments[5:]])
    with pytest.raises(SystemExit, match="is of other epochs: move it away"):
        runs.main()
    monkeypatch.setattr(sys, "argv", ["runs.py", "--list"])
    runs.main()
    assert capsys.readouterr().out.count("yes") == 2


def test_runs_without_weights_or_images_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CIFAR10", raising=False)
    for arguments, said in (
        ([], "--weights names the pretrained weights"),
        (["--weights", str(tmp_path / "w.th")], "no such file"),
    ):
        monkeypatch.setattr(sys, "argv", ["runs.py", *arguments])
        with pytest.raises(SystemExit, match=said):
            runs.main()


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(small: dict[str, data.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR10", str(folder(small, tmp_path)))
    monkeypatch.setattr(training, "BATCH", 50)
    dense = resnet(8).eval()
    whole, epochs = runs.train(runs.RUNS[0], dense, 2, tmp_path / "whole", silent)
    scored = []

    def killed(model: torch.nn.Module, split: data.Split) -> float:
        if scored:
            raise KeyboardInterrupt
        scored.append(split)
        return 0.5

    honest = runs.accuracy
    monkeypatch.setattr(runs, "accuracy", lambda model, split: killed(model, split) and honest(model, split))
    with pytest.raises(KeyboardInterrupt):
        runs.train(runs.RUNS[0], dense, 2, tmp_path / "parts", silent)
    monkeypatch.setattr(runs, "accuracy", honest)
    again, again_epochs = runs.train(runs.RUNS[0], dense, 2, tmp_path / "parts", silent)
    assert again_epochs == epochs
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


# ---- one network to a target ------------------------------------------------------------------------------------------


@pytest.fixture
def trainable(
    small: dict[str, data.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, object]]:
    """Call train.py on a small set with a ResNet-8; its results."""
    monkeypatch.setenv("CIFAR10", str(folder(small, tmp_path)))
    monkeypatch.setattr(train, "RESULTS", tmp_path / "networks.json")
    monkeypatch.setattr(training, "BATCH", 50)
    torch.save(resnet(8).state_dict(), tmp_path / "w.th")

    def call(*words: str) -> dict[str, object]:
        own = ["--state", str(tmp_path / "state"), "--depth", "8", "--epochs", "2"]
        weights = [] if words[0] == "paper" else ["--from", str(tmp_path / "w.th")]
        monkeypatch.setattr(sys, "argv", ["train.py", *words, *own, *weights])
        train.main()
        return train.known()

    return call


@pytest.mark.slow
def test_each_recipe_leaves_a_result(
    trainable: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainable("gate", "--fewer-macs", "1.4", "--where", "paper")
    trainable("dense")
    found = trainable("paper", "--seed", "3")
    digest = sha256(tmp_path / "w.th")[:8]
    assert list(found) == [
        f"gate-resnet8-2epochs-1.4x-kxk-binary-paper-uniform-from{digest}-lr0.05-wd0.0001-seed0",
        f"dense-resnet8-2epochs-from{digest}-lr0.05-wd0.0001-seed0",
        "paper-resnet8-2epochs-lr0.1-wd0.0001-seed3",
    ]
    gated, plain, from_scratch = found.values()
    assert len(gated["epochs"]) == 2
    assert gated["macs_computed"] < gated["macs"] == plain["macs"] == plain["macs_computed"]
    assert plain["densities"] == {}
    assert 0.2 < np.mean(list(from_scratch["densities"].values())) < 0.9, "the paper's gates do not start open"
    for result in found.values():
        assert 0 <= result["test"] <= 1
        assert result["hours"] < 0.1
        assert "w.th" not in result["command"] or "/" not in result["command"]
    state = {path.name for path in (tmp_path / "state").iterdir()}
    assert state == {f"{name}.pt" for name in found}, "states are gone, checkpoints stay"
    network = lccl.load_checkpoint(tmp_path / "state" / f"{next(iter(found))}.pt", lambda: resnet(8))
    assert sum(isinstance(m, lccl.nn.LCCLConv2d) for m in network.modules()) == 6
    monkeypatch.setattr(train, "RECIPES", dict.fromkeys(train.RECIPES))  # it would fail if one were called
    assert trainable("dense") == found
    assert capsys.readouterr().out.count("dense-resnet8") == 3
    with pytest.raises(TypeError):
        trainable("dense", "--lr", "0.02")  # another training, which is not there yet


@pytest.mark.slow
def test_a_training_that_is_stopped_while_it_is_measured_is_not_lost(
    trainable: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    honest = train.measured
    monkeypatch.setattr(train, "measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        trainable("dense")
    steps: list[object] = []
    monkeypatch.setattr(train, "measured", honest)
    monkeypatch.setattr(training.F, "cross_entropy", lambda *a: steps.append(a))
    assert len(trainable("dense")) == 1
    assert steps == [], "no step was taken again"


@pytest.mark.slow
def test_a_plain_training_goes_on_where_it_was(
    small: dict[str, data.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two epochs or within one, it ends with the same weights."""
    monkeypatch.setattr(training, "BATCH", 10)
    monkeypatch.setattr(training, "SAVE_EVERY", 1)

    def run(name: str, stop: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model, done = resnet(8), []

        def step(*_: object) -> None:
            done.append(1)
            if stop is not None and len(done) > stop:
                raise KeyboardInterrupt

        optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, nesterov=True)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=2 * (COUNT // 10))
        training.trained(model, small["data_batch_1"], 2, optimizer, rates, seed=1, state=tmp_path / name, progress=step)
        return model.state_dict()

    whole = run("whole", None)
    for stop in (1, COUNT // 10 + 1):
        with pytest.raises(KeyboardInterrupt):
            run(f"parts{stop}", stop)
        again = run(f"parts{stop}", None)
        for name, value in whole.items():
            assert torch.equal(value, again[name]), (stop, name)


def test_learning_rates() -> None:
    assert [train.by_steps(p) for p in (0.0, 0.1, 0.5, 0.8, 1.0)] == [0.1, 1.0, 0.1, 0.01, 0.001]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name what to train: gate, dense, paper"),
        (["gate"], "gate starts from pretrained weights: --from resnet20.th"),
        (["gate", "--from", "absent.th", "--fewer-macs", "1"], "--fewer-macs is a ratio above 1"),
    ],
)
def test_wrong_use_of_training(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit, match=said):
        train.main()
