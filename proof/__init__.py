"""Programs that search for what users fear most: a lost or torn value, answers that no order explains, a hang, a leak.

Each is run as `python -m proof.NAME --help`; its exit status is 0 only if it has found nothing.

| module            | what it holds                                                                    |
|-------------------|----------------------------------------------------------------------------------|
| `histories`       | a program: records what processes do to the same keys, and checks it             |
| `player`          | a process of a history: random operations, written down                          |
| `operations`      | operations on one key, as they were recorded; what is wrong with them            |
| `linearizability` | whether one order of the operations explains all answers                         |
| `journal`         | what a process has called and was answered, in memory that outlives its SIGKILL  |
| `values`          | values that tell who wrote them, and whether they are whole                      |
| `kills`           | a program: clients and servers killed, stopped, interrupted at random instants   |
| `victims`         | what the clients do there, those that are killed and those that look on          |
| `interrupted`     | what those do there that are interrupted                                         |
| `locks`           | a program: locks, semaphores and limiters of processes that are killed           |
| `restarts`        | a program: servers with a keeper, killed under clients that go on                |
| `disks`           | a program: servers that log their changes, and machines, killed                  |
| `steps`           | a program: servers with a keeper, killed behind each instruction that counts     |
| `stage`           | such a server, and the clients that act there and look on                        |
| `changes`         | the kinds of changes that they make there                                        |
| `tracing`         | a thread of another process, executed instruction by instruction                 |
| `segments`        | the shared memory of a server, and whether it has changed                        |
| `diary`           | what a process was doing, in memory that outlives it                             |
| `marks`           | values that say which key, writer and server they are of                         |
| `calls`           | a program: calls whose trouble is of the caller's own making                     |
| `callers`         | clients that are short of turns, of memory, of threads                           |
| `objects`         | odd objects as keys, values and numbers of all calls                             |
| `computing`       | values that are computed in the middle of computing others                       |
| `refusals`        | writes for which a full table has no room                                        |
| `hostile`         | a program: a hostile client beside honest ones                                   |
| `attacks`         | what a hostile client does, by strategies                                        |
| `collisions`      | keys that all have one hash, computed as a client may                            |
| `foreign`         | what other protocols say, and the orders in it                                   |
| `honest`          | clients that check every answer, and measure how long it took                    |
| `surroundings`    | a program: attacks on what surrounds servers and clients                         |
| `hosts`           | servers there, in processes that fork, change folders, have no standard streams  |
| `cleaner`         | somebody who removes and replaces the files of servers                           |
| `wanderers`       | processes that change their folder and their environment between calls           |
| `impostors`       | other users who listen where a client looks for its server                       |
| `forks`           | processes with threads that fork at random instants                              |
| `streams`         | programs that have no standard input, output or error                            |
| `shortages`       | servers and clients that have few descriptors                                    |
| `soak`            | a program: all loads at once against one server, watched for as long as you like |
| `loads`           | the loads of a soak, as command lines                                            |
| `clients`         | a load: clients of all kinds that check every answer                             |
| `churn`           | a load: clients that come and go, in all ways in which one can go                |
| `probe`           | a load: one client that measures how long calls take                             |
| `vitals`          | what the kernel and the server say of the server while it is soaked              |
| `verdict`         | what is promised, and whether it was held                                        |
| `curves`          | the report of a soak as a page                                                   |
| `program`         | what programs have in common: seeds, figures, exit status                        |

`python -m proof` runs all of them, and the models, fuzzers and failpoints, each bounded: `make prove`.

A module uses only other modules of this table, and what the tests have in `tests/support.py` and `tests/load.py`.
"""

import sys
from pathlib import Path

# What the tests have for processes and deadlines serves here, too.
TESTS = str(Path(__file__).resolve().parent.parent / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)
