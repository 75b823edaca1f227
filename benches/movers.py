"""Who moves large values, and how: the rivals, plain copies, and shared memory done by hand.

A session has more statements than others, empty for whom they do not exist: `get_into` copies a value into `target`, a
buffer of the caller's; `view` opens a value where it is, and closes it; `memory` has a `memoryview` of it meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from ringtable._bench import peers
from ringtable._bench.processes import CONTEXT
from ringtable._bench.session import Session

from benches import rivals

OPERATIONS = ("get", "get_into", "view", "memory", "set")


@dataclass(frozen=True)
class PayloadSession(Session):
    view: str = ""
    """Opens the value of `key` in place, and lets it go again."""

    memory: str = ""
    """The same with a `memoryview` of it, which most views are from the start."""

    get_into: str = ""
    """Copies the value of `key` into `target`."""

    def has(self, operation: str) -> bool:
        return bool(getattr(self, operation))


def with_more(session: Session, **statements: Any) -> PayloadSession:
    """The same session with these statements or names added or replaced."""
    known = {field.name: getattr(session, field.name) for field in fields(session)}
    known["names"] = {**known["names"], **statements.pop("names", {})}
    return PayloadSession(**{**known, **statements})


class Memcpy(peers.Memcpy):
    """Plain copies out of and into mapped memory, what nothing can beat; and a slice, which copies nothing."""

    @staticmethod
    def connect(address: tuple[str, list[bytes], int]) -> PayloadSession:
        return with_more(
            peers.Memcpy.connect(address),
            memory="with view[places[key]]: pass",
            get_into="target[:] = view[places[key]]",
        )


class Ringtable(rivals.Ringtable):
    def __init__(self, folder: Path, keys: Sequence[bytes], size: int) -> None:
        super().__init__(folder)

    @staticmethod
    def connect(address: Any) -> PayloadSession:
        session = rivals.Ringtable.connect(address)
        return with_more(
            session,
            view="with table.view(key): pass",
            memory="with table.view(key) as seen, memoryview(seen): pass",
            get_into="table.get_into(key, target)",
        )


class Lmdb(rivals.Lmdb):
    """LMDB. Its memory is that of a read transaction with `buffers=True`."""

    def __init__(self, folder: Path, keys: Sequence[bytes], size: int) -> None:
        super().__init__(folder)

    @staticmethod
    def connect(address: str) -> PayloadSession:
        return with_more(
            rivals.Lmdb.connect(address),
            memory="begin(buffers=True).get(key)",
            get_into="target[:] = begin(buffers=True).get(key)",
        )


class Valkey(rivals.Valkey):
    """Valkey, a fork of Redis, in whose place it stands."""

    def __init__(self, folder: Path, keys: Sequence[bytes], size: int) -> None:
        super().__init__(folder)

    @staticmethod
    def connect(address: str) -> PayloadSession:
        return with_more(rivals.Valkey.connect(address))


class SharedMemory(Memcpy):
    """`multiprocessing.shared_memory`: every value has its fixed place and size, known to all; nobody writes."""

    name = "shared_memory"

    def __init__(self, folder: Path, keys: list[bytes], size: int) -> None:
        self._segment = shared_memory.SharedMemory(create=True, size=len(keys) * size)
        self.address = (self._segment.name, keys, size)

    def stop(self) -> None:
        self._segment.close()
        self._segment.unlink()

    @staticmethod
    def connect(address: tuple[str, list[bytes], int]) -> PayloadSession:
        name, keys, size = address
        segment = shared_memory.SharedMemory(name)
        view = segment.buf
        starts = range(0, len(keys) * size, size)
        places = {key: slice(start, start + size) for key, start in zip(keys, starts, strict=True)}
        return PayloadSession(
            names={"view": view, "places": places},
            get="value = bytes(view[places[key]])",
            set="view[places[key]] = value",
            get_many="values = [bytes(view[places[key]]) for key in keys]",
            set_many="for key, value in items.items(): view[places[key]] = value",
            memory="with view[places[key]]: pass",
            get_into="target[:] = view[places[key]]",
            close=segment.close,
        )

    @staticmethod
    def version() -> str:
        return rivals.Dict.version()


class LockedSharedMemory(SharedMemory):
    """The same where somebody writes: one lock for all, here never contended; no view outlives it."""

    name = "shared_memory, locked"

    @staticmethod
    def connect(address: tuple[str, list[bytes], int]) -> PayloadSession:
        session = SharedMemory.connect(address)
        return with_more(
            session,
            names={"lock": CONTEXT.Lock()},
            **{operation: f"with lock: {getattr(session, operation)}" for operation in ("get", "get_into", "set")},
            memory="with lock, view[places[key]]: pass",
        )


EVERY_RIVAL: tuple[Any, ...] = (Memcpy, Ringtable, Lmdb, Valkey, SharedMemory, LockedSharedMemory)


def starter(rival: Any, keys: list[bytes], size: int) -> Any:
    return partial(rival, keys=keys, size=size)
