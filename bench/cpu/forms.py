"""Networks built for ONNX Runtime: what the choice of forms gains over all gated, and what it costs in all.

    python bench/cpu/forms.py --networks resnet20 resnet18 --densities .1 .3 .5 --json forms.json --markdown forms.md

Each network is built by the code of ``lccl build-engine --backend onnxruntime``, and the table is of
the times that the build measures, interleaved. "pages" and "digits" are the trained samples with
their own masks; the others have random weights and masks made to a density. ``--random 20`` builds
random networks instead, and says in how many the written file was slower than the better of all
gated and all in standard ops.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.command_line import Parser  # noqa: E402
from bench.cpu.common import NO_LIBRARY, cpu_facts  # noqa: E402
from bench.cpu.contest import library_of  # noqa: E402
from bench.cpu.forms_picture import draw  # noqa: E402
from bench.cpu.networks import NETWORKS  # noqa: E402
from bench.cpu.picture import require  # noqa: E402
from bench.cpu.rivals import rivals_over_dense  # noqa: E402
from lccl.errors import UserError  # noqa: E402
from lccl.forms.results import Choice  # noqa: E402

SAMPLES = ("pages", "digits")
SLOWER = 1.03
"""A written file may take so much of the time of the better simple form: more counts as slower."""
FEEDS = 8


@dataclass(frozen=True)
class Row:
    """One network at one density."""

    network: str
    density: float | None
    """None: the network's own masks."""
    threads: int
    macs: float
    """MACs with gates over those of the dense network: the ideal time over the dense one's."""
    dense_ms: float
    file: float
    """Dense time over that of the file as it was."""
    gated: float
    standard: float
    written: float
    """Dense time over that of the form that was written."""
    form: str
    gates_kept: int
    gates: int
    joined: int
    layout_changes: tuple[int, int]
    int8: float
    """Dense time over that of the dense network in ONNX Runtime's static INT8."""
    openvino: float | None
    """Dense time over that of the dense network in OpenVINO; None where it is not installed."""

    @property
    def of_ideal(self) -> tuple[float, float]:
        """The part of the ideal that the file and the written form reach."""
        return self.file * self.macs, self.written * self.macs


Subject = tuple[onnx.ModelProto, tuple[dict[str, Any], ...]]


def subjects(names: Sequence[str], densities: Sequence[float]) -> Iterator[tuple[str, float | None, Callable[[], Subject]]]:
    """Give name, density and what builds the canonical model and its feeds."""
    for name in names:
        if name in SAMPLES:
            yield name, None, lambda name=name: sample(name)  # type: ignore[misc]
            continue
        for density in densities:
            yield name, density, lambda name=name, density=density: made(name, density)  # type: ignore[misc]


def made(name: str, density: float) -> Subject:
    """Return a network of the benchmark with its mask."""
    from lccl.graph.variants.canonical import canonical

    network = NETWORKS[name]
    model = canonical(network.build(1, "1x1")[1])
    feeds = tuple({model.graph.input[0].name: network.feed(1, kind, density)} for kind in ("blob", "random"))
    return model, feeds


def sample(name: str) -> Subject:
    """Return a sample's exported network with real inputs."""
    import lccl
    from lccl.data import load_data
    from lccl.graph.inputs import input_types
    from lccl.graph.variants.canonical import canonical
    from lccl.loading.onnx import load_onnx

    factory, file, data = {
        "pages": ("samples.pages.network:page_reader", "samples/pages/pixel.pt", "samples.pages.data:ten"),
        "digits": (None, "samples/digits/lccl.pt", "samples.digits.data:calibration"),
    }[name]
    loaded = load_data(data)
    x = next(iter(loaded.inputs.values()))
    with tempfile.TemporaryDirectory() as folder:
        path = lccl.export(lccl.load_checkpoint(ROOT / file, factory), x[:1], Path(folder) / "net.onnx").path
        model = canonical(load_onnx(path))
    (input_name,) = input_types(model)
    return model, tuple({input_name: x[i : i + 1]} for i in range(FEEDS))


def choice_of(subject: Subject, threads: int, library: Path) -> Choice:
    """Build it."""
    from lccl.backends.onnxruntime.library import cpu_isa
    from lccl.forms.choosing import Request, choose

    model, feeds = subject
    request = Request(feeds, len(feeds), threads, 1, library, cpu_isa(library) or "", {}, None)
    return choose(model, request, lambda *_: None).choice


def row_of(name: str, density: float | None, subject: Subject, threads: int, library: Path) -> Row:
    """Build a network and return its row."""
    from lccl.graph.variants.dense import dense_twin
    from lccl.profiling.of_onnx import profile_canonical

    choice = choice_of(subject, threads, library)
    profile = profile_canonical(subject[0], list(subject[1]))
    rivals = rivals_over_dense(dense_twin(subject[0]), subject[1], threads)
    ratios = {t.what: t.over_chosen for t in choice.times}
    dense = ratios["dense twin"]
    gated = [layer for layer in choice.layers if layer.density is not None]
    dense_time = choice.time("dense twin")
    assert dense_time is not None
    return Row(
        name,
        density,
        threads,
        profile.macs / profile.dense_macs,
        dense_time.median,
        dense / ratios["the file as it was"],
        dense / ratios["all gated"],
        dense / ratios["all in standard ops"],
        dense / ratios[choice.written],
        choice.written,
        sum(layer.form == "gated" for layer in gated),
        len(gated),
        sum(layer.form == "joined" for layer in choice.layers),
        choice.layout_changes,
        rivals["int8"],
        rivals.get("openvino"),
    )


def markdown(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """What was measured, on what, by which command."""
    lines = ["# Networks built for ONNX Runtime on a CPU", "", *(f"* {name}: {value}" for name, value in facts.items()), ""]
    lines += [
        "Batch 1. Ratios are the dense twin's time over the form's, medians over interleaved rounds. Ideal: the MACs of the dense "
        "network over those of open pixels and gates. Gates: how many layers the build left to the op. Dense INT8: the dense "
        "network by ONNX Runtime's static quantiser (QDQ, per channel), which needs calibration and may cost accuracy.",
        "",
        "| network | density | threads | dense, ms | file as it was | all gated, fused | standard ops | written | dense INT8 | dense OpenVINO | of ideal, file "
        "| of ideal, written | gates | joined | layout changes |",
        "|---" * 15 + "|",
    ]
    for r in rows:
        before, after = r.of_ideal
        cells = (
            r.network, "own masks" if r.density is None else f"{r.density:g}", r.threads, f"{r.dense_ms:.2f}",
            *(f"{value:.2f}x" for value in (r.file, r.gated, r.standard, r.written, r.int8)),
            "-" if r.openvino is None else f"{r.openvino:.2f}x", f"{before:.0%}", f"{after:.0%}",
            f"{r.gates_kept} of {r.gates}", r.joined, f"{r.layout_changes[0]} -> {r.layout_changes[1]}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


# ---- random networks -------------------------------------------------------------------------------


def random_subject(seed: int) -> Subject:
    """Return a residual network of random sizes whose gates have random densities."""
    from bench.cpu.layer_nets import Net
    from lccl.graph.variants.canonical import canonical

    rng = np.random.default_rng(seed)
    size, channels = int(rng.choice([8, 16, 28, 56])), int(rng.choice([8, 16, 32, 64]))
    net = Net(3, size, 1, str(rng.choice(["1x1", "kxk"])), seed=seed)
    x = net.conv(net.input, channels)
    for _ in range(int(rng.integers(1, 5))):
        y = net.gated(x, channels) if rng.random() < 0.7 else net.conv(x, channels)
        if rng.random() < 0.6:
            x = net.gated(y, channels, passes=False, residual=x, scale=0.5)
        else:
            x = net.conv(y, channels, passes=False, residual=x, scale=0.5)
    net.gated(x, channels)
    model = canonical(net.model([net.classify(x, 10)]))
    density = float(rng.uniform(0.02, 1))
    image = rng.standard_normal((1, 3, size, size), np.float32)
    image[0, 0] = (rng.random((size, size)) < density).astype(np.float32)
    return model, ({model.graph.input[0].name: image},)


def random_report(count: int, threads: int, library: Path) -> dict[str, Any]:
    """Build random networks, and say how the written form stood against all gated and all in standard ops."""
    found = []
    for seed in range(count):
        choice = choice_of(random_subject(seed), threads, library)
        ratios = {t.what: t.over_chosen for t in choice.times}
        better = min(ratios["all gated"], ratios["all in standard ops"])
        found.append(
            {"seed": seed, "written": choice.written, "over_better": ratios[choice.written] / better, "gain": choice.gain}
        )
        print(f"{seed}: {found[-1]}", file=sys.stderr)
    over = [entry["over_better"] for entry in found]
    return {
        "networks": count,
        "slower": sum(ratio > SLOWER for ratio in over),
        "median": float(np.median(over)),
        "worst": float(np.max(over)),
        "each": found,
    }


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = Parser("bench/cpu/forms.py", description="Builds networks for ONNX Runtime and says what the choice of forms gains.")
    p.add_argument("--networks", nargs="+", default=[*NETWORKS, *SAMPLES], choices=[*NETWORKS, *SAMPLES], metavar="NAME")
    p.add_argument("--densities", nargs="+", type=float, default=[0.1, 0.3, 0.5], metavar="D", help="(default: .1 .3 .5)")
    p.add_argument("--threads", nargs="+", type=int, default=[1], metavar="T", help="(default: 1)")
    p.add_argument("--random", type=int, metavar="N", help="build N random networks instead")
    p.add_argument("--library", dest="op", metavar="PATH", help="liblccl_ort.so")
    p.add_argument("--json", type=Path, metavar="FILE", help="all rows")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="the table that is printed")
    p.add_argument("--picture", type=Path, metavar="FILE", help="bars of all rows (.png)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 after one sentence; 2 where a random network's file was slower.
    """
    options = parser().parse_args(arguments)
    from lccl.files import atomic_path, require_writable
    from lccl.op.onnx_op import register_schema

    register_schema()
    try:
        for path in filter(None, (options.json, options.markdown, options.picture)):
            require_writable(path)
        if options.picture is not None:
            if options.random is not None:
                raise UserError("--random counts networks, and has no picture: leave out --picture")
            require()
        library = library_of(options.op)
        if library == NO_LIBRARY:
            raise UserError("the forms cannot be timed without the op's library")
        typed = sys.argv[1:] if arguments is None else arguments
        facts = cpu_facts(("bench/cpu/forms.py", *typed), library)
        if options.random is not None:
            report = {"facts": facts} | random_report(options.random, options.threads[0], Path(library))
            text = json.dumps({k: v for k, v in report.items() if k != "each"}, indent=1)
            content: dict[str, Any] = report
        else:
            rows = []
            for name, density, build in subjects(options.networks, options.densities):
                for threads in options.threads:
                    rows.append(row_of(name, density, build(), threads, Path(library)))
                    print(f"{name} {density} {threads}: {rows[-1].file:.2f} -> {rows[-1].written:.2f}", file=sys.stderr)
            if options.picture is not None:
                draw(
                    rows,
                    options.picture,
                    f"{facts['cpu']}, {facts['kernels']}, batch 1, {' and '.join(map(str, options.threads))} thread(s), {facts['date']}",
                )
            text, content = markdown(facts, rows), {"facts": facts, "rows": [asdict(row) for row in rows]}
        for path, written in ((options.json, json.dumps(content, indent=1) + "\n"), (options.markdown, text)):
            if path is not None:
                with atomic_path(path) as temporary:
                    temporary.write_text(written)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 2 if content.get("slower") else 0


if __name__ == "__main__":
    raise SystemExit(main())
