"""Keys, values, the timed loops and all else that runs inside a client process.

Every public function takes a `Client` first, so that a `crew.Crew` can have all its clients call it at once.
"""

import random
import textwrap
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from ringtable._bench.crew import Client
from ringtable._bench.loops import (
    BURST_SIZE,
    KEY_SIZE,
    SEED,
    SET_SHARE,
    LoopRun,
    all_keys,
    copies,
    value_of,
)

LOOP_ITEMS_MAX = 100_000
"""A longer loop goes over the same items again."""

VERIFY_COUNT = 100
Reads = Literal["direct", "server"]
READS: tuple[Reads, ...] = ("direct", "server")

MISS_WAIT_S = 0.001
MISS_S_MAX = 30.0
"""How long a reader of the growing table waits for a key that is not there yet."""

LOOPS = {
    "mixed": """
        for key, value in work:
            if value is None:
                {get}
            else:
                {set}
        """,
    "get": """
        for key in work:
            {get}
        """,
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
"""The timed loops: the same lines for every rival, with the rival's statements written in."""


def fill(client: Client, seed: int, count: int, burst_size: int) -> None:
    """Stores `count` random keys in bursts. The keys are not kept here."""
    noise = random.Random(seed)
    for start in range(0, count, burst_size):
        burst = noise.randbytes(min(burst_size, count - start) * KEY_SIZE)
        keys = (burst[at : at + KEY_SIZE] for at in range(0, len(burst), KEY_SIZE))
        client.session.execute(client.session.set_many, items={key: value_of(key) for key in keys})


def verify(client: Client) -> None:
    """Checks that the statements of the session do what `rivals.Session` says of them."""
    keys, session = random.Random(SEED).sample(all_keys(client), VERIFY_COUNT), client.session
    for key in keys:
        client.session.execute(session.set, key=key, value=value_of(key))
        client.session.execute(session.finish)
        found = client.session.execute(session.get, key=key)["value"]
        assert found == value_of(key), f"{key!r} gave {found!r}"
    client.session.execute(session.set_many, items={key: value_of(key) for key in keys})
    absent = bytes(KEY_SIZE)
    found = client.session.execute(session.get_many, keys=[*keys, absent])["values"]
    assert found == [*map(value_of, keys), None], "a burst did not give the values in the order of the keys"
    assert client.session.execute(session.get, key=absent)["value"] is None


def prepare(client: Client, shape: str, count: int) -> int:
    """Makes and compiles a loop over about `count` items. Returns how many operations it will do."""
    operations = BURST_SIZE if shape.endswith("_many") else 1
    items = min(count, LOOP_ITEMS_MAX // operations)
    laps = -(-count // items)
    body = textwrap.indent(textwrap.dedent(LOOPS[shape]).strip(), " " * 4)
    loop = client.session.weave(f"for _ in range(laps):\n{body}\n{{finish}}", ["work", "laps"])
    client.memory["loop"] = partial(loop, make_work(client, shape, items), laps)
    return laps * items * operations


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


def run(client: Client, start_ns: int) -> LoopRun:
    """Runs the prepared loop, from the moment `start_ns` that all clients were given."""
    loop = client.memory["loop"]
    time.sleep(max(0, start_ns - time.perf_counter_ns()) / 1e9)
    cpu_ns = time.process_time_ns()
    started_ns = time.perf_counter_ns()
    loop()
    ended_ns = time.perf_counter_ns()
    return LoopRun(0, started_ns, ended_ns, time.process_time_ns() - cpu_ns)


def classic(client: Client, address: str, outer: int, inner: int, reads: Reads, seed: int) -> float:
    """Inserts, reads and deletes `inner` keys, `outer` times (0: until killed), in Rust; the loop's time, s.

    Clients at work at the same time need keys, and so seeds, of their own.
    """
    from ringtable import _ringtable

    figures = _ringtable.classic_client(address, outer, inner, seed=seed + client.index, reads=reads)
    return figures["seconds"]


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
