"""The Python examples in README.md run as they stand, and again after that."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ringtable
from support import DEADLINE_S

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = (
    re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL) if README.exists() else []
)


def test_smoke() -> None:
    assert EXAMPLES


# An example that has no server in it starts one in the background, or finds that of the example before.
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
        if "Server(" not in example:
            with ringtable.connect() as table:
                pid = table.stats()["process_id"]
            os.kill(pid, signal.SIGTERM)
