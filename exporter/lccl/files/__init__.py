"""Files written whole or not at all, and checked before they are read; ONNX messages, weights."""

from lccl.files.atomic import atomic_path, discard_unfinished, if_abandoned, require_file, require_writable, sha256

__all__ = ["atomic_path", "discard_unfinished", "if_abandoned", "require_file", "require_writable", "sha256"]
