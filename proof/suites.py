"""Tests that others have written for their own work, run against tables: `python -m proof.suites --help`.

- diskcache's tests of what ringtable has, too: the cache, locks, throttles, memoized functions. They are fetched from
  the package index, in a fixed version, and run as they stand; `as_diskcache.py` is what they import. Those of a queue,
  of an ordered index, and of a Django backend have no counterpart here.
- the examples of diskcache's documentation for throttles and barriers, which it has no other tests of.
- `BasicTestMappingProtocol` of CPython's own tests, where this Python was installed with them.

Prints how many passed, and each that failed, or was skipped and why.
"""

import ast
import doctest
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import pytest
import ringtable
from support import pythons_mapping_tests

from proof import as_diskcache

DISKCACHE = "5.6.3"
FILES = ("tests/test_core.py", "tests/test_fanout.py", "tests/test_recipes.py")
RECIPES = "diskcache/recipes.py"
DOCUMENTED = ("throttle", "barrier")

# What cannot be seen by what a test calls.
SKIPPED = {
    "an order of entries": ("test_core.py::test_iter",),
    "files that one could copy, damage or count": (
        "test_copy",
        "test_rsync",
        "test_integrity_check",
        "test_cleanup_dirs",
        "test_init_makedirs",
    ),
    "the inside of diskcache": ("test_constant", "test_disk_write_os_error", "test_disk_valueerror"),
}
REASONS = {name: reason for reason, names in SKIPPED.items() for name in names}

app = cyclopts.App(name="proof.suites", help=__doc__, version_flags=[])


class Results:
    """Of tests, by name: "" if it passed, or why it failed or was skipped."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if reason := REASONS.get(item.name) or REASONS.get(f"{item.path.name}::{item.name}"):
                item.add_marker(pytest.mark.skip(f"ringtable does not have {reason}"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            assert isinstance(report.longrepr, tuple)
            self.skipped[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            self.failed[f"{report.nodeid} ({report.when})"] = str(report.longrepr)
        elif report.when == "call":
            self.passed.append(report.nodeid)

    def show(self, suite: str) -> None:
        print(f"{suite}: {len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped")
        for name, words in self.failed.items():
            print(f"\nfailed: {name}\n{words}\n")
        for reason, count in sorted(Counter(self.skipped.values()).items(), key=lambda item: -item[1]):
            names = ", ".join(name.rpartition("::")[2] for name, why in self.skipped.items() if why == reason)
            print(f"  {count:2} skipped, {reason}: {names}")


def fetch(folder: Path) -> Path:
    """What the package index has as diskcache's source."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(folder), f"diskcache=={DISKCACHE}"]
    subprocess.run(command, check=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder / f"diskcache-{DISKCACHE}"


def examples(source: Path) -> Iterator[doctest.DocTest]:
    """The examples of the documented recipes."""
    names = {**vars(as_diskcache), "diskcache": as_diskcache}
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name in DOCUMENTED:
            text = ast.get_docstring(node) or ""
            yield doctest.DocTestParser().get_doctest(text, {**names}, node.name, str(source), node.lineno)


def run_examples(source: Path, results: Results) -> None:
    for example in examples(source):
        words: list[str] = []
        done = doctest.DocTestRunner(verbose=False).run(example, out=words.append)
        assert done.attempted, example.name
        if done.failed:
            results.failed[example.name] = "".join(words)
        else:
            results.passed.append(example.name)


def run_diskcache(checkout: Path, settings: Path) -> Results:
    results = Results()
    settings.write_text("[pytest]\n")
    sys.modules["diskcache"] = as_diskcache
    options = ["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-c", str(settings)]
    files = [str(checkout / file) for file in FILES]
    status = pytest.main([*options, "--rootdir", str(checkout), *files], plugins=[results])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ends with {status!r}")
    run_examples(checkout / RECIPES, results)
    return results


def run_mapping_tests(folder: Path) -> Results:
    results, done = Results(), unittest.TestResult()
    with ringtable.open(folder / "mapping.sock", codec="pickle", linger=0.5) as table:
        try:
            pythons_mapping_tests(table).run(done)
        except ImportError:
            results.skipped["BasicTestMappingProtocol"] = "this Python was installed without its own tests"
    results.failed = {test.id(): words for test, words in [*done.failures, *done.errors]}
    results.skipped |= {test.id(): words for test, words in done.skipped}
    results.passed = [""] * (done.testsRun - len(done.failures) - len(done.errors) - len(done.skipped))
    return results


def version_of(checkout: Path) -> str:
    found = re.search(r"__version__ = '(.*)'", (checkout / "diskcache" / "__init__.py").read_text())
    return found[1] if found else "of unknown version"


@app.default
def main(*, checkout: Path | None = None) -> int:
    """Run them.

    Args:
        checkout: A folder with diskcache's source and tests; without one they are fetched.
    """
    with tempfile.TemporaryDirectory(prefix="ringtable-") as name:
        folder = Path(name)
        # Where the tests make folders of their own, some of which they leave.
        tempfile.tempdir = name
        checkout = checkout.resolve() if checkout else fetch(folder)
        theirs = run_diskcache(checkout, folder / "pytest.ini")
        pythons = run_mapping_tests(folder)
        version = version_of(checkout)
    theirs.show(f"diskcache {version}, {', '.join(FILES)}, examples of {', '.join(DOCUMENTED)}")
    pythons.show(f"BasicTestMappingProtocol of CPython {sys.version.split()[0]}")
    return 1 if theirs.failed or pythons.failed else 0


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
