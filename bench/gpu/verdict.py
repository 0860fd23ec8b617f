"""What a run of the GPU check comes to: a verdict of at most 20 lines, and a report.

Both are made of results.jsonl alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the checkout in place of this folder, whose modules have names of the standard library's too
    sys.path[:1] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "exporter")]

from bench.gpu import smoke as gpu_smoke
from bench.gpu.results import REPORT, RESULTS, VERDICT, Record, last_run, of_kind, read

LINES, WIDTH = 20, 240
GOOD = ("passed", "skipped")
PASSED, REFUSED, FAILED, INCOMPLETE = 0, 1, 2, 3
"""Exit codes."""


def steps_of(records: Sequence[Record]) -> dict[str, Record]:
    """Name -> the outcome of each step that came to one."""
    return {record["step"]: record for record in of_kind(records, "step")}


def asked_of(records: Sequence[Record]) -> list[str]:
    """The steps that the run was asked for."""
    found = of_kind(records, "run")
    return list(found[-1]["steps"]) if found else []


def exit_code(records: Sequence[Record]) -> int:
    """Of the command."""
    steps, asked = steps_of(records), asked_of(records)
    if of_kind(records, "refused"):
        return REFUSED
    if any(step["status"] == "failed" for step in steps.values()) or of_kind(records, "fault"):
        return FAILED
    whole = set(asked) <= set(steps) and all(step["status"] in GOOD for step in steps.values())
    return PASSED if whole and not of_kind(records, "interrupted") else INCOMPLETE


def verdict(records: Sequence[Record]) -> list[str]:
    """At most 20 lines."""
    steps, asked = steps_of(records), asked_of(records)
    lines = [f"verdict: {('all passed', 'cannot run here', 'something failed', 'not all was done')[exit_code(records)]}"]
    for record in of_kind(records, "refused"):
        return [*lines, str(record["words"])]
    lines += _device(records) + _built(records) + _smoke(records)
    lines += _steps(steps, asked) + _ceilings(records) + _kernels(records) + _ratios(records) + _targets(records)
    lines += [f"interrupted: {record['words']}" for record in of_kind(records, "interrupted")][:1]
    lines += [f"did not come back: {_call(record)}" for record in _open(records)][:1]
    lines.append(f"next: {_next(records, steps, asked)}")
    kept = lines if len(lines) <= LINES else [*lines[: LINES - 2], "...: see report.md", lines[-1]]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in kept]


def _open(records: Sequence[Record]) -> list[Record]:
    """The call that was running when the run ended, however it ended."""
    told = of_kind(records, "unfinished")
    if told:
        return told[-1:]
    last = [r for r in records if r["kind"] in ("begin", "item", "step")][-1:]
    return last if last and last[0]["kind"] == "begin" else []


def _call(record: Record) -> str:
    return " ".join(str(record.get(name, "")) for name in ("step", "config", "dtype", "form")).strip()


def facts_of(records: Sequence[Record]) -> dict[str, Any]:
    found = of_kind(records, "facts")
    return dict(found[-1]["facts"]) if found else {}


def _device(records: Sequence[Record]) -> list[str]:
    facts = facts_of(records)
    if not facts:
        return ["device: not known, PyTorch did not say"]
    words = (f"{name} {facts[name]}" for name in ("driver", "cuda", "torch", "date") if name in facts)
    return [f"device: {facts.get('gpu')}, {', '.join(words)}"]


def _built(records: Sequence[Record]) -> list[str]:
    targets = [f"{r['target']} {r['status']} in {r.get('seconds', 0):.0f} s" for r in of_kind(records, "build")]
    library = of_kind(records, "library")
    used = f"; used: {library[-1]['path']} ({library[-1]['sha256']})" if library else "; no library"
    return [f"build: {', '.join(targets) or 'nothing'}{used}"]


def _smoke(records: Sequence[Record]) -> list[str]:
    found = gpu_smoke.verdicts(records)
    if not found:
        return []
    again = " (of an earlier run, same library)" if of_kind(records, "smoke_reused") else ""
    lines = [f"smoke: {gpu_smoke.counts(found)}, of (configuration, type){again}"]
    groups: dict[tuple[str, str], list[str]] = {}
    for config, dtype in sorted(gpu_smoke.bad(found)):
        groups.setdefault((found[config, dtype], config), []).append(dtype)
    names = [f"{config} {what} ({', '.join(types)})" for (what, config), types in groups.items()]
    for first in range(0, min(len(names), 6), 3):
        more = f" and {len(names) - 6} more" if first and len(names) > 6 else ""
        lines.append(f"left out from then on: {'; '.join(names[first : first + 3])}{more}")
    return lines


def _steps(steps: dict[str, Record], asked: Sequence[str]) -> list[str]:
    others = [name for name in asked if name not in steps]
    lines = [", ".join(f"{name} {step['status']}" for name, step in steps.items())]
    lines = [f"steps: {lines[0] or 'none ended'}{'; not run: ' + ', '.join(others) if others else ''}"]
    for name, step in steps.items():
        if step["status"] not in GOOD and len(lines) < 7:
            first = f": {step['faults'][0]}" if step["faults"] else ""
            lines.append(f"  {name}: {step['words']}{first}".replace("\n", " "))
    return lines


def _number(record: Record) -> str:
    value = record.get("value")
    return record.get("words", "-") if value is None else f"{value:.4g} {record['unit']}"


def _ceilings(records: Sequence[Record]) -> list[str]:
    found = [r for r in of_kind(records, "ceiling") if not r["name"].startswith("kernels")]
    lines = []
    for title, mine in (
        ("ceilings", [r for r in found if not r["name"].startswith("cuDNN")]),
        ("dense", [r for r in found if r["name"].startswith("cuDNN")]),
    ):
        if mine:
            words = (f"{record['name']} {_number(record)}" for record in mine)
            lines.append(f"{title}: {', '.join(words)}")
    return lines


def _kernels(records: Sequence[Record]) -> list[str]:
    """The first layer of each grid."""
    timed = [r for r in of_kind(records, "ceiling") if r["name"].startswith("kernels") and isinstance(r.get("us"), dict)]
    first: dict[str, Record] = {}
    for record in timed:
        first.setdefault(record["name"].rpartition(" ")[2], record)
    found = list(first.values())[:2]
    return [f"{r['name']}: {', '.join(f'{name} {us}' for name, us in r['us'].items())} us ({r['config']})" for r in found]


def _ratios(records: Sequence[Record]) -> list[str]:
    rows = [row for row in of_kind(records, "row") if row["chosen"]]
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: row["ratio"])
    ends = [("worst", ordered[0]), ("best", ordered[-1])]
    words = (f"{name} {r['ratio']:.2f} ({setting_of(r)} {r['density']}, {r['config']})" for name, r in ends)
    return [f"dense time over ours, chosen, {len(rows)} settings: {', '.join(words)}"]


def setting_of(row: Record) -> str:
    return f"{row['layer']} G={row['grid']} {row['mask']} {row['form']}"


def targets_of(records: Sequence[Record]) -> list[Any]:
    """Each ratio that this GPU is held to, and whether the rows reach it."""
    from types import SimpleNamespace

    from bench.gpu import targets as gpu_targets

    rows: Any = [SimpleNamespace(**row) for row in of_kind(records, "row")]
    return gpu_targets.outcomes(rows, str(facts_of(records).get("compute_capability")))


def _targets(records: Sequence[Record]) -> list[str]:
    outcomes = targets_of(records)
    if not outcomes or not of_kind(records, "row"):
        return []
    results = [o.result for o in outcomes]
    return [f"targets: {', '.join(f'{results.count(r)} {r}' for r in dict.fromkeys(results))}"]


def _next(records: Sequence[Record], steps: dict[str, Record], asked: Sequence[str]) -> str:
    """One sentence."""
    build = steps.get("build")
    if not of_kind(records, "library"):
        if build is None and any("the time was up" in step["words"] for step in steps.values()):
            return "nothing ran: the time was up; give more --minutes"
        why = f" ({build['faults'][0]})" if build and build["faults"] else ""
        return f"nothing ran: mend the build{why}, see build.log, or carry a library and name it by --library"
    smoke = gpu_smoke.verdicts(records)
    if asked_smoke := "smoke" in asked:
        if not smoke:
            return "no call came back: see smoke.log"
        if set(smoke.values()) <= {*gpu_smoke.BAD, gpu_smoke.REFUSED}:
            return "no configuration is right: run compute-sanitizer (--only sanitizer), see smoke.log"
    if gpu_smoke.bad(smoke):
        return f"mend the configurations that are not right ({'smoke' if asked_smoke else 'earlier smoke'}), then run again"
    failed = [name for name, step in steps.items() if step["status"] == "failed"]
    if failed:
        return f"read {failed[0]} in report.md"
    missing = [name for name in asked if name not in steps or steps[name]["status"] not in GOOD]
    if missing:
        return f"run again for {', '.join(missing)} (--only {','.join(missing)})"
    return "python3 bench/gpu/fit.py on results.jsonl, if ceilings or rows differ from what is predicted"


# ---- report --------------------------------------------------------------------------------------


def report(records: Sequence[Record]) -> str:
    """The run as people read it."""
    steps = steps_of(records)
    lines = ["# The CUDA kernels on a GPU", "", *(f"* {name}: {value}" for name, value in facts_of(records).items())]
    lines += ["", "```text", *verdict(records), "```"]
    lines += ["", "| step | result | seconds | |", "|---|---|---|---|"]
    lines += [f"| {n} | {s['status']} | {s.get('seconds', 0):.0f} | {_cell(s['words'])} |" for n, s in steps.items()]
    lines += _smoke_table(records) + _ceiling_table(records) + _row_table(records) + _target_table(records)
    for name, step in steps.items():
        if step["faults"]:
            lines += ["", f"## {name}: {step['fault_count']} faults", "", "```text", *step["faults"], "```"]
    loose = [f"{fault['step']}: {fault['words']}" for fault in of_kind(records, "fault") if fault["step"] not in steps]
    if loose:
        lines += ["", "## Faults of steps that came to no end", "", "```text", *loose, "```"]
    return "\n".join(lines) + f"\n\nMade of `{RESULTS}` beside this file.\n"


def _cell(words: str) -> str:
    return words.replace("|", "/").replace("\n", " ")


def _smoke_table(records: Sequence[Record]) -> list[str]:
    found = gpu_smoke.verdicts(records)
    if not found:
        return []
    types = list(dict.fromkeys(dtype for _, dtype in found))
    lines = ["", "## First calls", "", f"| configuration | {' | '.join(types)} |", f"|---|{'---|' * len(types)}"]
    for config in dict.fromkeys(config for config, _ in found):
        lines.append(f"| {config} | {' | '.join(found.get((config, dtype), gpu_smoke.NOT_RUN) for dtype in types)} |")
    wrong = [r for r in of_kind(records, "item") if r.get("step") == "smoke" and r["verdict"] in gpu_smoke.BAD]
    if wrong:
        lines += [
            "",
            "```text",
            *(f"{r['config']} {r['dtype']}: {r['verdict']}: {r['words']}: {r['form']}" for r in wrong[:60]),
            "```",
        ]
    return lines


def _ceiling_table(records: Sequence[Record]) -> list[str]:
    found = of_kind(records, "ceiling")
    if not found:
        return []
    lines = ["", "## Ceilings", "", "| what | measured | |", "|---|---|---|"]
    for record in found:
        us = record.get("us")
        more = ", ".join(f"{k} {v}" for k, v in us.items()) if isinstance(us, dict) else f"{us:.2f} us" if us else ""
        if "config" in record:
            more += f"; {record['config']}, predicted {record['predicted_us']:.2f} us; {record['setting']}"
        lines.append(f"| {record['name']} | {_number(record)} | {_cell(more)} |")
    return lines


def _row_table(records: Sequence[Record]) -> list[str]:
    rows = of_kind(records, "row")
    if not rows:
        return []
    best: dict[tuple[str, float], Record] = {}
    for row in rows:
        key = (setting_of(row), row["density"])
        if key not in best or row["times"]["median"] < best[key]["times"]["median"]:
            best[key] = row
    head = "| setting | density | configuration | us (10th to 90th percentile) | predicted | dense us | ratio | peak |"
    lines = ["", "## Layers", "", head, f"|{'---|' * 8}"]
    for row in rows:
        is_best = best[setting_of(row), row["density"]] is row
        if not row["chosen"] and not is_best:
            continue
        marks = ", ".join(word for word, holds in (("chosen", row["chosen"]), ("best", is_best)) if holds)
        t = row["times"]
        predicted = "-" if row["predicted_us"] is None else f"{row['predicted_us']:.2f}"
        peak = "-" if row["peak_percent"] is None else f"{row['peak_percent']:.0f} %"
        lines.append(
            f"| {setting_of(row)} | {row['density']} | {row['config']} ({marks}) | {t['median']:.2f} ({t['p10']:.2f} to {t['p90']:.2f}) "
            f"| {predicted} | {row['dense']['median']:.2f} | {row['ratio']:.2f} | {peak} |"
        )
    return lines


def _target_table(records: Sequence[Record]) -> list[str]:
    from bench.gpu import targets as gpu_targets

    return gpu_targets.markdown(targets_of(records)) if of_kind(records, "row") else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes report.md and verdict.txt again beside a results file, as after a run that was killed.

    Its exit code.
    """
    parser = argparse.ArgumentParser("bench/gpu/verdict.py", description=main.__doc__)
    parser.add_argument("results", type=Path, help="results.jsonl of bench/gpu/check.py")
    results = parser.parse_args(arguments).results
    records = last_run(read(results))
    if not of_kind(records, "run"):
        print(f"error: {results} is no results file of bench/gpu/check.py", file=sys.stderr)
        return REFUSED
    lines = verdict(records)
    (results.parent / VERDICT).write_text("\n".join(lines) + "\n")
    (results.parent / REPORT).write_text(report(records))
    print("\n".join(lines))
    return exit_code(records)


if __name__ == "__main__":
    raise SystemExit(main())
