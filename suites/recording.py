"""Notes what became of each test, in the process that runs them: a plugin for pytest, and a runner for Django.

`$SUITES_UNFIT` has the ends of the names of tests that cannot apply, with the reasons; they count as skipped. What was
noted goes to the file `$SUITES_REPORT`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

_unfit: dict[str, str] = json.loads(os.environ["SUITES_UNFIT"])

passed: list[str] = []
failed: dict[str, str] = {}
skipped: dict[str, str] = {}


def reason_to_skip(name: str) -> str | None:
    """Why the test of this name cannot apply; `None` if it can."""
    return next((reason for end, reason in _unfit.items() if name.endswith(end)), None)


def write() -> None:
    """Write down what was noted."""
    report = {"passed": passed, "failed": failed, "skipped": skipped}
    Path(os.environ["SUITES_REPORT"]).write_text(json.dumps(report))


# As a plugin: `python -m pytest -p suites.recording`.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot apply, whatever its parameters are."""
    import pytest

    for item in items:
        if reason := reason_to_skip(item.nodeid.partition("[")[0]):
            item.add_marker(pytest.mark.skip(reason))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note one test."""
    if report.skipped:
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[report.nodeid] = words.removeprefix("Skipped: ")
    elif report.failed:
        failed[f"{report.nodeid} ({report.when})"] = str(report.longrepr)
    elif report.when == "call":
        passed.append(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write down what was noted."""
    write()


def note_unittest(result: Any, names: list[str]) -> None:
    """Note what became of the tests of these names, and write it down."""
    failed.update({test.id(): words for test, words in [*result.failures, *result.errors]})
    failed.update({test.id(): "it passed, and was not to" for test in result.unexpectedSuccesses})
    skipped.update({test.id(): words for test, words in result.skipped})
    bad = {name.partition(" ")[0] for name in failed}
    passed.extend(name for name in names if name not in bad and name not in skipped)
    write()
