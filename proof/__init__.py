"""Programs that search for what must not be: lost or torn values, answers that no order explains, calls that hang.

| module            | what it holds                                                                   |
|-------------------|---------------------------------------------------------------------------------|
| `histories`       | a program: records what processes do to the same keys, and checks it            |
| `player`          | one of these processes: random operations, each written down                    |
| `operations`      | operations on one key, as they were recorded; what is wrong with them           |
| `linearizability` | whether one order of the operations explains all answers                        |
| `journal`         | what a process has called and was answered, in memory that outlives its SIGKILL |
| `values`          | values that tell who wrote them, and whether they are whole                     |

`python -m proof.NAME --help` explains a program. Its exit status is 0 only if it has found nothing.
"""

import sys
from pathlib import Path

# What the tests have for processes and deadlines serves here, too.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
