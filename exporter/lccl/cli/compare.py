"""``lccl compare``: a gated network against dense ones.

The exit code is 0 where every limit passed, and 2 where one failed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from lccl.command_line import EXIT_LIMIT_FAILED, EXIT_OK, Parser, fraction, number, recorded, run, seconds, show, stdout_kept
from lccl.console.progress import on_terminal
from lccl.errors import UserError
from lccl.files import require_file

EXAMPLES = """\
exit code: 0 every limit passed, 2 a limit failed, 1 could not run

examples:
  {prog} lccl.pt model.onnx --baseline dense.pt --data digits.npz
  {prog} model.onnx --data mydata:held_out --min-speedup 1.0 --min-speedup-runner onnxruntime-lccl
  {prog} lccl.pt model.onnx --baseline dense.onnx --data test.npz --min-agreement 0.999 --max-accuracy-drop 0.5
"""


PROG = "lccl-compare"
SUMMARY = "Compare a gated network with dense ones: accuracy, latency, density and MACs."


def parser(prog: str = PROG) -> Parser:
    """The command's options."""
    p = Parser(prog, SUMMARY, EXAMPLES.format(prog=prog))
    p.add_argument("networks", nargs="+", type=Path, help="the LCCL network: .pt, .onnx and .engine files of it")
    p.add_argument("--baseline", nargs="+", default=(), type=Path, metavar="FILE", help="the dense network to beat")
    p.add_argument(
        "--data", required=True, metavar="FILE.npz|FOLDER|PKG.MODULE:LOADER", help="inputs, with labels if there are any"
    )
    p.add_argument("--factory", metavar="PKG.MODULE:FACTORY", help="builds the LCCL network of a checkpoint, as for an export")
    p.add_argument("--baseline-factory", metavar="PKG.MODULE:FACTORY", help="builds the baseline of a checkpoint")
    p.add_argument(
        "--state-dict-key", metavar="KEY", help="which entry of a nested checkpoint is the LCCL network's state dict"
    )
    p.add_argument("--baseline-state-dict-key", metavar="KEY", help="the same for a nested checkpoint of the baseline")
    p.add_argument(
        "--state-dict-prefix", metavar="PREFIX", help="what the names of the LCCL network's weights begin with, such as model."
    )
    p.add_argument("--baseline-state-dict-prefix", metavar="PREFIX", help="the same for the baseline's weights")
    p.add_argument(
        "--unsafe-pickle",
        action="store_true",
        help="load pickled modules, archives and TorchScript of both networks, which RUNS CODE from the files",
    )
    p.add_argument(
        "--no-dense-twin", action="store_true", help="leave out the dense twin (the LCCL network with every gate taken as 1)"
    )
    p.add_argument("--threads", type=int, default=1, help="CPU threads of each runtime (default: %(default)s)")
    p.add_argument("--batch", type=int, default=1, help="batch size of the latencies (default: %(default)s)")
    p.add_argument("--warmup", type=int, default=10, help="rounds before measuring (default: %(default)s)")
    p.add_argument("--runs", type=int, default=200, help="rounds measured; 0: no latencies (default: %(default)s)")
    p.add_argument("--max-seconds", type=seconds, default=20, help="of measuring latencies in all (default: %(default)s)")
    p.add_argument(
        "--min-agreement", type=fraction, metavar="FRACTION", help="of predictions between runners of the LCCL network"
    )
    p.add_argument("--min-baseline-agreement", type=fraction, metavar="FRACTION", help="of predictions with the baseline")
    p.add_argument(
        "--max-accuracy-drop", type=number, metavar="POINTS", help="top-1 below the baseline's, in percentage points"
    )
    p.add_argument(
        "--min-speedup",
        type=number,
        metavar="RATIO",
        help="over the baseline (without one, the dense twin) in the same runtime on the same device; the lowest row counts",
    )
    p.add_argument(
        "--min-speedup-runner",
        metavar="NAME",
        help="limit --min-speedup to the rows of this runner, such as onnxruntime-lccl",
    )
    p.add_argument(
        "--metric",
        metavar="PKG.MODULE:FUNCTION",
        help="also scores the outputs: a function of outputs and labels, per sample or in all",
    )
    p.add_argument(
        "--metric-direction",
        choices=("higher", "lower"),
        default="higher",
        help="which values of the metric are better (default: %(default)s)",
    )
    p.add_argument("--metric-limit", type=number, metavar="VALUE", help="the worst mean of the metric for the LCCL network")
    p.add_argument(
        "--max-metric-drop", type=number, metavar="AMOUNT", help="the metric's mean worse than the baseline's, in its own unit"
    )
    p.add_argument("--top-k", type=int, metavar="K", help="also count labels among the K classes with the largest scores")
    p.add_argument(
        "--throughput",
        type=int,
        nargs="+",
        default=(),
        metavar="BATCH",
        help="also measure samples per second at these batches",
    )
    p.add_argument("--html", type=Path, metavar="FILE.html", help="also write the result as one page with charts and gate maps")
    p.add_argument("--tuning", type=Path, metavar="TUNING.json", help="what lccl tune --json printed, to be shown on the page")
    p.add_argument("--training", type=Path, metavar="TRAINING.json", help="the epochs of a training, to be shown on the page")
    p.add_argument(
        "--plugin-library", type=Path, metavar="LIBRARY", help="the TensorRT plugin of engines (default: the installed one)"
    )
    p.add_argument("--allow-skipped", action="store_true", help="check limits although a named file could not run here")
    for old, new in (
        ("--dense", "--baseline"),
        ("--model", "--factory"),
        ("--dense-model", "--baseline-factory"),
        ("--no-twin", "--no-dense-twin"),
        ("--min-dense-agreement", "--min-baseline-agreement"),
        ("--plugin", "--plugin-library"),
    ):
        p.keep_old_spelling(old, new)
    return p


def command(arguments: Sequence[str], prog: str = PROG) -> int:
    """Run the command; the exit code."""
    options = parser(prog).parse_intermixed_args(arguments)
    for name, least in (("threads", 1), ("batch", 1), ("warmup", 0), ("runs", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is at least {least}, not {getattr(options, name)}")
    if options.throughput and not options.runs:
        raise UserError("--throughput measures, which --runs 0 forbids: leave one out")
    if min((1 if options.top_k is None else options.top_k, *options.throughput)) < 1:
        raise UserError("--top-k and --throughput take numbers from 1")
    for path in (*options.networks, *options.baseline):
        require_file(path)
    with on_terminal(not options.quiet) as progress, stdout_kept():
        progress("loading the runtimes")
        from lccl.comparing import LatencyPlan, Limits, compare

        result = compare(
            options.networks,
            options.data,
            baseline=options.baseline,
            factory=options.factory,
            baseline_factory=options.baseline_factory,
            state_dict_key=options.state_dict_key,
            baseline_state_dict_key=options.baseline_state_dict_key,
            state_dict_prefix=options.state_dict_prefix,
            baseline_state_dict_prefix=options.baseline_state_dict_prefix,
            unsafe_pickle=options.unsafe_pickle,
            dense_twin=not options.no_dense_twin,
            threads=options.threads,
            latency=LatencyPlan(options.batch, options.warmup, options.runs, options.max_seconds, tuple(options.throughput))
            if options.runs
            else None,
            limits=Limits(**{limit.name: getattr(options, limit.name) for limit in fields(Limits)}),
            allow_skipped=options.allow_skipped,
            plugin_library=options.plugin_library,
            metric=options.metric,
            metric_direction=options.metric_direction,
            top_k=options.top_k,
            html=options.html,
            tuning=options.tuning,
            training=options.training,
            command=shlex.join(recorded([*prog.split(), *arguments])),
            progress=progress,
        )
    show(result, options.json)
    return EXIT_OK if result else EXIT_LIMIT_FAILED


def main() -> NoReturn:
    """Entry point."""
    run(command)


if __name__ == "__main__":
    sys.exit(main())
