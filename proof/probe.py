"""One client that measures how long its calls take: `python -m proof.probe --help`.

It makes a few hundred of each kind a second, so that it does not measure itself, and checks what they answer.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cyclopts
from ringtable import Table
from ringtable._cli.signals import interrupt_on_termination
from ringtable._ringtable import Histogram

from proof import program

PAUSE_S = 0.002
PERCENTILES = (50.0, 99.0, 99.9)

app = cyclopts.App(name="proof.probe", help=__doc__, version_flags=[])


@app.default
def probe(
    address: program.Address,
    *,
    seconds: float = 10.0,
    every: float = 1.0,
    lines: Path | None = None,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Measure the time of calls.

    Args:
        address: The socket of a running server.
        seconds: For how long.
        every: Seconds of each line of figures.
        lines: A file for these lines, each a JSON object: `at` by the monotonic clock, and for each kind of call its
            percentiles 50, 99 and 99.9 in ns, and the longest.
        seed: Not used: there is no choice in it.
        json_: A file for all figures together.
    """
    interrupt_on_termination()
    program.begin(seed)
    found: list[str] = []
    totals: dict[str, Histogram] = {}
    with suppress(KeyboardInterrupt), Table(address) as table, open(lines or os.devnull, "a") as file:
        key = f"probe {os.getpid()}"
        finish, count = time.monotonic() + seconds, 0
        table[key], table[f"{key} count"] = bytes(100), b"0"
        while not found and time.monotonic() < finish:
            histograms = {name: Histogram() for name in ("get", "set", "incr")}
            row_ends = min(time.monotonic() + every, finish)
            while not found and time.monotonic() < row_ends:
                count += 1
                calls: dict[str, tuple[Callable[[], object], object]] = {
                    "get": (lambda: table.get(key), bytes(100)),
                    "set": (lambda: table.set(key, bytes(100)), True),
                    "incr": (lambda: table.incr(f"{key} count"), count),
                }
                for name, (call, expected) in calls.items():
                    begun = time.perf_counter_ns()
                    answer = call()
                    histograms[name].record(time.perf_counter_ns() - begun)
                    if answer != expected:
                        found.append(f"forbidden: {name} answered {answer!r:.100}, not {expected!r:.100}")
                time.sleep(PAUSE_S)
            row: dict[str, object] = {"at": time.monotonic()}
            for name, histogram in histograms.items():
                row[name] = [histogram.percentile(percent) for percent in (*PERCENTILES, 100.0)]
                totals.setdefault(name, Histogram()).add(histogram)
            file.write(json.dumps(row) + "\n")
            file.flush()
    figures = {
        f"{name}, ns": {f"p{percent:g}": total.percentile(percent) for percent in PERCENTILES}
        for name, total in totals.items()
    }
    return program.end(figures, found, json_)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
