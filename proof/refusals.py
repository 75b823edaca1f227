"""Writes to full tables: what is refused has changed nothing, and evicted nothing."""

import math
import random
import time
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import ringtable
from ringtable import OutOfMemory, Table
from support import Way

from proof.callers import Figures, rounds_until
from proof.marks import Wrong

if TYPE_CHECKING:
    from ringtable._types import Eviction

MEMORY = 8 << 20
STREAMED_SIZE = 64 << 10
"""From this size on, a value has room made for it before its condition is known."""

VIEWS = 12
STEPS = 1_000
"""With one table, at most."""

SIZES = ((100, 20), (1_000, 10), (8_000, 6), (30_000, 4), (60_000, 2), (200_000, 2), (MEMORY // 4, 1), (MEMORY, 3))
"""Sizes of values at most, and how often."""


class Full:
    """One client's own table that is full: what is refused has changed nothing.

    A client that is alone knows what is there: what it has written, but for what an accepted write has evicted.
    """

    def __init__(self, table: Table, eviction: "Eviction", generator: random.Random) -> None:
        self.table, self.random = table, generator
        self.spares_lasting = eviction == "volatile-ttl"
        self.there: dict[bytes, int] = {}
        self.lasting: set[bytes] = set()
        self.views: list[tuple[bytes, ringtable.View]] = []
        self.evicted = 0
        self.numbers = 0
        self.figures: Figures = {"writes": 0, "refused": 0, "evicted": 0}

    def fill(self) -> None:
        """Write values of a few sizes until there is no room, or something was evicted for it."""
        sizes = self.random.sample([200, 1_000, 5_000, 20_000, 60_000, 300_000], 3)
        while not self.figures["refused"] and not self.evicted:
            self.put(self.random.choice(sizes), is_there=False, conditions=0.0)

    def step(self) -> None:
        match self.random.randrange(12):
            case 0:
                self.look()
            case 1:
                self.delete()
            case 2 | 3:
                self.hold()
            case _:
                self.write()

    def write(self) -> None:
        """Write something, perhaps under a condition."""
        (most,) = self.random.choices([size for size, _ in SIZES], [often for _, often in SIZES])
        is_there = bool(self.there) and self.random.random() < 0.3
        self.put(self.random.randrange(most // 8, most), is_there=is_there, conditions=0.4)

    def put(self, size: int, *, is_there: bool, conditions: float) -> None:
        self.numbers += 1
        key = self.random.choice(list(self.there)) if is_there else b"key %d" % self.numbers
        options: dict[str, Any] = {}
        if not self.spares_lasting or self.random.random() < 0.7:
            options["ttl"] = self.random.uniform(1_000, 9_000)
        if self.random.random() < conditions:
            options[self.random.choice(["nx", "xx"])] = True
        holds = not (options.get("nx") and is_there) and not (options.get("xx") and not is_there)
        try:
            done = self.table.set(key, bytes(size), **options)
        except OutOfMemory:
            done = None
        self.figures["writes"] += 1
        if done is not None and done is not holds:
            raise Wrong(f"a set of {key!r} with {options} is answered by {done}, and it is there: {is_there}")
        if not done:
            self.figures["refused"] += 1
            # Room for a large value is made before its condition is known.
            self.refused(key, size, options, may_evict=not holds and size + 1_000 > STREAMED_SIZE)
            return
        self.there[key] = size
        (self.lasting.discard if "ttl" in options else self.lasting.add)(key)
        self.forget()

    def refused(self, key: bytes, size: int, options: dict[str, Any], *, may_evict: bool) -> None:
        if may_evict:
            if key in self.there and key not in self.table:
                raise Wrong(
                    f"{key!r} was evicted for a write of its own, of {size} bytes, that was refused ({options})"
                )
            self.forget()
            return
        if evicted := int(self.table.stats()["evicted_keys"]) - self.evicted:
            raise Wrong(f"a write of {size} bytes was refused ({options}), and has evicted {evicted} others")
        if (count := len(self.table)) != len(self.there):
            raise Wrong(
                f"a write of {size} bytes was refused ({options}), and of {len(self.there)} keys {count} remain"
            )

    def forget(self) -> None:
        """Find out what an accepted write has evicted."""
        evicted = int(self.table.stats()["evicted_keys"])
        if evicted == self.evicted:
            return
        self.figures["evicted"] += evicted - self.evicted
        self.evicted = evicted
        there = set(self.table)
        if self.spares_lasting and (gone := self.lasting - there):
            raise Wrong(f"{len(gone)} keys without a time to live were evicted: {min(gone)!r}")
        self.there = {key: size for key, size in self.there.items() if key in there}
        self.lasting &= there

    def look(self) -> None:
        """See that what is there is there."""
        keys = self.random.sample(list(self.there), min(len(self.there), 100))
        for key, value in zip(keys, self.table.get_many(keys), strict=True):
            if value is None or len(value) != self.there[key]:
                raise Wrong(
                    f"{key!r} of {self.there[key]} bytes is not there, though nothing was evicted: {value!r:.20}"
                )

    def delete(self) -> None:
        for key in self.random.sample(list(self.there), min(len(self.there), self.random.choice([1, 1, 5]))):
            if not self.table.delete(key):
                raise Wrong(f"{key!r} is not there, though nothing was evicted")
            del self.there[key]
            self.lasting.discard(key)

    def hold(self) -> None:
        """Hold a value in view, so that it cannot go or be moved."""
        if len(self.views) == VIEWS or (self.views and self.random.random() < 0.3):
            self.views.pop(self.random.randrange(len(self.views)))[1].close()
        elif self.there:
            key = self.random.choice(list(self.there))
            self.views.append((key, self.table.view(key, copy_ok=True)))


def fill_one_up(options: dict[str, Any], eviction: "Eviction", seed: int, deadline: float = math.inf) -> Figures:
    """Write values of all sizes to a full table of one's own, for some steps."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="ringtable-"))
        path = f"{folder}/full.sock"
        stack.enter_context(ringtable.Server(path, workers=1, max_memory=MEMORY, eviction=eviction))
        full = Full(stack.enter_context(Table(path, **options)), eviction, random.Random(seed))
        try:
            full.fill()
            for _ in range(STEPS):
                if time.monotonic() > deadline:
                    break
                full.step()
        finally:
            for _, view in full.views:
                view.close()
    return full.figures


def fill_up(way: Way, seed: int, seconds: float) -> Figures:
    """The same with one table after the other."""
    total: Figures = {}
    generator = random.Random(seed)
    deadline = time.monotonic() + seconds
    for _ in rounds_until(deadline):
        eviction: Eviction = generator.choice(("allkeys-sieve", "volatile-ttl"))
        for name, count in fill_one_up(way.options, eviction, generator.getrandbits(31), deadline).items():
            total[name] = total.get(name, 0) + count
    return total
