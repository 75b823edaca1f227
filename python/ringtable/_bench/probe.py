"""What the kernel says of another process or a file: CPU time, resident memory."""

import time
from contextlib import suppress
from pathlib import Path

CPU_CLOCK_SCHED = 2
"""The kernel's name for "user and system time of all threads" in a process's clock id."""

BLOCK_SIZE = 512
"""Unit of `st_blocks`, bytes."""


def cpu_ns(pid: int) -> int:
    """User and system time of all threads of process `pid` since its start, ns.

    The clock id is what `clock_getcpuclockid(3)` computes; `/proc/<pid>/stat` counts in steps of 10 ms.
    """
    return time.clock_gettime_ns((~pid << 3) | CPU_CLOCK_SCHED)


def private_bytes(pid: int) -> int:
    """Resident memory of process `pid` that is no file's and no shared segment's, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no RssAnon line")


def file_bytes(path: Path) -> int:
    """Memory (or disk) that a sparse file really takes, bytes."""
    return path.stat().st_blocks * BLOCK_SIZE


def segment_bytes(pid: int, name: str) -> int:
    """Memory that the memfd called `name`, open in process `pid`, really takes, bytes."""
    inodes: dict[int, int] = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        # It may be closed by now.
        with suppress(FileNotFoundError):
            if str(descriptor.readlink()).startswith(f"/memfd:{name}"):
                inodes[descriptor.stat().st_ino] = file_bytes(descriptor)
    return sum(inodes.values())
