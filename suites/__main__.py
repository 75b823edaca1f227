"""Runs the suites: `python -m suites`, or `python -m suites django --quick`."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

NAMES = ("django", "cachelib", "diskcache", "joblib", "limits")

app = cyclopts.App(name="suites", help=sys.modules["suites"].__doc__, version_flags=[])


@app.default
def main(*names: str, quick: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Run suites, and print what became of their tests.

    Args:
        names: Which; all, unless any is named.
        quick: Only a part of each, which takes a minute in all once things are fetched.
    """
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"there is no suite {min(unknown)!r}; there are {', '.join(NAMES)}")
    table = Table("suite", "version", *("passed", "failed", "skipped", "seconds"))
    failed = False
    for name in names or NAMES:
        suite = import_module(f"suites.{name}").SUITE
        begun = time.monotonic()
        results = suite.run(quick)
        results.show(suite.title)
        failed |= bool(results.failed) or not results.passed
        counts = (len(results.passed), len(results.failed), len(results.skipped), round(time.monotonic() - begun))
        table.add_row(name, suite.version, *map(str, counts))
    Console().print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
