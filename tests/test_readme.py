"""The Python examples in README.md run as they stand, and again after that."""

import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from support import DEADLINE_S, ServerProcess

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = (
    re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL) if README.exists() else []
)


def test_smoke() -> None:
    assert EXAMPLES


# An example that starts no server of its own expects one named "default", as a reader has started it by then.
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples(example: str, ringtable_dir: Path) -> None:
    # A file, since what an example spawns has to find the example's functions.
    script = ringtable_dir / "example.py"
    script.write_text(example)
    with nullcontext() if "Server(" in example else ServerProcess():
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, script], capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")
