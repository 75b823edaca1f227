"""The shared memory of a server with a keeper, and whether it has changed.

The keeper has a descriptor of each segment, whichever server is at work, and this process maps the same, read-only.
What has not been written to yet has no memory, and is not looked at: to read it would take some.

Of a lane, what its client writes is left out: what is looked for are changes that a server has made.
"""

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support import Closing, memfds

PAGE = mmap.PAGESIZE

# Of a lane: what its server writes in its first page, and where it says how far the replies have come.
_LANE_OF_SERVER = ((0, 128), (256, 512), (768, 1024))
_LANE_REPLIES_END_AT = 384
_LANE_REQUESTS_END_AT = 128
_LANE_DATA_AT = 4096

Place = tuple[int, int]
"""A page: the number of its segment, and where it begins there."""

Word = tuple[int, int]
"""A word of 64 bits, in the same way."""


@dataclass(frozen=True)
class Segment:
    """One of them, mapped."""

    name: str
    descriptor: int
    memory: mmap.mmap

    def is_lane(self) -> bool:
        return self.name == "ringtable-lane"

    def word(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self.memory, at)[0])

    def pages(self) -> Iterator[int]:
        """Where those of its pages begin that have memory."""
        at, size = 0, len(self.memory)
        while at < size:
            try:
                at = os.lseek(self.descriptor, at, os.SEEK_DATA)
            except OSError:
                # There is nothing more.
                return
            hole = os.lseek(self.descriptor, at, os.SEEK_HOLE)
            yield from range(at, hole, PAGE)
            at = hole


class Segments(Closing):
    """Those of one server, and of its successors."""

    def __init__(self, keeper: int) -> None:
        self._keeper = keeper
        # By their inodes.
        self._segments: dict[int, Segment] = {}
        self.look()

    def look(self) -> None:
        """Take note of lanes that came and went."""
        found: set[int] = set()
        for path in memfds(self._keeper, "ringtable"):
            # The keeper may let go of it in this moment.
            with suppress(FileNotFoundError):
                found.add(self._found(path))
        for inode in self._segments.keys() - found:
            self._close(self._segments.pop(inode))

    def _found(self, path: str) -> int:
        """Map the segment that is found there, unless it is known. Returns its number."""
        inode = os.stat(path).st_ino
        if inode not in self._segments:
            name = os.readlink(path).split("memfd:")[1].split()[0]
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size, prot=mmap.PROT_READ)
            self._segments[inode] = Segment(name, descriptor, memory)
        return inode

    def places(self, *, with_lanes: bool = False) -> set[Place]:
        """All pages that have memory, without those of lanes unless they are asked for."""
        return {
            (inode, at)
            for inode, segment in self._segments.items()
            if with_lanes or not segment.is_lane()
            for at in segment.pages()
        }

    def contents(self, *, with_lanes: bool = False) -> dict[Place, bytes]:
        """What they hold."""
        places = self.places(with_lanes=with_lanes)
        return {(inode, at): self._segments[inode].memory[at : at + PAGE] for inode, at in places}

    def watched(self, places: Iterable[Place], *, all_lanes: bool) -> "Watched":
        """These pages, and those of lanes in which a server may write in answer to the next requests."""
        ranges = [(self._segments[inode].memory, at, at + PAGE) for inode, at in places]
        for segment in self._segments.values():
            if segment.is_lane() and (all_lanes or segment.word(_LANE_REQUESTS_END_AT) > 0):
                ranges += [(segment.memory, begin, end) for begin, end in _LANE_OF_SERVER]
                ring_size = (len(segment.memory) - _LANE_DATA_AT) // 2
                page = segment.word(_LANE_REPLIES_END_AT) % ring_size // PAGE * PAGE
                for following in (page, (page + PAGE) % ring_size):
                    begin = _LANE_DATA_AT + ring_size + following
                    ranges.append((segment.memory, begin, begin + PAGE))
        return Watched(ranges)

    def close(self) -> None:
        for segment in self._segments.values():
            self._close(segment)
        self._segments.clear()

    @staticmethod
    def _close(segment: Segment) -> None:
        segment.memory.close()
        os.close(segment.descriptor)


class Watched:
    """Ranges of memory, and what they held when they were last looked at."""

    def __init__(self, ranges: list[tuple[mmap.mmap, int, int]]) -> None:
        self._ranges = [(number, *given) for number, given in enumerate(ranges)]
        self._known = [memory[begin:end] for memory, begin, end in ranges]

    def has_changed(self) -> bool:
        """Whether any of them is another one than at the last look."""
        known, changed = self._known, False
        for number, memory, begin, end in self._ranges:
            if memory[begin:end] != known[number]:
                known[number] = memory[begin:end]
                changed = True
        return changed


def changed_words(before: dict[Place, bytes], after: dict[Place, bytes]) -> list[Word]:
    """The words that are others, in their order."""
    found: list[Word] = []
    for (segment, begin), content in sorted(after.items()):
        known = before.get((segment, begin), bytes(PAGE))
        if content != known:
            found += [(segment, begin + at) for at in range(0, PAGE, 8) if content[at : at + 8] != known[at : at + 8]]
    return found


def mapped_at(process: int, segment: int) -> int | None:
    """Where a process has mapped a segment, if it has."""
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        where, _, _, _, inode, *_ = line.split(maxsplit=5)
        if int(inode) == segment:
            return int(where.split("-")[0], 16)
    return None
