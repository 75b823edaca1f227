"""What runs inside a client process of `compare`, besides what `ringtable bench` has there (`loops`).

Every public function takes a `Client` first, so that a `Crew` can have all its clients call it at once.
"""

import random
import time
from collections.abc import Sequence
from typing import Any

from ringtable._bench import loops
from ringtable._bench.crew import Client
from ringtable._bench.loops import BURST_SIZE, SEED, SET_SHARE, all_keys, copies, value_of

ITEMS = 100_000
"""Of a loop; a longer one goes over the same items again."""

CHUNK = 32
"""Operations between two looks at the clock; bursts are looked at one by one."""

MISS_WAIT_S = 0.001
MISS_S_MAX = 30.0
"""How long a reader of the growing table waits for a key that is not there yet."""

LOOPS = {
    "mixed": loops.LOOPS["mixed"],
    "get": loops.LOOPS["get"],
    "set": """
        for key, value in work:
            {set}
        """,
    "get_many": """
        for keys in work:
            {get_many}
        """,
    "set_many": """
        for items in work:
            {set_many}
        """,
}
"""The body of each timed loop: the same lines for every rival, with the rival's statements written in."""


def prepare(client: Client, shape: str) -> None:
    """Makes one of `LOOPS`. Each client has its own order."""
    burst = shape.endswith("_many")
    items = make_work(client, shape, ITEMS // BURST_SIZE if burst else ITEMS)
    loops.arm(client, LOOPS[shape], loops.pieces(items, 1 if burst else CHUNK))


def make_work(client: Client, shape: str, count: int) -> Sequence[Any]:
    """Makes what a loop goes over: keys, (key, value) pairs or bursts. Each client has its own order."""
    noise = random.Random(SEED + 1 + client.index)
    if shape == "get_many":
        return [copies(noise.sample(all_keys(client), BURST_SIZE)) for _ in range(count)]
    if shape == "set_many":
        bursts = (copies(noise.sample(all_keys(client), BURST_SIZE)) for _ in range(count))
        return [{key: value_of(key) for key in burst} for burst in bursts]
    keys = copies(noise.choices(all_keys(client), k=count))
    if shape == "get":
        return keys
    set_share = SET_SHARE if shape == "mixed" else 1.0
    return [(key, value_of(key) if noise.random() < set_share else None) for key in keys]


def grow(client: Client, writers: int, count: int) -> int:
    """Half of the clients insert `count` keys each; the others read these as they appear, then once more.

    Returns how many values were wrong.
    """
    owner = client.index % writers
    bursts = [range(start, min(start + BURST_SIZE, count)) for start in range(0, count, BURST_SIZE)]
    if client.index < writers:
        for burst in bursts:
            keys = growth_keys(owner, burst)
            client.session.execute(client.session.set_many, items={key: value_of(key) for key in keys})
        return 0
    wrong = sum(read_back(client, growth_keys(owner, burst)) for burst in bursts)
    return wrong + sum(read_back(client, growth_keys(owner, burst)) for burst in bursts)


def growth_keys(owner: int, numbers: range) -> list[bytes]:
    return [b"%04d%012d" % (owner, number) for number in numbers]


def read_back(client: Client, keys: list[bytes]) -> int:
    """Reads keys until all are there; returns how many values were wrong."""
    wrong = 0
    deadline = time.monotonic() + MISS_S_MAX
    while keys:
        values = client.session.execute(client.session.get_many, keys=keys)["values"]
        wrong += sum(value not in (None, value_of(key)) for key, value in zip(keys, values, strict=True))
        keys = [key for key, value in zip(keys, values, strict=True) if value is None]
        if keys:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(keys)} keys are still missing after {MISS_S_MAX} s")
            time.sleep(MISS_WAIT_S)
    return wrong


def statistics_of_server(client: Client) -> dict[str, float]:
    """The numbers of ringtable's `Table.stats()`."""
    stats = client.session.names["table"].stats()
    return {name: float(value) for name, value in stats.items() if isinstance(value, int | float)}
