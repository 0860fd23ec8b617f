"""The folder of the packages, and the count of what ran: ``--all-real`` fails where it is too little."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from real.packages import FOLDER, import_torchvision, is_installed

LEAST = {"real_class": 12, "real_file": 6}
"""How many tests of each kind have to pass where ``--all-real`` is given."""
_passed = dict.fromkeys(LEAST, 0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-real", action="store_true", help="fail where too few tests with real classes and files passed")


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder of the packages, from which modules can be imported behind all others."""
    if not is_installed():
        pytest.skip("the packages with real classes and files are not here: run make real")
    sys.path.append(str(FOLDER))
    import_torchvision()
    return FOLDER


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for kind in LEAST:
        if report.when == "call" and report.passed and kind in report.keywords:
            _passed[kind] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    wanted = session.config.getoption("--all-real", False) and not session.config.option.collectonly
    if wanted and any(_passed[kind] < least for kind, least in LEAST.items()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    told = ", ".join(f"{_passed[kind]} of at least {least} {kind}" for kind, least in LEAST.items())
    terminalreporter.write_line(f"passed with real classes and files: {told}")
