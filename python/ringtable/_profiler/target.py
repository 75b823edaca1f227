"""A process that profiles itself: `ringtable profile` starts one as the server and some as clients.

Its first argument, in JSON, says what to run. On standard output it says, a line of JSON each, that it is ready, and
what its profile was. On standard input it is told `start HZ` and `stop`; the end of the input ends it. So it ends with
whoever started it, however that ends.
"""

import _thread
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ringtable._cli.descriptors import raise_limit
from ringtable._errors import Error
from ringtable._profiler.stacks import Stack, folded, readable
from ringtable._ringtable import Profiler, classic_client
from ringtable._server import Server


def main() -> None:
    """Run what the first argument names until the end of the input. An `Error` is a line and exit status 1."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    try:
        if job.pop("role") == "server":
            _serve(job)
        else:
            _call(job)
    except Error as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _serve(options: dict[str, Any]) -> None:
    raise_limit()
    with Server(**options):
        _obey()


def _call(options: dict[str, Any]) -> None:
    # Set, too: started in the background of a shell without job control, Python would leave SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = False

    def obey_then_end() -> None:
        nonlocal ended
        _obey()
        ended = True
        _thread.interrupt_main()

    threading.Thread(target=obey_then_end, daemon=True).start()
    # In the main thread, as `ringtable client` does, which ends by an interrupt.
    with suppress(KeyboardInterrupt):
        classic_client(outer=0, seed=os.getpid(), **options)
    if not ended:
        raise Error("interrupted by somebody else")


def _obey() -> None:
    """Do as standard input says, to its end."""
    _say({"ready": True})
    profiler: Profiler | None = None
    seconds = cpu_s = 0.0
    for line in _lines():
        if line == "stop" and profiler:
            seconds, cpu_s = time.monotonic() - seconds, time.process_time() - cpu_s
            stacks, lost = profiler.stop()
            profile: Counter[Stack] = Counter()
            for frames, count in stacks:
                profile[readable(frames)] += count
            _say({"seconds": seconds, "cpu_s": cpu_s, "lost": lost, "folded": folded(profile)})
        elif line.startswith("start "):
            seconds, cpu_s = time.monotonic(), time.process_time()
            profiler = Profiler(int(line.removeprefix("start ")))


def _lines() -> Iterator[str]:
    # Not through `sys.stdin`, whose lock a thread that still reads would hold while the interpreter ends.
    rest = b""
    while chunk := os.read(0, 4_096):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode() for line in lines)


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
