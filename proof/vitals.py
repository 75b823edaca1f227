"""What the kernel and the server itself say of a server, again and again."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ringtable import Table
from ringtable._bench.probe import cpu_ns, private_bytes, segment_bytes

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """The server at one moment."""

    at_s: float
    """Since the beginning of the soak."""

    cpu_s: float
    resident: int
    """Bytes of memory that it has mapped, the table's included."""

    private: int
    segment: int
    """Bytes that the table's segment takes."""

    descriptors: int
    threads: int
    stats: dict[str, int]

    def figure(self, name: str) -> float:
        return float(self.stats.get(name, 0))


def look(pid: int, table: Table, at_s: float) -> Sample:
    process = Path(f"/proc/{pid}")
    return Sample(
        at_s=at_s,
        cpu_s=cpu_ns(pid) / 1e9,
        resident=int(process.joinpath("statm").read_text().split()[1]) * PAGE_SIZE,
        private=private_bytes(pid),
        segment=segment_bytes(pid, "ringtable-table"),
        descriptors=len(os.listdir(process / "fd")),
        threads=len(os.listdir(process / "task")),
        stats=cast("dict[str, int]", table.stats()),
    )
