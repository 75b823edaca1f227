"""Programs that search for what users fear most: a lost or torn value, a hang after a crash, a leak.

Each is run as `python -m proof.NAME --help`; its exit status is 0 only if nothing was found.

| module    | what it holds                                                                     |
|-----------|-----------------------------------------------------------------------------------|
| `soak`    | a program: all loads at once against one server, watched for as long as you like  |
| `loads`   | the loads of a soak, as command lines                                             |
| `clients` | a load: clients of all kinds that check every answer                              |
| `churn`   | a load: clients that come and go, in all ways in which one can go                 |
| `probe`   | a load: one client that measures how long calls take                              |
| `vitals`  | what the kernel and the server say of the server while it is soaked               |
| `verdict` | what is promised, and whether it was held                                         |
| `curves`  | the report of a soak as a page                                                    |
"""

import sys
from pathlib import Path

# They share processes and deadlines with the tests.
TESTS = str(Path(__file__).parent.parent / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)
