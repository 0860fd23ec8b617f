#!/usr/bin/env python3
"""A process of the GPU check: one step on the device.

It tells each call to the process that watches it (``supervisor``).

No command for people: ``check.py`` starts it.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "tests", "exporter")]

from bench.gpu.process import MARK

FORMS = {"sweep": 3000, "masks": 300}
"""Step -> random forms that make it complete."""
REHEARSED: dict[str, dict[str, Any]] = {
    "sweep": {"largest": 8, "channels": (1, 3, 8, 9, 16), "large": (), "count": 25},
    "masks": {"largest": 8, "channels": (1, 3, 8, 9, 16), "count": 10},
}
"""What the emulated machine does in seconds."""
REHEARSED_LAYER = "16@8x1"
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""


def say(**message: Any) -> None:
    """A message on a line of its own, at once."""
    print(MARK + json.dumps(message, default=str), flush=True)


def parser() -> argparse.ArgumentParser:
    """The process's arguments."""
    p = argparse.ArgumentParser("bench/gpu/child.py", description="A process of bench/gpu/check.py.")
    p.add_argument("step")
    p.add_argument("--library", type=Path)
    p.add_argument("--place", default="cuda", choices=("cuda", "cpu"))
    p.add_argument("--seconds", type=float, default=1e9)
    p.add_argument("--state", type=json.loads, default={"without": [], "first": 0})
    p.add_argument("--peak", type=float)
    p.add_argument("--quick", choices=("mini", "full"), default="full")
    p.add_argument("--command", default="")
    p.add_argument("--tool", help="of compute-sanitizer")
    p.add_argument("--planted", action="store_true")
    return p


def bench_of(options: argparse.Namespace) -> Any:
    """The library on the device; on the CPU the emulated machine's."""
    import torch

    from bench.gpu.forms import Bench
    from lccl.backends.torch.cuda.kernel_op import device_of
    from lccl.backends.torch.cuda.library import load

    library = load(options.library)
    place = torch.device("cuda", 0) if options.place == "cuda" else torch.device("cpu")
    device = device_of(place) if place.type == "cuda" else library.device()
    without = frozenset((config, dtype) for config, dtype in options.state["without"])
    last = frozenset((config, dtype) for config, dtype in options.state.get("last", ()))
    return Bench(library, device, place, without, say, options.state["first"], last)


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """The device's, or why nothing can run here."""
    from bench.gpu.layers import gpu_refusal, torch_refusal, with_peak

    refusal = torch_refusal() if options.place == "cpu" else gpu_refusal()
    if refusal:
        return {"status": "refused", "words": refusal}
    from bench.gpu.common import cpu_facts, gpu_facts

    if options.place == "cpu":
        return {"status": "passed", "words": "", "facts": cpu_facts([options.command])}
    return {"status": "passed", "words": "", "facts": with_peak(gpu_facts([options.command]), options.peak)}


def run(options: argparse.Namespace, until: float) -> dict[str, Any]:
    """The step's result."""
    step, first = options.step, options.state["first"]
    if step == "facts":
        return facts(options)
    if step == "plugin":
        from bench.gpu.plugin import check_plugin

        with tempfile.TemporaryDirectory() as scratch:
            return check_plugin(options.library.parent, Path(scratch), until)
    bench = bench_of(options)
    rehearsal = options.place == "cpu"
    if step == "smoke":
        from bench.gpu.smoke import smoke

        return smoke(bench, until, first=first, small=rehearsal)
    if step == "ceilings":
        from bench.gpu.ceilings import ceilings

        return ceilings(bench, until, first=first, layers=[REHEARSED_LAYER] if rehearsal else None)
    if step == "bench":
        return measured(bench, options, until)
    from bench.gpu import parts as gpu_parts
    from bench.gpu.offsets import offsets

    if step in FORMS:
        settings = {"count": FORMS[step], "first": first, **(REHEARSED[step] if rehearsal else {})}
        return dict(getattr(gpu_parts, step)(bench, until, **settings))
    if step == "offsets":
        return offsets(bench, until)
    if step == "graph":
        return gpu_parts.graph(bench, until)
    if step == "streams":
        return gpu_parts.streams(bench, until, first=first)
    raise ValueError(step)


def _end_with_parent() -> None:
    """End with the watching process: one that hangs in a kernel would hold the GPU."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def measured(bench: Any, options: argparse.Namespace, until: float) -> dict[str, Any]:
    """The benchmark, row by row."""
    from bench.gpu.contest import Contest
    from bench.gpu.results import outcome
    from bench.gpu.settings import FORMS as GATES
    from bench.gpu.settings import QUICK_DENSITIES, QUICK_MASKS, layers_of, settings_of

    @contextmanager
    def item(config: str, setting: str, resume: int) -> Iterator[None]:
        say(event="begin", config=config, dtype="float16", form=setting, resume=resume)
        yield
        say(event="end")

    rehearsal, mini = options.place == "cpu", options.quick == "mini"
    layers = layers_of([REHEARSED_LAYER] if rehearsal else None, True)
    densities = (0.25, 0.5) if mini or rehearsal else QUICK_DENSITIES
    masks = ((1, "iid"),) if rehearsal else QUICK_MASKS
    settings = settings_of(layers, densities, masks, GATES)
    without = frozenset(config for config, dtype in bench.without if dtype == "float16")
    within = 1.5 if mini or rehearsal else 4.0
    contest = Contest(bench.library, options.peak, within, until, bench.place, without, item)
    told = [0, 0]

    def keep() -> None:
        for row in contest.rows[told[0] :]:
            say(event="record", kind="row", **row.as_dict())
        for refusal in contest.refusals[told[1] :]:
            if refusal.failed:
                say(event="fault", words=f"{refusal.config} in {refusal.setting}: {refusal.reason}")
        told[:] = len(contest.rows), len(contest.refusals)

    contest.run(settings, lambda line: print(line, flush=True), keep, options.state["first"])
    failed = any(refusal.failed for refusal in contest.refusals)
    words = f"{len(contest.rows)} rows of {len(settings)} settings"
    whole = contest.complete and (contest.rows or options.state["first"])
    return outcome("failed" if failed else "passed" if whole else "partial", words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where the step came to its end, whatever it found."""
    faulthandler.enable()
    _end_with_parent()
    options = parser().parse_args(arguments)
    if options.step == "sanitized":
        from bench.gpu.sanitized import planted_fault, sanitized

        bench = bench_of(options)
        bench.tell = lambda **_: None
        if options.planted:
            planted_fault(bench, options.tool)
        return sanitized(bench, poison=options.tool != "initcheck")
    if options.step == "profiled":
        from bench.gpu.profile import profiled

        return profiled(bench_of(options))
    say(event="done", result=run(options, time.monotonic() + options.seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
