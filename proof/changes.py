"""The kinds of changes that a server makes, each as what is there before, a call, its answer, and what is there then.

What the calls do is chosen anew for each round: keys, which lie in other buckets then, and values within the sizes that
make the kind. All of it follows from the round's seed, so that two processes know the same changes by their numbers.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ringtable import Table
from support import wait_until

from proof.marks import Wrong

HANG_S = 100.0
"""No call takes as long unless something is broken; nearly all of a stepped call's time are the steps."""

WORKER = "ringtable-0"
"""The name of the only worker's thread."""

State = Mapping[str, bytes | None]
"""Keys, and what they have; `None` if they are absent."""


def _nothing(*_: Any) -> None:
    pass


def _the_same(_: Table, memo: Any) -> Any:
    return memo


@dataclass(frozen=True)
class Change:
    """One kind of change. There are two clients: one that acts, and one that makes ready and looks on."""

    name: str
    act: Callable[[Table, Any], Any]
    """The call; with what `ready` has returned."""

    answer: Any = None
    before: State = field(default_factory=dict)
    after: State = field(default_factory=dict)
    between: Mapping[str, tuple[bytes | None, ...]] = field(default_factory=dict)
    """What keys may have besides as long as the call is not answered."""

    ttl: tuple[float | None, float | None] | None = None
    """Seconds that the only key has to live, before and after; `None` for ever."""

    prepare: Callable[[Table], Any] = _nothing
    """What else is to be there before, by the client that looks on."""

    ready: Callable[[Table, Any], Any] = _the_same
    """What the client that acts has to do before, with what `prepare` has returned."""

    finish: Callable[[Table, Any], Any] = _nothing
    """What it does afterwards: has to succeed."""

    check: Callable[[Table, Any], None] = _nothing
    """What has to hold besides, whatever the call came to, with what `prepare` has returned."""

    is_doubtful: bool = False
    """Whether the call may raise `ServerGone`: its answer may be lost with the server."""

    joins: bool = False
    """Whether a client comes or goes in it."""

    counts: bool = True
    """Whether only these keys come and go in it."""

    fills: bool = False
    """Whether the table is a cache that is full, so that entries come and go."""

    wipes: bool = False
    """Whether all keys go in it."""

    thread: str = WORKER
    """The thread that makes the change."""

    def about(self) -> list[str]:
        """All keys that it is about."""
        return list({**self.before, **self.after})


def _value(generator: random.Random, least: int, most: int) -> bytes:
    return generator.randbytes(generator.randint(least, most))


def changes(seed: str) -> list[Change]:
    """All kinds, as a round has them."""
    generator = random.Random(seed)

    def value(least: int, most: int) -> bytes:
        return _value(generator, least, most)

    def key(name: str) -> str:
        return f"{name} {generator.getrandbits(24)}"

    return [
        *_writes(key, value),
        *_lives(key, value),
        *_deletions(key, value),
        *_counters(key, value),
        *_batches(key, value),
        *_tools(key, value),
        *_clients(key, value),
    ]


Key = Callable[[str], str]
Value = Callable[[int, int], bytes]


def _version(table: Table, key: str) -> int:
    found = table.get_with_version(key)
    return found[1] if found else 0


def _writes(key: Key, value: Value) -> list[Change]:
    k, old, new = key("written"), value(20, 60), value(20, 60)
    larger, smaller = value(900, 1_500), value(1, 8)
    streamed, several_rings, large = value(66_000, 80_000), value(135_000, 150_000), value(3_000, 5_000)

    def write(name: str, value: bytes, before: bytes | None, *, is_doubtful: bool = False) -> Change:
        def act(table: Table, _: Any) -> Any:
            table[k] = value

        return Change(name, act, None, {k: before}, {k: value}, is_doubtful=is_doubtful)

    def crowded(table: Table) -> str:
        return with_full_bucket(table, f"crowded {k}")

    def as_many_as_possible(table: Table) -> str:
        """Fill the table so that one more entry makes it grow."""
        figures = table.stats()
        missing = 5 * figures["buckets"] - figures["entries"]
        table.set_many({f"filling {k} {figures['buckets']} {number}": b"" for number in range(missing)})
        return f"growing {k} {figures['buckets']}"

    def write_given(table: Table, given: str) -> bool:
        return table.set(given, new)

    def is_written(table: Table, given: str) -> None:
        if table[given] != new:
            raise Wrong(f"{given!r} has not its value")
        table.delete(given)

    def has_grown(table: Table, given: str) -> None:
        # If its server died before, the next entry makes it grow.
        table.set(f"{given} and", b"")
        if table.stats()["buckets"] <= int(given.split()[-1]):
            raise Wrong("the table has not grown")
        is_written(table, given)

    def write_if(table: Table, version: int) -> bool:
        return table.set(k, new, if_version=version)

    return [
        write("set, new", new, None),
        write("set, overwrite", new, old),
        write("set, of another class", larger, old),
        write("set, a smaller one", smaller, larger),
        write("set, of a page", large, old),
        write("set, nothing", b"", old),
        write("set, streamed", streamed, old, is_doubtful=True),
        write("set, over a streamed one", new, streamed),
        write("set, above the ring", several_rings, streamed, is_doubtful=True),
        Change("set if absent", lambda t, _: t.set(k, new, nx=True), True, {k: None}, {k: new}),
        Change("set if absent, in vain", lambda t, _: t.set(k, new, nx=True), False, {k: old}, {k: old}),
        Change("set if present", lambda t, _: t.set(k, new, xx=True), True, {k: old}, {k: new}),
        Change("set by version", write_if, True, {k: old}, {k: new}, ready=lambda t, _: _version(t, k)),
        Change("set by version, in vain", write_if, False, {k: old}, {k: old}, ready=lambda t, _: _version(t, k) - 1),
        Change(
            "set, old value wanted",
            lambda t, _: t.call("SET", k, new, "GET"),
            old,
            {k: old},
            {k: new},
            is_doubtful=True,
        ),
        Change(
            "set, never evicted",
            lambda t, _: t.set(k, new, evictable=False),
            True,
            {k: old},
            {k: new},
        ),
        Change("overflow of a bucket", write_given, True, prepare=crowded, check=is_written, counts=False),
        Change("growth", write_given, True, prepare=as_many_as_possible, check=has_grown, counts=False),
        Change(
            "eviction",
            write_given,
            True,
            prepare=lambda t: f"evicting {t.stats()['restarts']} {time.monotonic_ns()}",
            check=lambda t, given: _is(t.get(given), new, given),
            counts=False,
            fills=True,
        ),
    ]


def with_full_bucket(table: Table, name: str) -> str:
    """An absent key whose bucket has seven entries, and no overflow bucket yet."""
    for number in range(10_000):
        candidate = f"{name} {number}"
        if len(table.read_bucket(candidate)) == 7:
            return candidate
        if number % 100 == 99:
            # Seven of nearly as many as the table takes without growing are rare.
            table.set(f"crowding {name} {number}", b"")
    raise Wrong("no bucket is full")


def _is(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise Wrong(f"{what!r} is {shown(found)}, and has to be {shown(expected)}")


def shown(found: Any) -> str:
    """Something, in short."""
    words = repr(found)
    return words if len(words) < 80 else f"{words[:60]}... ({len(found)} bytes)"


def _lives(key: Key, value: Value) -> list[Change]:
    k, small, large, new = key("living"), value(20, 60), value(300, 500), value(20, 60)

    def alive(ttl: float | None, content: bytes) -> Callable[[Table], None]:
        return lambda table: _done(table.set(k, content, ttl=ttl))

    def dead(table: Table) -> None:
        table.set(k, small, ttl=0.001)
        wait_until(lambda: k not in table, "its time has passed")

    def same(
        name: str, act: Callable[[Table, Any], Any], content: bytes, ttl: tuple[float | None, float | None]
    ) -> Change:
        state = {k: content}
        return Change(name, act, True, state, state, ttl=ttl, prepare=alive(ttl[0], content))

    return [
        Change("set with a time", lambda t, _: t.set(k, new, ttl=900), True, {k: None}, {k: new}, ttl=(None, 900.0)),
        Change(
            "set, time kept",
            lambda t, _: t.set(k, new, keepttl=True),
            True,
            {k: small},
            {k: new},
            ttl=(900.0, 900.0),
            prepare=alive(900, small),
        ),
        same("expire, written anew", lambda t, _: t.expire(k, 900), small, (None, 900.0)),
        same("expire, in place", lambda t, _: t.expire(k, 900), large, (None, 900.0)),
        same("expire, another time", lambda t, _: t.expire(k, 90), small, (900.0, 90.0)),
        same("persist", lambda t, _: t.persist(k), small, (900.0, None)),
        Change(
            "read with another time",
            lambda t, _: t.get_and_expire(k, 90),
            small,
            {k: small},
            {k: small},
            ttl=(900.0, 90.0),
            prepare=alive(900, small),
        ),
        Change("expiry", lambda t, _: t.call("GET", k), None, prepare=dead, check=lambda t, _: _is(t.get(k), None, k)),
        Change("set over an expired one", lambda t, _: t.set(k, new), True, {}, {k: new}, prepare=dead),
    ]


def _done(done: Any) -> None:
    if not done:
        raise Wrong("what is to be there before is not")


def _deletions(key: Key, value: Value) -> list[Change]:
    k, small, large = key("deleted"), value(20, 60), value(66_000, 80_000)
    several = {f"{k} {number}": value(1, 200) for number in range(12)}
    gone: State = dict.fromkeys(several)

    def at_the_end(table: Table) -> str:
        """A key in an overflow bucket, alone."""
        found = with_full_bucket(table, f"at the end {k}")
        table[found] = small
        return found

    return [
        Change("delete", lambda t, _: t.delete(k), 1, {k: small}, {k: None}),
        Change("delete, large", lambda t, _: t.delete(k), 1, {k: large}, {k: None}),
        Change("delete, in vain", lambda t, _: t.delete(k), 0, {k: None}, {k: None}),
        Change(
            "delete by version",
            lambda t, version: t.delete_if_version(k, version),
            True,
            {k: small},
            {k: None},
            ready=lambda t, _: _version(t, k),
        ),
        Change("get and delete", lambda t, _: t.get_and_delete(k), small, {k: small}, {k: None}, is_doubtful=True),
        Change(
            "end of an overflow",
            lambda t, given: t.delete(given),
            1,
            prepare=at_the_end,
            counts=False,
            check=lambda t, given: _is(t.get(given), None, given),
        ),
        Change("delete, several", lambda t, _: t.delete(*several), 12, several, gone, is_doubtful=True),
        Change("delete a prefix", lambda t, _: t.delete_prefix(k), 12, several, gone, is_doubtful=True),
        Change("clear", lambda t, _: t.clear(), None, several, gone, is_doubtful=True, wipes=True),
    ]


def _counters(key: Key, value: Value) -> list[Change]:
    k = key("counted")
    at = int.from_bytes(value(3, 3))
    grown = {k: b"%d" % (at + 7)}
    return [
        Change("incr", lambda t, _: t.incr(k, 7), at + 7, {k: b"%d" % at}, grown),
        Change("incr, new", lambda t, _: t.incr(k, at + 7), at + 7, {k: None}, grown),
        Change("incr, longer", lambda t, _: t.incr(k), 10**9, {k: b"999999999"}, {k: b"1000000000"}),
        Change("incr by half", lambda t, _: t.incr(k, 0.5), at + 0.5, {k: b"%d" % at}, {k: b"%d.5" % at}),
        Change(
            "incr, new, with a time",
            lambda t, _: t.incr(k, at + 7, ttl_if_new=900),
            at + 7,
            {k: None},
            grown,
            ttl=(None, 900.0),
        ),
    ]


def _batches(key: Key, value: Value) -> list[Change]:
    k = key("batch")
    many = {f"{k} {number}": value(1, 120) for number in range(40)}
    few = {f"{k} {number}": value(1, 300) for number in range(6)}
    others = {name: value(1, 300) for name in few}

    def count(table: Table, _: Any) -> list[Any]:
        return list(table.call_many([("INCR", f"{k} {number % 2}") for number in range(10)]))

    def mix(table: Table, _: Any) -> list[Any]:
        pipeline = table.pipeline()
        pipeline.set(f"{k} 0", b"8").incr(f"{k} 0", 2).delete(f"{k} 1").incr(f"{k} 2").expire(f"{k} 2", 900)
        return list(pipeline.execute())

    return [
        Change("set many", lambda t, _: t.set_many(others), None, few, others),
        Change("set many, new, growth", lambda t, _: t.set_many(many), None, dict.fromkeys(many), many),
        Change("delete many", lambda t, _: t.delete_many(few), 6, few, dict.fromkeys(few), is_doubtful=True),
        Change(
            "incr, ten in a row",
            count,
            [1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
            {f"{k} 0": None, f"{k} 1": None},
            {f"{k} 0": b"5", f"{k} 1": b"5"},
            {f"{k} {number}": tuple(b"%d" % count for count in range(1, 5)) for number in range(2)},
        ),
        Change(
            "pipeline, mixed",
            mix,
            [True, 10, 1, 1, True],
            {f"{k} 0": None, f"{k} 1": b"there", f"{k} 2": None},
            {f"{k} 0": b"10", f"{k} 1": None, f"{k} 2": b"1"},
            {f"{k} 0": (b"8",)},
        ),
    ]


class _Other:
    """A second client of the process that acts, in a thread of its own if it has something to wait for."""

    def __init__(self, **options: Any) -> None:
        self.table = Table(timeout=HANG_S, **options)
        self.thing: Any = None
        self._results: list[Any] = []
        self._thread: threading.Thread | None = None

    def begin(self, wait: Callable[[Table], Any]) -> None:
        """Begin to wait."""

        def run() -> None:
            try:
                self._results.append(wait(self.table))
            except Exception as error:
                self._results.append(repr(error))

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def result(self) -> Any:
        """What it has got."""
        if self._thread is not None:
            self._thread.join(HANG_S)
        return self._results[0] if self._results else "it waits for ever"

    def close(self) -> None:
        self.table.close()


def _tools(key: Key, value: Value) -> list[Change]:
    k, content = key("tool"), value(20, 60)

    def locked(table: Table, _: Any) -> Any:
        lock = table.lock(k, timeout=HANG_S)
        lock.acquire()
        return lock

    def is_locked_by(count: int) -> Callable[[Table, Any], None]:
        return lambda table, _: _is(table.lock(k).holders(), count, f"holders of {k}")

    def has_one(table: Table, _: Any) -> None:
        _is(table.semaphore(k, 3).holders(), 1, f"holders of {k}")

    def waits(name: str, begin: Callable[[Table], Any]) -> Callable[[Table, Any], Any]:
        """A client that waits, until the server knows."""

        def ready(table: Table, memo: Any) -> Any:
            other = _Other()
            other.thing = locked(table, memo) if name == "lock" else None
            other.begin(begin)
            wait_until(lambda: table.stats()["lease_waiters"] == 1, "it waits")
            return other

        return ready

    def take(table: Table) -> Any:
        with table.lock(k, timeout=HANG_S):
            return "taken"

    def hand_over(_: Table, other: _Other) -> Any:
        other.thing.release()
        return other.result()

    def tell(table: Table, other: _Other) -> Any:
        table.event(k).set()
        return other.result()

    def meet(table: Table, other: _Other) -> list[Any]:
        other.begin(lambda table: table.barrier(k, 2).wait(HANG_S))
        return sorted((table.barrier(k, 2).wait(HANG_S), other.result()), key=str)

    def limited(table: Table, _: Any) -> Any:
        return bool(table.rate_limiter("3/600s", name=k)("who"))

    def is_limited(table: Table, _: Any) -> None:
        limiter = table.rate_limiter("3/600s", name=k)
        # One of three calls is gone, and no other one.
        _is([bool(limiter("who")) for _ in range(3)], [True, True, False], "what is left of the rate")

    def forget_limits(table: Table) -> None:
        for name in list(table.keys()):
            if k in str(name):
                table.delete(name)

    def event_key(table: Table) -> None:
        table.event(k).clear()

    return [
        Change(
            "lock",
            lambda _, lock: lock.acquire(),
            True,
            ready=lambda t, _: t.lock(k, timeout=HANG_S),
            check=is_locked_by(1),
            finish=lambda _, lock: lock.release(),
        ),
        Change("unlock", lambda _, lock: lock.release(), None, ready=locked, check=is_locked_by(0)),
        Change(
            "lock, extended",
            lambda _, lock: lock.extend(900),
            None,
            ready=locked,
            check=is_locked_by(1),
            finish=lambda _, lock: lock.release(),
        ),
        Change(
            "lock, handed over", hand_over, "taken", ready=waits("lock", take), finish=lambda _, other: other.close()
        ),
        Change(
            "semaphore",
            lambda _, semaphore: semaphore.acquire(),
            True,
            ready=lambda t, _: t.semaphore(k, 3, timeout=HANG_S),
            check=has_one,
            finish=lambda _, semaphore: semaphore.release(),
        ),
        Change(
            "limiter",
            limited,
            True,
            prepare=forget_limits,
            check=is_limited,
            is_doubtful=True,
            counts=False,
        ),
        Change(
            "event, waited for",
            tell,
            True,
            prepare=event_key,
            counts=False,
            ready=waits("event", lambda t: t.event(k).wait(HANG_S)),
            finish=lambda _, other: other.close(),
        ),
        Change("barrier", meet, [0, 1], ready=lambda t, _: _Other(), finish=lambda _, other: other.close(), joins=True),
        Change("get or set", lambda t, _: t.get_or_set(k, lambda: content), content, {k: None}, {k: content}),
    ]


def _clients(key: Key, value: Value) -> list[Change]:
    k, old, new = key("client"), value(20, 60), value(20, 60)

    def join(_: Table, others: list[_Other]) -> Any:
        others.append(_Other())
        return others[0].table.set(k, new)

    def leave(_: Table, other: _Other) -> None:
        other.close()

    def with_a_lock(_: Table, __: Any) -> _Other:
        other = _Other()
        other.table.lock(k).acquire()
        return other

    def is_free(table: Table, _: Any) -> None:
        wait_until(lambda: table.lock(k).holders() == 0, "what it had is free")
        wait_until(lambda: table.stats()["clients"] == 2, "it has left")

    def post(_: Table, other: _Other) -> None:
        other.table[k] = new
        other.close()

    def is_posted(table: Table, _: Any) -> None:
        wait_until(lambda: table.get(k) == new, "what it had posted is done")
        wait_until(lambda: table.stats()["clients"] == 2, "it has left")

    def watching(table: Table, _: Any) -> Any:
        return table.watch()

    def viewing(table: Table, _: Any) -> Any:
        return table.view(k)

    return [
        Change(
            "a client comes",
            join,
            True,
            {k: old},
            {k: new},
            ready=lambda _, __: [],
            finish=lambda _, others: others[0].close(),
            joins=True,
        ),
        Change("a client leaves", leave, None, ready=with_a_lock, check=is_free, joins=True),
        Change(
            "a client leaves, posted",
            post,
            None,
            {k: None},
            {k: new},
            ready=lambda _, __: _Other(writes="posted"),
            check=is_posted,
            joins=True,
        ),
        Change(
            "set, watched",
            lambda t, _: t.set(k, new),
            True,
            {k: old},
            {k: new},
            ready=watching,
            finish=lambda _, watch: watch.close(),
        ),
        Change(
            "set, in view",
            lambda t, _: t.set(k, new),
            True,
            {k: old},
            {k: new},
            ready=viewing,
            finish=lambda _, view: _still(view, old),
        ),
        Change(
            "a first view",
            lambda _, other: _seen(other.table.view(k)),
            old,
            {k: old},
            {k: old},
            ready=lambda _, __: _Other(),
            finish=lambda _, other: other.close(),
        ),
    ]


def _still(view: Any, content: bytes) -> None:
    _is(bytes(view), content, "what is in view")
    view.close()


def _seen(view: Any) -> bytes:
    with view:
        return bytes(view)
