"""Draw held-out pages: what the network read, and where it computed.

    python samples/pages/show.py -o pages.png

The colour of the right picture is the share of the gated layers' multiply-accumulates that the
network spent at a pixel: none where the page shows through, all of them where it is darkest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import lccl  # noqa: E402
from lccl.nn import LCCLConv2d  # noqa: E402
from samples.pages.data import HELD_OUT_PAGES, SIDE, held_out  # noqa: E402
from samples.pages.network import page_reader  # noqa: E402
from samples.pages.score import NEAR, peaks  # noqa: E402

INK, GOOD, BAD = "#1f2933", "#1f6fb2", "#d1242f"


@torch.no_grad()
def computed(model: nn.Module, page: Tensor) -> npt.NDArray[np.float32]:
    """Return the share of the gated layers' MACs that is spent at each pixel of a page.

    Args:
        model: a gated network in eval mode.
        page: [1, 1, H, W].

    Returns:
        [H, W], from 0 (no layer computes there) to 1 (all do).
    """
    total, spent = 0.0, torch.zeros(1, 1, *page.shape[2:])

    def see(layer: LCCLConv2d, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total, spent
        k, c, r, s = layer.conv.weight.shape
        macs = float(k * c * r * s * output.shape[2] * output.shape[3])
        is_open = (layer.gate_values(args[0], None, output.shape[2:]) > 0).float()
        spent = spent + macs * F.interpolate(is_open, page.shape[2:], mode="nearest")
        total += macs

    handles = [m.register_forward_hook(see) for m in model.modules() if isinstance(m, LCCLConv2d)]
    try:
        model(page)
    finally:
        for handle in handles:
            handle.remove()
    return (spent / total)[0, 0].numpy()


def draw(model: nn.Module, numbers: list[int], path: Path) -> None:
    """Draw two pictures of each page: what was read, and where the network computed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    pages, labels = held_out()
    figure, axes = pyplot.subplots(1, 2 * len(numbers), figsize=(3.7 * 2 * len(numbers), 4.0), squeeze=False)
    for (left, right), number in zip(axes.reshape(-1, 2), numbers, strict=True):
        page = torch.from_numpy(pages[number : number + 1])
        with torch.no_grad():
            found = peaks(model(page)[0].numpy())
        for axis in (left, right):
            axis.imshow(pages[number, 0], cmap="gray", vmin=-1.2, vmax=1.1)
            axis.set_axis_off()
        true = [row for row in labels[number].tolist() if row[0] >= 0]
        for digit, row, column in found.tolist():
            is_right = _is_right([digit, row, column], true)
            place = (min(column + 14, SIDE - 10), max(row - 12, 10))
            left.annotate(str(digit), place, color=GOOD if is_right else BAD, fontsize=13, fontweight="bold", ha="center")
        share = computed(model, page)
        right.imshow(share, cmap="YlOrRd", vmin=0, vmax=1, alpha=np.minimum(0.85, 4 * share))
        wrong = sum(not _is_right(one, true) for one in found.tolist())
        left.set_title(f"what it read{f', {wrong} wrong (red)' if wrong else ''}", color=INK, fontsize=12)
        right.set_title(f"where it computed: {share.mean():.0%} of the gated layers", color=INK, fontsize=12)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else None)
    pyplot.close(figure)


def _is_right(one: list[int], true: list[list[int]]) -> bool:
    digit, row, column = one
    return any(t[0] == digit and np.hypot(t[1] - row, t[2] - column) <= NEAR for t in true)


def main() -> None:
    """Draw pages of one of the gated networks."""
    parser = argparse.ArgumentParser(description="Draw what the page reader reads, and where it computes.")
    parser.add_argument("--network", default="pixel", help="name of a gated checkpoint beside this file (default: %(default)s)")
    parser.add_argument("--pages", type=int, nargs="+", default=[5, 2], help=f"of the held-out ones, 0 to {HELD_OUT_PAGES - 1}")
    parser.add_argument("-o", "--out", type=Path, default=Path("pages.png"), help="(default: pages.png)")
    options = parser.parse_args()
    model = lccl.load_checkpoint(HERE / f"{options.network}.pt", page_reader).eval()
    draw(model, options.pages, options.out)
    print(f"drew pages {', '.join(map(str, options.pages))} of the held-out ones: {options.out}")


if __name__ == "__main__":
    main()
