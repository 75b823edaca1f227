"""A disk, as a server's recorded steps have left it, and what a machine that dies may find of it.

A build with failpoints writes down each step that changes files and folders (`crates/ringtable/src/disk/recorder.rs`).
`Disk` takes them one after the other. At any of them it can be asked for an image: what a disk may hold when the
machine dies there. What is promised to a program is in it, and not more (`fsync(2)`; Pillai et al., All File Systems
Are Not Created Equal, OSDI 2014):

- Of a file, what was synced is there. What was written since is there, or only its beginning, or has pages of zeroes
  or rubbish; so may have for ever what could not be synced, since a later sync says nothing of it.
- Of a folder, the names that were synced are there. Of what came since there is some, in its order.

Not simulated: a folder's changes in another order than theirs, which file systems with a journal do not have.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

PAGE = 4_096
KINDS = ("folder", "create", "write", "sync", "truncate", "rename", "remove", "unsynced")
_HEAD = struct.Struct("<BQHHI")


@dataclass(frozen=True)
class Step:
    """One step, and where in the recording it ends, in bytes."""

    kind: str
    inode: int
    path: str
    second: str
    data: bytes
    end: int


def steps(recording: bytes) -> Iterator[Step]:
    """All steps that were written down whole."""
    at = 0
    while at + _HEAD.size <= len(recording):
        kind, inode, first, second, size = _HEAD.unpack_from(recording, at)
        ends = [at := at + _HEAD.size, at + first, at + first + second, at + first + second + size]
        if ends[-1] > len(recording):
            return
        path, other, data = (recording[begin:end] for begin, end in pairwise(ends))
        at = ends[-1]
        yield Step(KINDS[kind], inode, path.decode(), other.decode(), data, at)


@dataclass
class File:
    """What a program sees of a file, and how much of it is on the disk for certain."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0
    doubtful: list[tuple[int, int]] = field(default_factory=list)
    """From where to where bytes lie that could not be synced."""

    longer: bytes | None = None
    """What was there before it was cut off, until that is synced."""

    def write(self, data: bytes) -> None:
        self.data += data

    def truncate(self, size: int) -> None:
        self.longer = bytes(self.data)
        del self.data[size:]
        self.synced = min(self.synced, size)

    def sync(self) -> None:
        self.synced, self.longer = len(self.data), None

    def fail_to_sync(self) -> None:
        self.doubtful.append((self.synced, len(self.data)))
        self.synced = len(self.data)

    def after_death(self, choose: random.Random) -> bytes:
        if self.longer is not None and choose.randrange(2):
            return self.longer
        found = bytearray(self.data)
        for begin, end in [*self.doubtful, (self.synced, len(found))]:
            _tear(found, begin, min(end, len(found)), choose)
        # The end of what nobody waited for may not have come to be.
        last = self.doubtful[-1][0] if self.doubtful and self.doubtful[-1][1] == self.synced else self.synced
        least = min(last, len(found))
        del found[choose.choice([least, choose.randint(least, len(found)), len(found)]) :]
        return bytes(found)


def _tear(data: bytearray, begin: int, end: int, choose: random.Random) -> None:
    """Let no page from here to there, or one of them, or some, not have come to the disk."""
    pages = range(begin // PAGE * PAGE, end, PAGE)
    how = choose.randrange(3)
    if not pages or how == 0:
        return
    for page in [choose.choice(pages)] if how == 1 else choose.choices(pages, k=max(1, len(pages) // 3)):
        first, last = max(begin, page), min(page + PAGE, end)
        data[first:last] = choose.choice([bytes(last - first), choose.randbytes(last - first)])


@dataclass
class Folder:
    """The names in a folder: those on the disk for certain, and what was done to them since."""

    names: dict[str, File | str] = field(default_factory=dict)
    """For each name its file, or the path of its folder."""

    changes: list[tuple[str, File | str | None, str | None]] = field(default_factory=list)
    """A name, what has it from then on, and the name that this had before."""

    def at(self, count: int) -> dict[str, File | str]:
        """Its names behind so many changes."""
        found = dict(self.names)
        for name, what, before in self.changes[:count]:
            if before is not None:
                found.pop(before, None)
            if what is None:
                found.pop(name, None)
            else:
                found[name] = what
        return found

    def sync(self) -> None:
        self.names, self.changes = self.at(len(self.changes)), []


class Disk:
    """Files and folders below one that is there from the beginning, empty."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._folders = {self._root: Folder()}
        self._files: dict[int, File] = {}
        self._inodes: dict[int, str] = {root.stat().st_ino: self._root}

    def take(self, step: Step) -> None:
        """Do a step. What lies elsewhere is nothing to this disk."""
        above, _, name = step.path.rpartition("/")
        folder = self._folders.get(above)
        match step.kind:
            case "folder" if folder is not None:
                self._folders[step.path], self._inodes[step.inode] = Folder(), step.path
                folder.changes.append((name, step.path, None))
            case "create" if folder is not None:
                self._files[step.inode] = File()
                self._inodes.pop(step.inode, None)
                folder.changes.append((name, self._files[step.inode], None))
            case "rename" if folder is not None:
                to = step.second.rpartition("/")[2]
                folder.changes.append((to, folder.at(len(folder.changes))[name], name))
            case "remove" if folder is not None:
                folder.changes.append((name, None, None))
            case "sync" if step.inode in self._inodes:
                self._folders[self._inodes[step.inode]].sync()
            case "write" if step.inode in self._files:
                self._files[step.inode].write(step.data)
            case "truncate" if step.inode in self._files:
                self._files[step.inode].truncate(int.from_bytes(step.data, "little"))
            case "sync" if step.inode in self._files:
                self._files[step.inode].sync()
            case "unsynced" if step.inode in self._files:
                self._files[step.inode].fail_to_sync()
            case _:
                pass

    def image(self, to: Path, choose: random.Random) -> None:
        """Make a folder with what a machine may find here that dies now."""
        self._image(self._root, to, choose)

    def _image(self, path: str, to: Path, choose: random.Random) -> None:
        folder = self._folders[path]
        count = len(folder.changes)
        to.mkdir(mode=0o700)
        for name, what in folder.at(choose.choice([0, choose.randint(0, count), count])).items():
            if isinstance(what, str):
                self._image(what, to / name, choose)
            else:
                (to / name).write_bytes(what.after_death(choose))
