#!/usr/bin/env python3
"""Times single gated 3x3 layers on a GPU against cuDNN: every density, mask and configuration.

See bench/README.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "exporter")]

from bench.command_line import Parser
from bench.gpu import report as gpu_report
from bench.gpu.settings import DENSITIES, FORMS, MASKS, QUICK_DENSITIES, QUICK_MASKS, layers_of, settings_of

if TYPE_CHECKING:
    from bench.gpu.contest import Contest


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = Parser(
        "bench/gpu/layers.py",
        description="Times gated 3x3 layers against cuDNN (channels_last, float16) in CUDA graphs over buffers larger than L2.",
    )
    p.add_argument("--library", metavar="PATH", help="liblccl_cuda.so (default: $LCCL_CUDA_LIBRARY, else the package's own)")
    p.add_argument(
        "--layers", nargs="+", metavar="LAYER", help="such as 64@56x8 or 64-128@56s2x8 (default: see bench/README.md)"
    )
    p.add_argument("--densities", nargs="+", type=float, metavar="D", help="fractions of active cells")
    p.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="of the gate")
    p.add_argument("--quick", action="store_true", help="four layers, four densities, two masks")
    p.add_argument("--within", type=float, default=4.0, metavar="F", help="skip what is predicted F times the chosen (0: none)")
    p.add_argument(
        "--peak", type=float, metavar="TFLOPS", help="of the GPU, to give times in per cent of it (default: its data sheet's)"
    )
    p.add_argument("--minutes", type=float, metavar="M", help="stop in time; what there is gets written and marked")
    p.add_argument("--json", type=Path, metavar="FILE", help="all rows")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="the table that is printed")
    p.add_argument("--picture", type=Path, metavar="FILE.png", help="ratio over density (needs matplotlib)")
    return p


def torch_refusal() -> str:
    """Why PyTorch cannot be used here, in one sentence; empty if it can."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return "PyTorch is not installed here: install torch with CUDA, or run this with the Python that has it"
    return ""


def gpu_refusal() -> str:
    """Why nothing can be measured here, in one sentence; empty if it can."""
    refusal = torch_refusal()
    if refusal:
        return refusal
    import torch

    if not torch.cuda.is_available():
        return "this needs a CUDA GPU that PyTorch can use, and there is none here: run it on a machine that has one"
    return ""


def measure(options: argparse.Namespace, facts: dict[str, Any], tell: Callable[[str], None]) -> Contest:
    """Runs what the options ask for, and writes files while it does.

    Raises:
        UserError: no library, a layer that is written otherwise, or a file that cannot be written.
    """
    from bench.gpu.contest import BrokenDeviceError, Contest
    from lccl.backends.torch.cuda.library import load

    contest = Contest(load(options.library), facts["peak_tflops"], options.within)
    if options.minutes is not None:
        contest.deadline = time.monotonic() + 60 * options.minutes
    densities = options.densities or (QUICK_DENSITIES if options.quick else DENSITIES)
    masks = QUICK_MASKS if options.quick else MASKS
    settings = settings_of(layers_of(options.layers, options.quick), densities, masks, options.forms)
    files = gpu_report.Files(options, facts)
    try:
        contest.run(settings, tell, lambda: files.keep(contest))
    except BrokenDeviceError as error:
        tell(f"the rest was not measured: {error}")
    files.write(contest)
    return contest


def with_peak(facts: dict[str, Any], given: float | None) -> dict[str, Any]:
    """The facts with the peak that per cents refer to.

    It is as given, else as in the data sheet of a GPU of this name.
    """
    from bench.gpu.common import peak_of

    peak = given or peak_of(facts["gpu"])
    source = "--peak" if given else "data sheet: dense float16" if peak else "unknown: give --peak"
    return facts | {"peak_tflops": peak, "peak_is": source}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 after one sentence; 2 where a configuration gave a wrong result or an error.
    """
    options = parser().parse_args(arguments)
    refusal = gpu_refusal()
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    from bench.gpu.common import gpu_facts
    from lccl.errors import UserError

    facts = with_peak(gpu_facts(("bench/gpu/layers.py", *(sys.argv[1:] if arguments is None else arguments))), options.peak)
    try:
        contest = measure(options, facts, lambda line: print(line, file=sys.stderr, flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(gpu_report.markdown(facts, contest))
    if options.picture:
        skipped = gpu_report.draw(contest.rows, options.picture)
        print(skipped or f"picture: {options.picture}", file=sys.stderr)
    return 2 if any(r.failed for r in contest.refusals) else 0


if __name__ == "__main__":
    raise SystemExit(main())
