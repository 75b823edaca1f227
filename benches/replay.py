"""Plays a trace as a cache sees it: get, and after a miss set. In client processes, or in a reference cache.

Every entry has a key of 16 bytes and a value of `VALUE_SIZE` bytes, so that a cache holds as many as another does.
"""

from dataclasses import dataclass
from typing import Any

from ringtable._bench.crew import Client

KEY = b"%016d"
VALUE_REPEATS = 64
VALUE_SIZE = VALUE_REPEATS * len(KEY % 0)

REFERENCES = {"SIEVE": "Sieve", "LRU": "LRU", "FIFO": "FIFO"}
"""Names in our tables, names in libcachesim."""

LOOP = """
hits = wrong = 0
for key in work:
    {get}
    if value is None:
        value = key * repeats
        {set}
    elif value == key * repeats:
        hits += 1
    else:
        wrong += 1
return hits, wrong
"""


@dataclass
class Played:
    """What came of a trace, or of a part of it."""

    requests: int = 0
    hits: int = 0
    wrong: int = 0
    """Values that belong to another key, or to none."""

    def add(self, requests: int, hits: int, wrong: int) -> None:
        self.requests += requests
        self.hits += hits
        self.wrong += wrong

    @property
    def hit_percent(self) -> float:
        return 100 * self.hits / self.requests


def play(client: Client, numbers: Any) -> tuple[int, int, int]:
    """Plays a part of a trace: its requests, hits and wrong values."""
    loop = client.remember("loop", lambda: client.session.weave(LOOP, ["work", "repeats"]))
    hits, wrong = loop([KEY % number for number in numbers.tolist()], VALUE_REPEATS)
    return len(numbers), hits, wrong


def fill(client: Client, count: int, burst_size: int = 100) -> None:
    """Stores `count` keys that no trace has."""
    for first in range(0, count, burst_size):
        keys = [KEY % -number for number in range(first + 1, min(first + burst_size, count) + 1)]
        client.session.execute(client.session.set_many, items={key: key * VALUE_REPEATS for key in keys})


def play_reference(name: str, numbers: Any, room: int) -> Played:
    """Plays a trace in a cache of libcachesim with room for so many objects, all of size 1."""
    import libcachesim

    cache = getattr(libcachesim, REFERENCES[name])(cache_size=room)
    request = libcachesim.Request()
    request.obj_size = 1
    hits = 0
    for number in numbers.tolist():
        request.obj_id = number
        hits += cache.get(request)
    return Played(len(numbers), hits)
