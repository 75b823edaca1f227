"""The Python examples in README.md and in the guide run as they stand, and again after that.

Those of docs/guide/deployment.md are parts of larger programs: test_deployment.py runs them.
"""

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
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
EXAMPLES = [
    pytest.param(example, id=f"{page.stem} {number}")
    for page in PAGES
    if page.stem != "deployment"
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL), 1
    )
]


def test_smoke() -> None:
    assert EXAMPLES


def test_every_error_is_explained() -> None:
    page = (ROOT / "docs" / "guide" / "errors.md").read_text()
    public = [getattr(ringtable, name) for name in ringtable.__all__]
    errors = [one.__name__ for one in public if isinstance(one, type) and issubclass(one, ringtable.Error)]
    assert sorted(re.findall(r"^- \*\*`(\w+)`\*\*: ", page, re.MULTILINE)) == sorted(errors)


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
