"""Programs that search for what users fear most: a lost or torn value, a hang after a crash, a leak.

Each is run as `python -m proof.NAME --help`; its exit status is 0 only if nothing was found.

| module    | what it holds                                                                  |
|-----------|--------------------------------------------------------------------------------|
| `kills`   | a program: clients and servers that are killed and stopped at random instants  |
| `victims` | what the clients do there, those that are killed and those that look on        |
| `diary`   | what a process was doing, in memory that outlives it                           |
| `marks`   | values that say which key, writer and server they are of                       |

A module uses only those below it, and what the tests have in `tests/support.py` and `tests/load.py`.
"""

import sys
from pathlib import Path

# What the tests share is used here, too.
TESTS = str(Path(__file__).parent.parent / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)
