"""Keys, values, the timed loops and all else that runs inside a client process.

Every public function takes a `Client` first, so that a `crew.Crew` can have all its clients call it at once.
"""

import random
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

from benches.rivals import Session

SEED = 20_260_101
KEY_SIZE = 16
VALUE_SIZE = 100
KEY_COUNT = 100_000
"""Entries in the table before the loops begin."""

BURST_SIZE = 1_000
SET_SHARE = 0.05
"""Of the operations of the mixed loops."""

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


@dataclass
class Client:
    """One client process: how it connects, its number among the crew, and the loop it has prepared."""

    new_session: Callable[[], Session]
    index: int
    loop: Callable[[], object] | None = None

    @cached_property
    def session(self) -> Session:
        return self.new_session()

    @cached_property
    def keys(self) -> list[bytes]:
        return make_keys(SEED, KEY_COUNT)

    def execute(self, statement: str, **names: Any) -> dict[str, Any]:
        """Runs one statement of the session; gives back the variables afterwards."""
        variables = {**self.session.names, **names}
        exec(statement, variables)
        return variables


@dataclass(frozen=True)
class Run:
    """One client's measured loop. Times of day are on the clock that all processes share."""

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


def compile_loop(session: Session, shape: str) -> Callable[..., None]:
    """Makes a function `(work, laps)` of a loop of `LOOPS`; the session's objects are its local variables."""
    lines = []
    for line in textwrap.dedent(LOOPS[shape]).strip().splitlines():
        code = line.lstrip()
        statement = getattr(session, code.strip("{}")) if code.startswith("{") else code
        lines.append(textwrap.indent(statement, line[: -len(code)]))
    source = "\n".join(
        [
            f"def loop({', '.join(['work', 'laps', *session.names])}):",
            "    for _ in range(laps):",
            textwrap.indent("\n".join(lines), " " * 8),
            textwrap.indent(session.finish, " " * 4),
        ]
    )
    variables: dict[str, Any] = {}
    exec(compile(source, f"<{shape} loop>", "exec"), variables)
    return partial(variables["loop"], **session.names)


def connect(client: Client) -> None:
    """Connects now, not at the first real use."""
    client.execute("pass")


def fill(client: Client, seed: int, count: int, burst_size: int) -> None:
    """Stores `count` random keys in bursts. The keys are not kept here."""
    noise = random.Random(seed)
    for start in range(0, count, burst_size):
        burst = noise.randbytes(min(burst_size, count - start) * KEY_SIZE)
        keys = (burst[at : at + KEY_SIZE] for at in range(0, len(burst), KEY_SIZE))
        client.execute(client.session.set_many, items={key: value_of(key) for key in keys})


def verify(client: Client) -> None:
    """Checks that the statements of the session do what `rivals.Session` says of them."""
    keys, session = random.Random(SEED).sample(client.keys, VERIFY_COUNT), client.session
    for key in keys:
        client.execute(session.set, key=key, value=value_of(key))
        client.execute(session.finish)
        found = client.execute(session.get, key=key)["value"]
        assert found == value_of(key), f"{key!r} gave {found!r}"
    client.execute(session.set_many, items={key: value_of(key) for key in keys})
    absent = bytes(KEY_SIZE)
    found = client.execute(session.get_many, keys=[*keys, absent])["values"]
    assert found == [*map(value_of, keys), None], "a burst did not give the values in the order of the keys"
    assert client.execute(session.get, key=absent)["value"] is None


def prepare(client: Client, shape: str, count: int) -> int:
    """Makes and compiles a loop over about `count` items. Returns how many operations it will do."""
    operations = BURST_SIZE if shape.endswith("_many") else 1
    items = min(count, LOOP_ITEMS_MAX // operations)
    laps = -(-count // items)
    client.loop = partial(compile_loop(client.session, shape), make_work(client, shape, items), laps)
    return laps * items * operations


def make_work(client: Client, shape: str, count: int) -> Sequence[Any]:
    """Makes what a loop goes over: keys, (key, value) pairs or bursts. Each client has its own order."""
    noise = random.Random(SEED + 1 + client.index)
    if shape == "get_many":
        return [copies(noise.sample(client.keys, BURST_SIZE)) for _ in range(count)]
    if shape == "set_many":
        bursts = (copies(noise.sample(client.keys, BURST_SIZE)) for _ in range(count))
        return [{key: value_of(key) for key in burst} for burst in bursts]
    keys = copies(noise.choices(client.keys, k=count))
    if shape == "get":
        return keys
    set_share = SET_SHARE if shape == "mixed" else 1.0
    return [(key, value_of(key) if noise.random() < set_share else None) for key in keys]


def copies(keys: Sequence[bytes]) -> list[bytes]:
    """New objects, side by side in memory, as if just received: a loop should not wait for its own keys."""
    return [bytes(memoryview(key)) for key in keys]


def run(client: Client, start_ns: int) -> Run:
    """Runs the prepared loop, from the moment `start_ns` that all clients were given."""
    assert client.loop is not None
    time.sleep(max(0, start_ns - time.perf_counter_ns()) / 1e9)
    cpu_ns = time.process_time_ns()
    started_ns = time.perf_counter_ns()
    client.loop()
    ended_ns = time.perf_counter_ns()
    return Run(started_ns, ended_ns, time.process_time_ns() - cpu_ns)


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
            client.execute(client.session.set_many, items={key: value_of(key) for key in keys})
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
        values = client.execute(client.session.get_many, keys=keys)["values"]
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
