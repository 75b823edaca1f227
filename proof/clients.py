"""Clients of all kinds that check every answer: `python -m proof.clients --help`.

Each has keys of its own, or shares some with its like, and knows what it has to find. None of them sleeps for long, but
none is in a hurry either: a soak has other loads for that.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import cyclopts
import ringtable
from ringtable import Lagged, Table
from ringtable._cli.signals import interrupt_on_termination, interrupts_held_back
from support import Child, Flag

from proof import program

PREFIX = "honest"
CALL_S_MAX = 30.0
PAUSE_S = 0.002
EXPIRY_S = 0.05

Round = Callable[[int], int]
"""Makes some calls, checks what they answer, and returns how many there were; its argument counts the rounds."""


class Wrong(AssertionError):
    """An answer that cannot be."""


def check(found: object, *expected: object) -> None:
    if found not in expected:
        raise Wrong(f"forbidden: {found!r:.100} where {' or '.join(f'{each!r:.100}' for each in expected)} had to be")


def keys_of_its_own(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """All kinds of calls on keys that nobody else writes."""

    def begin(stack: ExitStack) -> Round:
        table = stack.enter_context(Table(**options))
        key, count = f"{name} key", f"{name} count"

        def work(index: int) -> int:
            value = b"%d " % index * (1 + index % 200)
            check(table.set(key, value), True)
            check(table.get(key), value)
            check(table.incr(count), index + 1)
            check(table.get_many([key, f"{name} absent", count]), [value, None, b"%d" % (index + 1)])
            check(table.add(key, b"again"), False)
            check(table.update(key, lambda old: (old or b"") + b"!"), value + b"!")
            check(table.pipeline().get(key).delete(key).exists(key).execute(), [value + b"!", 1, False])
            check(table.get(key), None)
            return 8

        return work

    return begin


def posted(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """Posted writes, which their own table reads at once, and another one after a flush."""

    def begin(stack: ExitStack) -> Round:
        table = stack.enter_context(Table(writes="posted", **options))
        other = stack.enter_context(Table(**options))

        def work(index: int) -> int:
            items = {b"%s %d" % (name.encode(), number): b"%d" % index * 10 for number in range(10)}
            for key, value in items.items():
                table.set(key, value)
                check(table.get(key), value)
            table.flush()
            check(other.get_many(items), list(items.values()))
            return 31

        return work

    return begin


def views(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """Views that stay what they are while their keys are written and deleted."""

    def begin(stack: ExitStack) -> Round:
        table = stack.enter_context(Table(**options))

        def work(index: int) -> int:
            values = [bytes([index + number & 255]) * (100 + 997 * number) for number in range(5)]
            keys = [f"{name} {number}" for number in range(5)]
            table.set_many(zip(keys, values, strict=True))
            held = [table.view(key) for key in keys]
            table.set_many((key, b"other") for key in keys[:3])
            table.delete(*keys[3:])
            for view, value in zip(held, values, strict=True):
                check(bytes(view), value)
                view.close()
            check(table.get_many(keys), [b"other"] * 3 + [None] * 2)
            return 22

        return work

    return begin


def watching(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """A watch of keys of its own: it tells of each write and deletion in order, or how many it has missed."""

    def begin(stack: ExitStack) -> Round:
        table = stack.enter_context(Table(**options))
        watch = table.watch(name, timeout=CALL_S_MAX)
        stack.callback(lambda: watch.close())

        def work(index: int) -> int:
            nonlocal watch
            key, last = f"{name} {index % 10}".encode(), f"{name} last".encode()
            table[key] = b"%d" % index
            table.delete(key)
            table[last] = b"%d" % index
            kinds: list[str] = []
            version = 0
            for event in watch:
                if isinstance(event, Lagged):
                    # What it has missed may have been the last one: begin anew.
                    watch.close()
                    watch = table.watch(name, timeout=CALL_S_MAX)
                    return 4
                if event.kind == "flush":
                    continue
                if event.key == last:
                    break
                check(event.key, key)
                check(event.version > version, True)
                version = event.version
                kinds.append(event.kind)
            check(kinds, ["set", "delete"])
            return 3

        return work

    return begin


def leases(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """Values that one of several processes computes, and that go soon."""

    def begin(stack: ExitStack) -> Round:
        table = stack.enter_context(Table(**options))

        def work(index: int) -> int:
            key = f"{PREFIX} leased {index % 7}"
            value = table.get_or_set(key, lambda: f"{key} by {os.getpid()}".encode(), EXPIRY_S)
            check(value.startswith(f"{key} by ".encode()), True)
            return 1

        return work

    return begin


def shared_count(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """A count that several processes raise: nobody sees it fall."""

    def begin(stack: ExitStack) -> Round:
        table = stack.enter_context(Table(**options))
        seen = 0

        def work(index: int) -> int:
            nonlocal seen
            count = table.incr(f"{PREFIX} shared")
            check(count > seen, True)
            updated = int(table.update(f"{PREFIX} updated", lambda old: b"%d" % (int(old or 0) + 1), retries=10_000))
            check(int(table[f"{PREFIX} updated"]) >= updated, True)
            seen = count
            return 3

        return work

    return begin


def expiry(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """Entries are there until their time has come, and not afterwards."""

    def begin(stack: ExitStack) -> Round:
        table = stack.enter_context(Table(**options))

        def work(index: int) -> int:
            key, start = f"{name} {index % 50}", time.monotonic()
            table.set(key, b"%d" % index, ttl=EXPIRY_S)
            found = table.get(key)
            if time.monotonic() - start < EXPIRY_S:
                check(found, b"%d" % index)
            table.set(f"{name} long", b"%d" % index, ttl=1_000)
            check(table.get(f"{name} long"), b"%d" % index)
            if index % 50 == 49:
                time.sleep(EXPIRY_S + 0.01)
                check(table.get_many(f"{name} {number}" for number in range(50)), [None] * 50)
                return 5
            return 4

        return work

    return begin


def cached(name: str, options: dict[str, Any]) -> Callable[[ExitStack], Round]:
    """A cache at its limit, of a server of its own: each value is there or not, but never another one."""

    def begin(stack: ExitStack) -> Round:
        folder = os.environ["RINGTABLE_DIR"]
        address = f"{folder}/cache-{os.getpid()}.sock"
        stack.enter_context(ringtable.Server(address, workers=1, max_memory="16MiB", cache=True))
        table = stack.enter_context(Table(address))
        generator = random.Random(name)

        def value(number: int) -> bytes:
            return b"%d " % number * (1 + number % 3_000)

        def work(index: int) -> int:
            for _ in range(10):
                number = generator.randrange(20_000)
                key = b"%d" % number
                found = table.get(key)
                check(found, None, value(number))
                if found is None:
                    table[key] = value(number)
            check(int(table.stats()["memory_resident"]) <= 16 << 20, True)
            return 21

        return work

    return begin


LANE, SOCKET = {"transport": "lane"}, {"transport": "socket"}
ASKING = {"transport": "lane", "reads": "server"}
CLIENTS: tuple[tuple[str, Callable[[str, dict[str, Any]], Callable[[ExitStack], Round]], dict[str, Any]], ...] = (
    ("lane", keys_of_its_own, LANE),
    ("asking", keys_of_its_own, ASKING),
    ("socket", keys_of_its_own, SOCKET),
    ("posted", posted, LANE),
    ("posted socket", posted, SOCKET),
    ("views", views, LANE),
    ("watching", watching, LANE),
    ("leases", leases, LANE),
    ("leases socket", leases, SOCKET),
    ("shared", shared_count, LANE),
    ("shared socket", shared_count, SOCKET),
    ("expiry", expiry, LANE),
    ("cached", cached, LANE),
)


def client(begin: Callable[[ExitStack], Round], finish: Flag, failed: Flag) -> tuple[int, int, float]:
    """Work until told to finish; return how many rounds and calls that were, and how long the longest round took."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    rounds, calls, longest_s = 0, 0, 0.0
    try:
        with ExitStack() as stack:
            work = begin(stack)
            while not finish.is_set():
                start = time.monotonic()
                calls += work(rounds)
                longest_s = max(longest_s, time.monotonic() - start)
                rounds += 1
                time.sleep(PAUSE_S)
    except BaseException:
        failed.set()
        raise
    return rounds, calls, longest_s


app = cyclopts.App(name="proof.clients", help=__doc__, version_flags=[])


@app.default
def clients(
    address: program.Address,
    *,
    seconds: float = 10.0,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Let clients work that check every answer.

    Args:
        address: The socket of a running server with lanes.
        seconds: For how long.
        seed: Of what is random.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    seed = program.begin(seed)
    figures: dict[str, Any] = {}
    found: list[str] = []
    children: dict[str, Child] = {}
    with Flag() as finish, Flag() as failed:
        with suppress(KeyboardInterrupt):
            with interrupts_held_back():
                for name, kind, options in CLIENTS:
                    begin = kind(f"{PREFIX} {seed} {name}", {"address": address, "timeout": CALL_S_MAX, **options})
                    children[name] = Child(client, begin, finish, failed)
            program.sleep_unless(failed.is_set, seconds)
        finish.set()
        for name, child in children.items():
            try:
                rounds, calls, longest_s = child.result(2 * CALL_S_MAX)
                figures[name] = {"rounds": rounds, "calls": calls, "longest_round_s": longest_s}
            except AssertionError as error:
                found.append(f"{name}: {error}")
    return program.end(figures, found, json_)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
