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
from lccl.errors import UserError  # noqa: E402
from lccl.files import require_writable  # noqa: E402
from lccl.nn import LCCLConv2d  # noqa: E402
from samples.pages.data import HELD_OUT_PAGES, SIDE, held_out  # noqa: E402
from samples.pages.network import page_reader  # noqa: E402
from samples.pages.score import match, peaks  # noqa: E402

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
        for axis in (left, right):
            axis.imshow(pages[number, 0], cmap="gray", vmin=-1.2, vmax=1.1)
            axis.set_axis_off()
        page = torch.from_numpy(pages[number : number + 1])
        _draw_readings(left, model, page, labels[number])
        share = computed(model, page)
        right.imshow(share, cmap="YlOrRd", vmin=0, vmax=1, alpha=np.minimum(0.85, 4 * share))
        right.set_title(f"where it computed: {share.mean():.0%} of the gated layers", color=INK, fontsize=12)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else None)
    pyplot.close(figure)


def _draw_readings(axis: Any, model: nn.Module, page: Tensor, labels: npt.NDArray[np.int64]) -> None:
    """Write each digit beside its place: red where it is wrong, a red ring where one was missed."""
    with torch.no_grad():
        found = peaks(model(page)[0].numpy())
    matches = match(found, labels)
    for (digit, row, column), true in zip(found.tolist(), matches, strict=True):
        place = (min(column + 14, SIDE - 10), max(row - 12, 10))
        axis.annotate(str(digit), place, color=BAD if true is None else GOOD, fontsize=13, fontweight="bold", ha="center")
    missed = [row for i, row in enumerate(labels.tolist()) if row[0] >= 0 and i not in matches]
    axis.scatter([m[2] for m in missed], [m[1] for m in missed], 500, facecolors="none", edgecolors=BAD)
    wrong = [f"{n} {what}" for n, what in ((matches.count(None), "wrong"), (len(missed), "missed")) if n]
    axis.set_title("what it read" + "".join(f", {words}" for words in wrong), color=INK, fontsize=12)


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number < HELD_OUT_PAGES:
        raise argparse.ArgumentTypeError(f"pages have the numbers 0 to {HELD_OUT_PAGES - 1}, not {text}")
    return number


def main() -> None:
    """Draw pages of one of the gated networks."""
    parser = argparse.ArgumentParser(description="Draw what the page reader reads, and where it computes.")
    parser.add_argument("--network", choices=["pixel", "grid"], default="pixel", help="(default: %(default)s)")
    parser.add_argument(
        "--pages", type=_number, nargs="+", default=[5, 2], help=f"of the held-out ones, 0 to {HELD_OUT_PAGES - 1}"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("pages.png"), help="(default: pages.png)")
    options = parser.parse_args()
    try:
        require_writable(options.out)
        model = lccl.load_checkpoint(HERE / f"{options.network}.pt", page_reader).eval()
        draw(model, options.pages, options.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"drew pages {', '.join(map(str, options.pages))} of the held-out ones: {options.out}")


if __name__ == "__main__":
    main()
