"""The Python examples in README.md and in the guide run as they stand, and again after that."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ringtable
from support import DEADLINE_S

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))) if page.exists()]
EXAMPLES = [
    pytest.param(example, id=f"{page.stem} {number}")
    for page in PAGES
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL), 1
    )
]


def test_smoke() -> None:
    assert EXAMPLES


# An example that has no server in it starts some in the background, or finds those that the first run has started.
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples(example: str, ringtable_dir: Path) -> None:
    # A file, since what an example spawns has to find the example's functions.
    script = ringtable_dir / "example.py"
    script.write_text(example)
    try:
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, script], capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")
    finally:
        for socket in ringtable_dir.glob("*.sock"):
            with ringtable.connect(socket) as table:
                pid = table.stats()["process_id"]
            os.kill(pid, signal.SIGTERM)
