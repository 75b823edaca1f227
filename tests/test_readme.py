"""The Python examples in README.md and in the guide run as they stand, and again after that.

A page at a time, as who reads it runs them, with the servers that the examples before have left. Those of
docs/guide/deployment.md are parts of larger programs: test_deployment.py runs them.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import ringtable
from support import DEADLINE_S

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide"


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def reading_order() -> list[Path]:
    """README.md, and the pages of the guide as its index has them."""
    names: list[str] = re.findall(
        r"^(?:\d+\.|-) \[[^]]+\]\((\w[\w-]*\.md)\)", (GUIDE / "README.md").read_text(), re.MULTILINE
    )
    return [ROOT / "README.md", *(GUIDE / name for name in names)]


PAGES = [page for page in reading_order() if page.stem != "deployment" and examples(page)]


def test_smoke() -> None:
    assert sum(len(examples(page)) for page in PAGES) > 20
    assert set(reading_order()[1:]) == set(GUIDE.glob("*.md")) - {GUIDE / "README.md"}


def test_every_error_is_explained() -> None:
    page = (GUIDE / "errors.md").read_text()
    public = [getattr(ringtable, name) for name in ringtable.__all__]
    errors = [one.__name__ for one in public if isinstance(one, type) and issubclass(one, ringtable.Error)]
    assert sorted(re.findall(r"^- \*\*`(\w+)`\*\*: ", page, re.MULTILINE)) == sorted(errors)


@contextmanager
def servers_ended(folder: Path) -> Iterator[None]:
    """End the servers that examples have started in the background."""
    try:
        yield
    finally:
        for socket in folder.glob("*.sock"):
            # It may be about to end by itself, if nobody has used it for a minute.
            with suppress(ringtable.TableNotFound, ringtable.ServerGone, ProcessLookupError):
                with ringtable.connect(socket) as table:
                    pid = table.stats()["process_id"]
                os.kill(pid, signal.SIGTERM)


def run(example: str, folder: Path) -> None:
    # A file, since what an example spawns has to find the example's functions.
    script = folder / "example.py"
    script.write_text(example)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stderr) == (0, ""), example


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples(page: Path, ringtable_dir: Path) -> None:
    with servers_ended(ringtable_dir):
        for example in 2 * examples(page):
            run(example, ringtable_dir)


@pytest.mark.slow
def test_examples_of_all_pages_one_after_the_other(ringtable_dir: Path) -> None:
    with servers_ended(ringtable_dir):
        for page in PAGES:
            for example in examples(page):
                run(example, ringtable_dir)
