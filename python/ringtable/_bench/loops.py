"""What the clients do: the classic client, and timed loops through the Python API.

Every public function takes a `Client` first, so that a `Crew` can have all its clients call it at once.
"""

import random
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ringtable import ValueTooLarge, _ringtable
from ringtable._bench import probe
from ringtable._bench.analysis import INNER
from ringtable._bench.crew import Client, until_called
from ringtable._bench.ways import Door

SEED = 20_260_101
KEY_SIZE = 16
VALUE_SIZE = 100
KEY_COUNT = 100_000
"""Entries in the table before the loops begin."""

BURST_SIZE = 1_000
SET_SHARE = 0.05
"""Of the operations of a mixed loop; the others are gets."""

MIXED_ITEMS = 16_384
"""A longer loop goes over the same items again."""

MIXED_CHUNK = 32
"""Operations between two looks at the clock."""

PAYLOAD_TOTAL_SIZE = 16 << 20
"""All values of a size together: more than a core's own caches hold."""

PAYLOAD_CHUNK = 4
VERIFY_COUNT = 100

Shape = Literal["mixed", "latency", "get", "set"]

LOOPS: dict[Shape, str] = {
    "mixed": """
        for key, value in work:
            if value is None:
                {get}
            else:
                {set}
        """,
    "latency": """
        for key, value in work:
            started = now()
            if value is None:
                {get}
            else:
                {set}
            record(now() - started)
        """,
    "get": """
        for key in work:
            {get}
        """,
    "set": """
        for key in work:
            {set}
        """,
}
"""The body of each loop, for a chunk of its work."""

UNTIL = """
done = 0
while True:
    for work in chunks:
{body}
        done += len(work)
        if now() >= end_ns:
            {{finish}}
            return done
"""


@dataclass(frozen=True)
class ClassicRun:
    """One run of the classic client: its loop, without start-up and connecting."""

    seconds: float
    user_s: float
    system_s: float
    server_s: float
    """CPU time of the server meanwhile, for whomever it worked; it includes the joining of this client."""


@dataclass(frozen=True)
class LoopRun:
    """One client's loop. Times of day are on the clock that all processes share."""

    operations: int
    started_ns: int
    ended_ns: int
    cpu_ns: int


def make_keys(seed: int, count: int) -> list[bytes]:
    """`count` random keys, the same for the same seed."""
    noise = random.Random(seed).randbytes(count * KEY_SIZE)
    return [noise[start : start + KEY_SIZE] for start in range(0, len(noise), KEY_SIZE)]


def value_of(key: bytes) -> bytes:
    """The only value a key ever has, so that every read can be checked."""
    return (key * (VALUE_SIZE // KEY_SIZE + 1))[:VALUE_SIZE]


def copies(keys: Sequence[bytes]) -> list[bytes]:
    """New objects, side by side in memory, as if just received: a loop should not wait for its own keys."""
    return [bytes(memoryview(key)) for key in keys]


def payload_keys(size: int) -> list[bytes]:
    """The keys of the large values of a size."""
    return make_keys(SEED + size, PAYLOAD_TOTAL_SIZE // size)


# The classic client


def classic(client: Client, door: Door, outer: int, seed: int, server_pid: int) -> ClassicRun:
    """Inserts, reads and deletes keys, `outer` times, in Rust. Clients at the same time need seeds of their own."""
    options: dict[str, Any] = {"reads": door.reads, "transport": door.transport}
    server_ns = probe.cpu_ns(server_pid)
    figures = _ringtable.classic_client(door.url, outer, INNER, seed=seed + client.index, **options)
    server_ns = probe.cpu_ns(server_pid) - server_ns
    return ClassicRun(figures["seconds"], figures["user_s"], figures["system_s"], server_ns / 1e9)


def classic_endless(client: Client, door: Door, seed: int) -> None:
    """The same without end, until the parent calls again."""
    options: dict[str, Any] = {"reads": door.reads, "transport": door.transport}
    until_called(client, lambda: _ringtable.classic_client(door.url, 0, INNER, seed=seed + client.index, **options))


# Timed loops


def fill(client: Client, seed: int = SEED, count: int = KEY_COUNT, burst_size: int = BURST_SIZE) -> None:
    """Stores so many random keys in bursts: those of `all_keys` unless told otherwise. They are not kept here."""
    noise = random.Random(seed)
    for start in range(0, count, burst_size):
        burst = noise.randbytes(min(burst_size, count - start) * KEY_SIZE)
        keys = (burst[at : at + KEY_SIZE] for at in range(0, len(burst), KEY_SIZE))
        client.session.execute(client.session.set_many, items={key: value_of(key) for key in keys})


def fill_payload(client: Client, size: int) -> bool:
    """Stores the large values of a size. Returns whether they are taken at all, and not refused for their size."""
    value = random.Random(size).randbytes(size)
    try:
        for key in payload_keys(size):
            client.session.execute(client.session.set, key=key, value=value)
    except ValueTooLarge:
        return False
    return True


def verify(client: Client) -> None:
    """Checks that the statements of the session do what `Session` says: nobody is measured who does not do the work."""
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


def all_keys(client: Client) -> list[bytes]:
    return client.remember("keys", lambda: make_keys(SEED, KEY_COUNT))


def prepare(client: Client, shape: Shape, size: int = 0) -> None:
    """Makes one of `LOOPS`. Each client has its own order."""
    histogram = _ringtable.Histogram()
    client.memory["histogram"] = histogram
    chunks = client.remember(f"chunks {shape} {size}", lambda: make_chunks(client, shape, size))
    value = random.Random(size).randbytes(size) if shape == "set" else None
    arm(client, LOOPS[shape], chunks, record=histogram.record, value=value)


def arm(client: Client, body: str, chunks: Sequence[Sequence[Any]], **names: Any) -> None:
    """Compiles a loop for `run`: its body, in which `work` is a chunk, and the names in it that no session has."""
    body = textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
    loop = client.session.weave(UNTIL.format(body=body), ["now", "end_ns", "chunks", *names])
    client.memory["loop"] = partial(loop, time.perf_counter_ns, chunks=chunks, **names)


def make_chunks(client: Client, shape: Shape, size: int) -> list[Sequence[Any]]:
    """What a loop goes over, in pieces: keys with new values or None, or keys."""
    noise = random.Random(SEED + 1 + client.index)
    if shape in ("mixed", "latency"):
        keys = copies(noise.choices(all_keys(client), k=MIXED_ITEMS))
        items = [(key, value_of(key) if noise.random() < SET_SHARE else None) for key in keys]
        return pieces(items, MIXED_CHUNK)
    keys = payload_keys(size)
    noise.shuffle(keys)
    return pieces(keys, PAYLOAD_CHUNK)


def pieces(work: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [work[start : start + size] for start in range(0, len(work), size)]


def run(client: Client, start_ns: int, loop_s: float) -> LoopRun:
    """Runs the prepared loop, from the moment `start_ns` that all clients were given, for so long."""
    loop = client.memory["loop"]
    time.sleep(max(0, start_ns - time.perf_counter_ns()) / 1e9)
    cpu_ns = time.process_time_ns()
    started_ns = time.perf_counter_ns()
    done = loop(end_ns=start_ns + round(loop_s * 1e9))
    ended_ns = time.perf_counter_ns()
    return LoopRun(done, started_ns, ended_ns, time.process_time_ns() - cpu_ns)


def recorded(client: Client) -> bytes:
    """The latencies of the loop that has run."""
    histogram: _ringtable.Histogram = client.memory["histogram"]
    return histogram.to_bytes()
