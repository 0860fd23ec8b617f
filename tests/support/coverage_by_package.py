"""The lines that a run of ``make coverage`` saw, for each package of lccl.

Exit code 1 where one is below the least share.

``python tests/support/coverage_by_package.py`` reads the data that such a run left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("exporter/lccl")
LEAST = 85.0
"""Percent of the lines of each package."""
NEEDS_MORE = {
    "backends/tensorrt/runner.py": "runs engines, for which it needs a GPU",
}
"""Files that do not count in their package's share -> why."""


def measured() -> dict[str, tuple[int, int]]:
    """Package -> lines that were run, and lines in all.

    Modules beside the packages count as one.
    """
    report = ROOT / "build" / "coverage" / "report.json"
    subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(report)], cwd=ROOT, check=True)
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for name, file in json.loads(report.read_text())["files"].items():
        path = (ROOT / name).relative_to(ROOT / PACKAGE)
        folder = f"{path}: {NEEDS_MORE[path.as_posix()]}" if path.as_posix() in NEEDS_MORE else path.parent.as_posix()
        run, lines = found[folder]
        found[folder] = (run + file["summary"]["covered_lines"], lines + file["summary"]["num_statements"])
    return dict(sorted(found.items()))


def main() -> int:
    """Print a line for each package and the whole."""
    found = measured()
    found["all"] = (sum(run for run, _ in found.values()), sum(lines for _, lines in found.values()))
    below = [
        folder
        for folder, (run, lines) in found.items()
        if lines and 100 * run / lines < LEAST and not folder.startswith(tuple(NEEDS_MORE))
    ]
    for folder, (run, lines) in found.items():
        print(
            f"{'below' if folder in below else '':5} {100 * run / lines if lines else 100.0:6.1f} % of {lines:5} lines  {folder}"
        )
    return 1 if below else 0


if __name__ == "__main__":
    raise SystemExit(main())
