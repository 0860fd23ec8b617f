"""Atomic writing of files, and paths that it must not replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lccl.errors import UserError
from lccl.files import atomic_path, discard_unfinished, require_writable


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "model.onnx", tmp_path / "latest.onnx"
    target.write_text("older")
    link.symlink_to(target)
    with atomic_path(link) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("newer")
    assert link.is_symlink()
    assert target.read_text() == "newer"


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UserError, match="a device or a pipe"):
        require_writable(tmp_path / "pipe.onnx")


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "null.onnx").symlink_to("/dev/null")
    with pytest.raises(UserError, match="a device or a pipe"), atomic_path(tmp_path / "null.onnx"):
        pass
    assert Path("/dev/null").is_char_device()


def test_a_forked_child_leaves_its_parents_files_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "m.onnx") as temporary:
        child = os.fork()
        if child == 0:
            discard_unfinished()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert temporary.exists()
    assert (tmp_path / "m.onnx").exists()


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="leads nowhere"):
        require_writable(tmp_path / "a")
