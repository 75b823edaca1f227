"""A process that does random operations on a few keys, and writes down each call and its answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from ringtable import OutOfMemory, Table

from proof import values
from proof.journal import Part
from proof.linearizability import ABSENT
from proof.operations import BROKEN, REFUSED, Kind

CALLS_AT_ONCE_MAX = 3
"""Operations that are written down for one move at most."""

NUMBER_BITS = 20
"""Bits of a value's number that count the values of its process."""

# How many bytes the values of a history have: at most so many, with these weights. Reading a large one takes so long
# that others write meanwhile.
MIXED = ((16, 40), (100, 25), (1_000, 20), (5_000, 14.6), (values.SIZE_MAX, 0.4))
LARGE = ((5_000, 40), (50_000, 40), (values.SIZE_MAX, 20))

EXPIRING = 0.3
"""The share of writes that have a time to live, where there are any."""

TTL_MS_MAX = 30


@dataclass(frozen=True)
class Key:
    """A key of a history. The values of one that counts are integers; those of the others check themselves."""

    name: bytes
    counts: bool

    @property
    def salt(self) -> int:
        return crc32(self.name)


@dataclass(frozen=True)
class Traits:
    """What kind of a history it is."""

    large: bool = False
    """Values are large."""
    expires: bool = False
    """Some values have a time to live."""
    refused: bool = False
    """The table may be full."""


class Player:
    """One process with its table, for as many operations as it is told to do."""

    def __init__(self, table: Table, part: Part, process: int, keys: Sequence[Key], seed: int, traits: Traits) -> None:
        self.table = table
        self.part = part
        self.keys = keys
        self.salts = [key.salt for key in keys]
        self.random = random.Random(seed)
        self.traits = traits
        self.sizes = LARGE if traits.large else MIXED
        self.next_number = process << NUMBER_BITS
        # The version of each key that this process was told last; 0 is that of an absent one.
        self.versions = [0] * len(keys)
        self.posts = table.writes == "posted"
        self.posted: list[int] = []
        self.buffer = bytearray(values.SIZE_MAX)

    def play(self, calls: int) -> None:
        """Do so many random operations, or a few more."""
        # A full table may refuse one write of many, and does not say which.
        one_by_one = self.posts or self.traits.refused
        weights = [(do, weight) for do, weight in WEIGHTS if not one_by_one or do != Player.set_many]
        moves = self.random.choices([do for do, _ in weights], [weight for _, weight in weights], k=calls)
        keys = self.random.choices(range(len(self.keys)), k=calls)
        end = self.part.calls + calls
        for move, key in zip(moves, keys, strict=True):
            if self.part.calls >= end:
                break
            move(self, key)
        self.settle()

    # Reads

    def get(self, key: int) -> None:
        name = self.keys[key].name
        place = self.part.call(Kind.GET, key)
        value = self.table.get(name)
        self.part.answer(place, self.number(key, value))

    def get_versioned(self, key: int) -> None:
        name = self.keys[key].name
        place = self.part.call(Kind.GET, key)
        found = self.table.get_with_version(name)
        if found is None:
            self.part.answer(place, ABSENT)
            self.versions[key] = 0
        else:
            value, version = found
            self.part.answer(place, self.number(key, value), version)
            self.versions[key] = version

    def get_into(self, key: int) -> None:
        name = self.keys[key].name
        place = self.part.call(Kind.GET, key)
        try:
            size = self.table.get_into(name, self.buffer)
        except KeyError:
            self.part.answer(place, ABSENT)
        else:
            with memoryview(self.buffer) as whole:
                self.part.answer(place, self.number(key, whole[:size]))

    def get_many(self, key: int) -> None:
        keys = [key, (key + 1) % len(self.keys)]
        places = [self.part.call(Kind.GET, each) for each in keys]
        found = self.table.get_many([self.keys[each].name for each in keys])
        for place, each, value in zip(places, keys, found, strict=True):
            self.part.answer(place, self.number(each, value))

    def view(self, key: int) -> None:
        """Read a value in place, and once more a little later: it must be the same."""
        name = self.keys[key].name
        place = self.part.call(Kind.GET, key)
        try:
            view = self.table.view(name, copy_ok=True)
        except KeyError:
            self.part.answer(place, ABSENT)
            return
        with view:
            number = self.number(key, view)
            self.part.answer(place, number)
            self.set(key)
            if self.number(key, view) != number:
                self.part.answer(place, BROKEN)

    # Writes

    def set(self, key: int) -> None:
        self.write(key, Kind.SET)

    def set_nx(self, key: int) -> None:
        self.write(key, Kind.SET_NX, nx=True, writes="acknowledged")

    def set_xx(self, key: int) -> None:
        self.write(key, Kind.SET_XX, xx=True, writes="acknowledged")

    def set_if_version(self, key: int) -> None:
        version = self.versions[key]
        self.write(key, Kind.SET_IF_VERSION, version, if_version=version)

    def update(self, key: int) -> None:
        """Read a value with its version, and change it if it still has it."""
        self.get_versioned(key)
        self.set_if_version(key)

    def set_many(self, key: int) -> None:
        keys = [key, (key + 1) % len(self.keys)]
        made = [self.make(each) for each in keys]
        places = [self.part.call(Kind.SET, each, number) for each, (number, _) in zip(keys, made, strict=True)]
        self.table.set_many([(self.keys[each].name, value) for each, (_, value) in zip(keys, made, strict=True)])
        for place in places:
            self.part.answer(place, True)

    def delete(self, key: int) -> None:
        name = self.keys[key].name
        if self.posts:
            self.posted.append(self.part.call(Kind.DELETE_POSTED, key))
            self.table.delete(name)
        else:
            place = self.part.call(Kind.DELETE, key)
            self.part.answer(place, self.table.delete(name))

    def delete_if_version(self, key: int) -> None:
        version = self.versions[key]
        if version:
            place = self.part.call(Kind.DELETE_IF_VERSION, key, version=version)
            self.part.answer(place, self.table.delete_if_version(self.keys[key].name, version))
            self.settle()

    def incr(self, key: int) -> None:
        if not self.keys[key].counts:
            self.get(key)
            return
        by = self.random.getrandbits(40) + 1
        place = self.part.call(Kind.INCR, key, by)
        self.refusable(place, lambda: self.table.incr(self.keys[key].name, by))
        self.settle()

    # What these have in common

    def write(self, key: int, kind: Kind, version: int = 0, **options: Any) -> None:
        number, value = self.make(key)
        name = self.keys[key].name
        ttl_ms = 0
        # Sums would have the time of what was added to.
        if self.traits.expires and not self.keys[key].counts and self.random.random() < EXPIRING:
            ttl_ms = self.random.randrange(1, TTL_MS_MAX + 1)
            options["ttl"] = ttl_ms / 1_000
        place = self.part.call(kind, key, number, version, ttl_ms)
        if self.posts and kind == Kind.SET:
            # Done for sure once a later call of this process was answered that the server has executed.
            self.posted.append(place)
            self.table.set(name, value, **options)
        else:
            self.refusable(place, lambda: self.table.set(name, value, **options))
            self.settle()

    def refusable(self, place: int, call: Callable[[], int]) -> None:
        """Make a call that a full table may refuse; it has changed nothing then."""
        try:
            result = call()
        except OutOfMemory:
            result = REFUSED
        self.part.answer(place, result)

    def settle(self) -> None:
        """Answer the posted writes: what this process has just been told was executed after them."""
        if self.posted:
            self.table.flush()
            for place in self.posted:
                self.part.answer(place, True)
            self.posted.clear()

    def make(self, key: int) -> tuple[int, bytes]:
        """A value that nobody else has written, with its number."""
        if self.keys[key].counts:
            # So many that sums are as good as never alike.
            number = self.random.getrandbits(60) + 1
            return number, b"%d" % number
        self.next_number += 1
        (most,) = self.random.choices([size for size, _ in self.sizes], [weight for _, weight in self.sizes])
        size = self.random.randrange(values.SIZE_MIN, most + 1)
        return self.next_number, values.make(self.salts[key], self.next_number, size)

    def number(self, key: int, value: Any) -> int:
        """The number of a value that was read."""
        if value is None:
            return ABSENT
        if not self.keys[key].counts:
            return values.number_of(self.salts[key], value)
        try:
            return int(bytes(value)) or BROKEN
        except ValueError:
            return BROKEN


WEIGHTS: list[tuple[Callable[[Player, int], None], int]] = [
    (Player.get, 30),
    (Player.get_versioned, 6),
    (Player.get_into, 3),
    (Player.get_many, 2),
    (Player.view, 2),
    (Player.set, 16),
    (Player.set_nx, 5),
    (Player.set_xx, 4),
    (Player.set_if_version, 3),
    (Player.update, 5),
    (Player.set_many, 2),
    (Player.delete, 8),
    (Player.delete_if_version, 2),
    (Player.incr, 12),
]
