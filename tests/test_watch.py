"""`Table.watch`: every change is told, in order, to everybody who keeps up; who does not learns what was missed."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import pytest
import ringtable
from ringtable import Event, Lagged, Table, Watch
from ringtable._ringtable import socket_path, watch_request
from support import (
    DEADLINE_S,
    Child,
    Flag,
    KeptServer,
    RawConnection,
    ServerProcess,
    freeze,
    is_dead,
    resp,
    state_of,
    wait_until,
)

# For how long a client takes it that its server lives.
LIVENESS_CHECK_S = 0.1
# The smallest table has the smallest ring of events: 256 KiB.
SMALL = "4MiB"
RING_WORDS = (256 << 10) // 8
# Words of an event with a key of 8 bytes: four, and the key.
EVENT_WORDS = 5
RING_EVENTS = RING_WORDS // EVENT_WORDS


@pytest.fixture
def small_server(ringtable_dir: Path) -> Iterator[ringtable.Server]:
    """A server named "default" whose ring of events is the smallest."""
    with ringtable.Server(workers=2, max_memory=SMALL) as server:
        yield server


@pytest.fixture
def table(server: ringtable.Server) -> Iterator[Table]:
    with ringtable.connect() as table:
        yield table


def key(number: int) -> bytes:
    """A key of 8 bytes."""
    return b"%08d" % number


def write(table: Table, count: int, first: int = 0) -> None:
    """Make `count` events, of a few hundred keys."""
    table.set_many((key(number % 500), b"value") for number in range(first, first + count))


def kinds_and_keys(watch: Watch, count: int) -> list[tuple[str, bytes]]:
    return [(event.kind, event.key) for event in islice(watch, count)]


def test_smoke(table: Table) -> None:
    with table.watch() as watch:
        table["greeting"] = b"hello"
        event = next(watch)
        assert isinstance(event, Event)
        assert (event.kind, event.key, event.size) == ("set", b"greeting", 5)


def test_every_kind(table: Table) -> None:
    with table.watch(timeout=DEADLINE_S) as watch:
        table["counter"] = b"9"
        table.incr("counter")
        table.expire("counter", 1_000)
        del table["counter"]
        table.set("short", b"lived", ttl=0.01)
        wait_until(lambda: "short" not in table, "the time of the key has passed")
        # A read in place changes nothing; one through the server removes the entry.
        assert table.call("GET", "short") is None
        table.clear()
        assert kinds_and_keys(watch, 7) == [
            ("set", b"counter"),
            ("set", b"counter"),
            ("set", b"counter"),
            ("delete", b"counter"),
            ("set", b"short"),
            ("expire", b"short"),
            ("flush", b""),
        ]


def test_what_changes_nothing_is_no_event(table: Table) -> None:
    table["there"] = b"1"
    with table.watch(timeout=DEADLINE_S) as watch:
        assert not table.add("there", b"2")
        assert not table.set("nowhere", b"2", xx=True)
        assert not table.delete("nowhere")
        assert table["there"] == b"1"
        table["last"] = b"3"
        assert kinds_and_keys(watch, 1) == [("set", b"last")]


def test_sizes_and_versions(table: Table) -> None:
    with table.watch(timeout=DEADLINE_S) as watch:
        table["key"] = b"12345"
        table["key"] = b""
        del table["key"]
        table["key"] = bytes(100_000)
        events = [next(watch) for _ in range(4)]
        assert [event.size for event in events if isinstance(event, Event)] == [5, 0, 0, 100_000]
        versions = [event.version for event in events if isinstance(event, Event)]
        assert versions == sorted(set(versions))


def test_events_are_values() -> None:
    event, lagged = Event("set", b"key", 1, 5), Lagged(3)
    assert event == Event("set", b"key", 1, 5)
    assert {event: 1, lagged: 2}[Lagged(3)] == 2
    assert (lagged.kind, lagged.key, lagged.count) == ("lagged", b"", 3)
    with pytest.raises(AttributeError):
        event.key = b"other"  # type: ignore[misc]
    assert not hasattr(event, "__dict__")


def test_keys_of_any_size(small_server: ringtable.Server) -> None:
    keys = [b"k" * size for size in (0, 1, 7, 8, 9, 1_000, ringtable.KEY_SIZE_MAX)]
    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
        # Often enough that records of all sizes lie across the end of the ring.
        for _ in range(20):
            for one in keys:
                table[one] = b""
                assert next(watch).key == one


def test_a_prefix_leaves_out_the_others(table: Table) -> None:
    with table.watch("user:", timeout=DEADLINE_S) as watch:
        for number in range(3_000):
            table.set(f"{'user' if number % 1_000 == 999 else 'other'}:{number}", b"", writes="posted")
        table.clear()
        assert kinds_and_keys(watch, 4) == [
            ("set", b"user:999"),
            ("set", b"user:1999"),
            ("set", b"user:2999"),
            # It concerns every key.
            ("flush", b""),
        ]


def test_order_of_a_key_is_that_of_its_values(server_process: ServerProcess) -> None:
    """Four processes write the same keys; their events have rising versions, the last that of the value."""
    rounds, keys = 500, 3

    def writer(number: int) -> None:
        with ringtable.connect() as table:
            for count in range(rounds):
                table[key(count % keys)] = bytes(number)

    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
        children = [Child(writer, number) for number in range(4)]
        last: dict[bytes, Event] = {}
        for event in islice(watch, 4 * rounds):
            assert isinstance(event, Event)
            assert event.key not in last or event.version > last[event.key].version
            last[event.key] = event
        for child in children:
            child.result()
        assert {name: event.size for name, event in last.items()} == {name: len(value) for name, value in table.items()}


def test_two_watchers_see_the_same(table: Table) -> None:
    with table.watch(timeout=DEADLINE_S) as one, table.watch(timeout=DEADLINE_S) as other:
        write(table, 1_000)
        assert [next(one) for _ in range(1_000)] == [next(other) for _ in range(1_000)]
        assert table.stats()["watchers"] == 2


def test_a_watcher_in_another_process(server_process: ServerProcess) -> None:
    def watcher(watching: Flag) -> list[tuple[str, bytes]]:
        with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
            watching.set()
            return kinds_and_keys(watch, 2)

    with Flag() as watching, Child(watcher, watching) as child, ringtable.connect() as table:
        watching.wait()
        table["a"] = b"1"
        del table["a"]
        assert child.result() == [("set", b"a"), ("delete", b"a")]


def test_what_a_lapped_watcher_missed_and_what_follows_add_up(small_server: ringtable.Server) -> None:
    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
        write(table, 10)
        assert [next(watch).kind for _ in range(10)] == ["set"] * 10
        for laps in (1, 3, 2):
            written = laps * RING_EVENTS + 100
            write(table, written)
            lagged = next(watch)
            assert isinstance(lagged, Lagged)
            # It goes on with the newest one.
            assert lagged.count == written - 1
            assert next(watch).key == key((written - 1) % 500)
            write(table, 50, first=7)
            assert [next(watch).key for _ in range(50)] == [key(number) for number in range(7, 57)]
        table["end"] = b""
        assert next(watch).key == b"end"


def test_a_watcher_that_is_lapped_all_the_time_counts_right(server_process: ServerProcess) -> None:
    """Two processes write as fast as they can, and the watcher looks now and then; nothing is unaccounted for."""
    batches, batch = 100, 5_000

    def writer() -> None:
        with ringtable.connect() as table:
            for _ in range(batches):
                write(table, batch)

    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
        children = [Child(writer) for _ in range(2)]
        seen: Counter[str] = Counter()
        while seen.total() < 2 * batches * batch:
            event = next(watch)
            seen[event.kind] += event.count if isinstance(event, Lagged) else 1
        for child in children:
            child.result()
        assert seen.total() == 2 * batches * batch
        table["end"] = b""
        assert next(watch).key == b"end"


@pytest.mark.parametrize("total", [50_000, 200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_fast_watcher_misses_nothing(server_process: ServerProcess, total: int) -> None:
    """Two processes write `total` events in batches, of which so many are on their way at a time as fit half a ring."""
    batch, writers = 1_000, 2
    # The server has 256 MiB, and its ring one part of 64.
    on_their_way = (4 << 20) // 8 // EVENT_WORDS // 2 // batch
    permits, permit = os.pipe()
    os.write(permit, b"." * on_their_way)

    def writer(number: int) -> None:
        with ringtable.connect() as table:
            for first in range(number * batch, total, writers * batch):
                os.read(permits, 1)
                table.set_many((key(event), b"v" * (event % 7)) for event in range(first, first + batch))

    seen = bytearray(total)
    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
        children = [Child(writer, number) for number in range(writers)]
        for count, event in zip(range(1, total + 1), watch, strict=False):
            assert isinstance(event, Event), event
            number = int(event.key)
            assert event.size == number % 7
            seen[number] += 1
            if count % batch == 0:
                os.write(permit, b".")
        for child in children:
            child.result()
        assert seen == b"\x01" * total
    os.close(permits)
    os.close(permit)


def _watch_for_ever(watching: Flag) -> None:
    with ringtable.connect() as table, table.watch() as watch:
        watching.set()
        for _ in watch:
            pass


def test_a_watcher_that_is_killed_is_forgotten(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
        for round_number in range(10):
            with Flag() as watching, Child(_watch_for_ever, watching) as victim:
                watching.wait()
                write(table, 100)
                victim.kill()
            wait_until(lambda: table.stats()["watchers"] == 1, "the server has noticed")
            assert [next(watch).key for _ in range(100)] == [key(number) for number in range(100)]
            table[f"round {round_number}"] = b""
            assert next(watch).key == b"round %d" % round_number


def test_a_watcher_that_stands_hinders_nobody(ringtable_dir: Path) -> None:
    written = 2 * RING_EVENTS

    def watcher(watching: Flag) -> list[Event | Lagged]:
        with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
            watching.set()
            return [next(watch), next(watch)]

    with (
        ServerProcess("--max-memory", SMALL),
        Flag() as watching,
        Child(watcher, watching) as child,
        ringtable.connect() as table,
        table.watch(timeout=DEADLINE_S) as watch,
    ):
        watching.wait()
        freeze(child.pid)
        for number in range(written):
            table.set(key(number % 500), b"", writes="posted")
            if number % 1_000 == 999:
                table.flush()
                assert [next(watch).key for _ in range(1_000)] == [
                    key(n % 500) for n in range(number - 999, number + 1)
                ]
        table.flush()
        os.kill(child.pid, signal.SIGCONT)
        # It stood before the first event.
        lagged, newest = child.result()
        assert lagged == Lagged(written - 1)
        assert newest.key == key((written - 1) % 500)


def test_the_server_is_killed(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, table.watch() as watch, table.watch() as waiting:
        table["last"] = b"words"
        assert next(waiting).key == b"last"
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                next(waiting)
            except ringtable.Error as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        server_process.kill()
        thread.join(DEADLINE_S)
        assert [type(error) for error in raised] == [ringtable.ServerGone]
        # What it had told comes first.
        assert next(watch).key == b"last"
        for _ in range(2):
            with pytest.raises(ringtable.ServerGone):
                next(watch)


def test_the_server_stops(ringtable_dir: Path) -> None:
    with ringtable.Server() as server, ringtable.connect() as table, table.watch() as watch:
        table["last"] = b"words"
        server.stop()
        assert next(watch).key == b"last"
        with pytest.raises(ringtable.ServerGone, match="stopped"):
            next(watch)


def test_a_watch_goes_on_with_the_next_server(ringtable_dir: Path) -> None:
    """Nothing was changed as the server died: nothing is missing, also of what is written before the watch is back."""
    with KeptServer() as kept, ringtable.connect() as table, table.watch(timeout=0.1) as watch:
        for number in range(10):
            table["key"] = b"%d" % number
            if number % 2:
                assert next(watch).key == b"key"
            kept.kill_server()
            table.delete("key")
            # A server that was looking after its memory may have had a bucket locked: then it says so.
            events = (event for event in watch if isinstance(event, Event))
            kinds = [event.kind for event in islice(events, 1 if number % 2 else 2)]
            assert kinds == (["delete"] if number % 2 else ["set", "delete"])
        with suppress(ringtable.Timeout):
            while True:
                next(watch)
        assert table.stats()["watchers"] == 1


def _write_on(finish: Flag) -> int:
    written = 0
    with ringtable.connect() as table:
        while not finish.is_set():
            with suppress(ringtable.ServerGone):
                table[str(written % 100)] = b"value"
                written += 1
        table["last"] = b"value"
    return written


@pytest.mark.parametrize("end", ["kill", "upgrade"])
def test_a_watch_misses_nothing_or_says_so(ringtable_dir: Path, end: str) -> None:
    with KeptServer() as kept, ringtable.connect() as table, table.watch() as watch, Flag() as finish:
        # From the start of the writing on, it reads what it can, so that it is not lapped.
        seen: list[Event | Lagged] = []

        def read() -> None:
            for event in watch:
                seen.append(event)
                if event.key == b"last":
                    return

        def reaches(count: int) -> bool:
            return len(seen) >= count

        with Child(_write_on, finish) as child:
            thread = threading.Thread(target=read)
            thread.start()
            for _ in range(10):
                enough = len(seen) + 100
                wait_until(partial(reaches, enough), "it reads on")
                if end == "kill":
                    kept.kill_server()
                else:
                    os.kill(kept.pid, signal.SIGUSR2)
                    kept.wait_for_successor()
            finish.set()
            written = child.result()
            thread.join(DEADLINE_S)
        keys = [int(event.key) for event in seen if isinstance(event, Event) and event.key != b"last"]
        missed = sum(event.count for event in seen if isinstance(event, Lagged))
        # A write that was in hand at a death may be done, and is then told, or missed; the next one may be of its key.
        assert written <= len(keys) + missed <= written + 10
        jumps = sum((after - before) % 100 not in (0, 1) for before, after in pairwise(keys))
        assert jumps <= missed <= (10 if end == "kill" else 0)


def test_a_watch_goes_on_with_the_next_server_asynchronously(ringtable_dir: Path) -> None:
    async def main() -> None:
        with KeptServer() as kept, ringtable.connect() as table, table.watch() as watch:
            for number in range(5):
                waiting = asyncio.create_task(_next(watch))
                while not watch._awaited:
                    await asyncio.sleep(0)
                await asyncio.to_thread(kept.kill_server)
                await asyncio.to_thread(table.set, str(number), b"value")
                event = await waiting
                # A server that was looking after its memory may have had a bucket locked: then it says so.
                while isinstance(event, Lagged):
                    event = await _next(watch)
                assert event.key == b"%d" % number

    asyncio.run(main())


def test_a_watch_is_closed_while_it_waits_for_the_next_server(ringtable_dir: Path) -> None:
    with KeptServer() as kept, ringtable.connect() as table, table.watch() as watch:
        ended = threading.Event()

        def read() -> None:
            assert list(watch) == []
            ended.set()

        thread = threading.Thread(target=read)
        thread.start()
        wait_until(lambda: bool(watch._waiting), "it waits")
        # No server follows as long as the keeper stands.
        pid = kept.server_pid
        freeze(kept.pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_dead(pid), "the server has died")
        watch.close()
        thread.join(DEADLINE_S)
        assert ended.is_set()
        os.kill(kept.pid, signal.SIGCONT)
        table["key"] = b"value"


@contextmanager
def no_server_follows(kept: KeptServer) -> Iterator[None]:
    """The server dies, and the next one is started behind the block."""
    pid = kept.server_pid
    freeze(kept.pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_dead(pid), "the server has died")
    # Longer than a watch that always finds something goes without looking at its socket.
    time.sleep(2 * LIVENESS_CHECK_S)
    yield
    os.kill(kept.pid, signal.SIGCONT)


def test_what_is_there_is_given_though_no_server_follows(ringtable_dir: Path) -> None:
    async def given(watch: Watch) -> list[bytes]:
        return [(await anext(watch)).key for _ in range(5)]

    with KeptServer() as kept, ringtable.connect() as table, table.watch() as watch, table.watch(timeout=60) as other:
        write(table, 10)
        with no_server_follows(kept):
            assert [next(watch).key for _ in range(5)] == [key(number) for number in range(5)]
            assert asyncio.run(asyncio.wait_for(given(other), DEADLINE_S)) == [key(number) for number in range(5)]
        table["last"] = b""
        for one in (watch, other):
            assert [next(one).key for _ in range(6)] == [*map(key, range(5, 10)), b"last"]


def test_an_interrupted_watch_has_lost_nothing(ringtable_dir: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with KeptServer() as kept, ringtable.connect() as table, table.watch() as watch:
            write(table, 10)
            with no_server_follows(kept):
                got: list[bytes] = []
                signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
                with pytest.raises(Interrupted):
                    got.extend(event.key for event in watch)
                signal.setitimer(signal.ITIMER_REAL, 0)
            table["last"] = b""
            got += [next(watch).key for _ in range(11 - len(got))]
            assert got == [*map(key, range(10)), b"last"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_watch_without_time_hears_of_the_end(ringtable_dir: Path) -> None:
    with ringtable.Server() as server, ringtable.connect() as table, table.watch(timeout=0) as watch:
        with pytest.raises(ringtable.Timeout):
            next(watch)
        table["last"] = b"words"
        server.stop()
        assert next(watch).key == b"last"
        with pytest.raises(ringtable.ServerGone, match="stopped"):
            next(watch)


def test_a_table_that_does_not_reconnect_has_watches_that_do_not(ringtable_dir: Path) -> None:
    with KeptServer() as kept, ringtable.connect(reconnect=False) as table, table.watch() as watch:
        kept.kill_server()
        with pytest.raises(ringtable.ServerGone):
            next(watch)


def test_without_a_watcher_there_is_no_ring(table: Table) -> None:
    write(table, 1_000)
    before = table.stats()
    assert (before["watchers"], before["events"]) == (0, 0)
    with table.watch() as watch:
        now = table.stats()
        # Nothing else has changed meanwhile.
        assert int(before["memory_free"]) - int(now["memory_free"]) >= 4 << 20
        assert (now["watchers"], now["events"]) == (1, 0)
        write(table, 10)
        assert next(watch).key == key(0)
    wait_until(lambda: table.stats()["watchers"] == 0, "the server has noticed")
    write(table, 10)
    # One was left out, for those who come back.
    assert table.stats()["events"] == 11
    # The next one begins where it begins, with what is left of the last one.
    with table.watch() as watch:
        table["new"] = b""
        assert next(watch).key == b"new"
        assert table.stats()["events"] == 12


def test_no_memory_for_a_ring(small_server: ringtable.Server) -> None:
    with ringtable.connect() as table:
        with pytest.raises(ringtable.OutOfMemory):
            table.set_many((key(number), bytes(100_000)) for number in range(100))
        entries = len(table)
        with pytest.raises(ringtable.OutOfMemory, match="--max-memory"):
            table.watch()
        assert len(table) == entries
        assert table.stats()["watchers"] == 0
        table.clear()
        with table.watch() as watch:
            table["a"] = b"1"
            assert next(watch).key == b"a"


def test_a_watch_is_a_client(ringtable_dir: Path) -> None:
    with ringtable.Server(max_clients=2), ringtable.connect() as table:
        watch = table.watch()
        with pytest.raises(ringtable.TooManyClients):
            table.watch()
        watch.close()
        wait_until(lambda: table.stats()["clients"] == 1, "the server has noticed")
        table.watch().close()


def test_a_timeout_and_on(table: Table) -> None:
    with table.watch("a", timeout=0.05) as watch:
        for _ in range(2):
            with pytest.raises(ringtable.Timeout, match=r"0\.05 s"):
                next(watch)
        table["a"] = b"1"
        assert next(watch).key == b"a"
    with pytest.raises(ringtable.InvalidOption):
        table.watch(timeout=-1)


def test_closing(table: Table) -> None:
    watch = table.watch()
    table["a"] = b"1"
    table["b"] = b"2"
    assert next(watch).key == b"a"
    assert "open" in repr(watch)
    watch.close()
    watch.close()
    assert "closed" in repr(watch)
    assert watch.closed
    assert list(watch) == []
    wait_until(lambda: table.stats()["watchers"] == 0, "the server has noticed")
    table.close()
    with pytest.raises(ringtable.Closed):
        table.watch()


def test_closing_while_another_thread_waits(table: Table) -> None:
    watch = table.watch()
    waiting = threading.Event()
    seen: list[bytes] = []
    thread_id = 0

    def wait() -> None:
        nonlocal thread_id
        thread_id = threading.get_native_id()
        waiting.set()
        seen.extend(event.key for event in watch)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(DEADLINE_S)
    wait_until(lambda: state_of(thread_id) == "S", "it sleeps")
    watch.close()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert seen == []


def test_ctrl_c_ends_the_waiting(server_process: ServerProcess) -> None:
    def wait(waiting: Flag) -> bytes:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with ringtable.connect() as table, table.watch() as watch:
            try:
                waiting.set()
                next(watch)
            except KeyboardInterrupt:
                table["after"] = b"1"
                return next(watch).key
        return b"not interrupted"

    with Flag() as waiting, Child(wait, waiting) as child:
        waiting.wait()
        wait_until(lambda: state_of(child.pid) == "S", "it sleeps")
        os.kill(child.pid, signal.SIGINT)
        assert child.result() == b"after"


def test_a_forked_child_does_not_watch(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:

        def use() -> list[str]:
            raised: list[str] = []
            calls: list[Callable[[], object]] = [lambda: next(watch), lambda: asyncio.run(_next(watch))]
            for call in calls:
                try:
                    call()
                except ringtable.Closed as error:
                    raised.append(str(error))
            watch.close()
            # But it may watch on its own.
            with table.watch() as own:
                table["child"] = b"1"
                assert next(own).key == b"child"
            return raised

        with Child(use) as child:
            raised = child.result()
        assert len(raised) == 2
        assert "forked" in raised[0]
        assert next(watch).key == b"child"
        table["parent"] = b"1"
        assert next(watch).key == b"parent"


def test_a_forked_child_keeps_no_watch_alive(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, Flag() as finish:
        watch = table.watch()
        with Child(finish.wait) as child:
            watch.close()
            wait_until(lambda: table.stats()["watchers"] == 0, "the server has noticed")
            finish.set()
            child.result()


def test_over_a_socket_there_is_none(server: ringtable.Server) -> None:
    with Table(transport="socket") as table, pytest.raises(ringtable.InvalidOption, match=r"ringtable\.connect"):
        table.watch()


# In an event loop


async def _next(watch: Watch) -> Event | Lagged:
    return await anext(watch)


def test_asynchronously(table: Table) -> None:
    async def main() -> None:
        with table.watch() as watch:
            waiting = asyncio.create_task(_next(watch))
            # The loop goes on, and the task waits.
            while not watch._awaited:
                await asyncio.sleep(0)
            table["a"] = b"1"
            assert (await waiting).key == b"a"
            write(table, 1_000)
            keys = [(await anext(watch)).key for _ in range(1_000)]
            assert keys == [key(number % 500) for number in range(1_000)]

    asyncio.run(main())


def test_many_watches_in_one_loop(table: Table) -> None:
    async def main() -> None:
        watches = [table.watch(f"{number}:") for number in range(20)]
        tasks = [asyncio.create_task(_next(watch)) for watch in watches]
        while not all(watch._awaited for watch in watches):
            await asyncio.sleep(0)
        for number in reversed(range(20)):
            table[f"{number}:key"] = b""
        assert [(await task).key for task in tasks] == [b"%d:key" % number for number in range(20)]
        for watch in watches:
            watch.close()

    asyncio.run(main())


def test_cancelling_leaves_a_watch_usable(table: Table) -> None:
    async def main() -> None:
        with table.watch() as watch:
            for number in range(3):
                waiting = asyncio.create_task(_next(watch))
                while not watch._awaited:
                    await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                table[key(number)] = b""
                assert (await anext(watch)).key == key(number)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(watch)
            table["end"] = b""
            # In either manner.
            assert next(watch).key == b"end"

    asyncio.run(main())


def test_closing_while_a_task_waits(table: Table) -> None:
    async def main() -> None:
        for close_elsewhere in (False, True):
            watch = table.watch()

            async def keys(watch: Watch = watch) -> list[bytes]:
                return [event.key async for event in watch]

            waiting = asyncio.create_task(keys())
            while not watch._awaited:
                await asyncio.sleep(0)
            await asyncio.to_thread(watch.close) if close_elsewhere else watch.close()
            assert await waiting == []

    asyncio.run(main())
    wait_until(lambda: table.stats()["watchers"] == 0, "the server has noticed")


def test_one_task_at_a_time(table: Table) -> None:
    async def main() -> None:
        with table.watch() as watch:
            waiting = asyncio.create_task(_next(watch))
            while not watch._awaited:
                await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(watch)
            with pytest.raises(RuntimeError, match="a task waits"):
                next(watch)
            table["a"] = b""
            assert (await waiting).key == b"a"
            # Nor may a task wait beside a thread: it would keep the whole loop waiting.
            thread = asyncio.create_task(asyncio.to_thread(next, watch))
            while not watch._waiting:
                await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="or thread"):
                await anext(watch)
            table["b"] = b""
            assert (await thread).key == b"b"

    asyncio.run(main())


def test_a_timeout_and_the_servers_end_asynchronously(ringtable_dir: Path) -> None:
    async def main() -> None:
        with ringtable.Server() as server, ringtable.connect() as table, table.watch(timeout=0.05) as watch:
            with pytest.raises(ringtable.Timeout, match=r"0\.05 s"):
                await anext(watch)
            with table.watch() as endless:
                waiting = asyncio.create_task(_next(endless))
                while not endless._awaited:
                    await asyncio.sleep(0)
                await asyncio.to_thread(server.stop)
                with pytest.raises(ringtable.ServerGone):
                    await waiting

    asyncio.run(main())


def test_cancelled_when_the_server_has_gone(ringtable_dir: Path) -> None:
    async def main() -> None:
        with ringtable.Server() as server, ringtable.connect() as table, table.watch() as watch:
            waiting = asyncio.create_task(_next(watch))
            while not watch._awaited:
                await asyncio.sleep(0)
            # Both before the task has its turn.
            server.stop()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(ringtable.ServerGone):
                await anext(watch)

    asyncio.run(main())


# What no client does


def test_the_request(server: ringtable.Server) -> None:
    name, version = (word.encode() for word in watch_request())
    with RawConnection(server.path) as connection:
        assert str(connection.command(name, b"0")).startswith("VERSION ")
        # Replies to what was sent before would have to go over the socket that is silent from now on.
        connection.send(resp(name, version) + resp(b"PING"))
        assert str(connection.reply()).startswith("ERR RING.LANE, RING.RINGS and RING.WATCH have to wait")
        assert connection.reply() == b"PONG"
    with ringtable.connect() as table, pytest.raises(ringtable.CommandError, match="a connection of its own"):
        table.call(name, version)


def test_a_watcher_that_speaks_is_ended(server: ringtable.Server) -> None:
    with ringtable.connect() as table, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(socket_path("default"))
        connection.sendall(resp(*(word.encode() for word in watch_request())))
        reply, descriptors, _, _ = socket.recv_fds(connection, 256, 8)
        for descriptor in descriptors:
            os.close(descriptor)
        assert reply == b"+WATCH 0 0\r\n"
        assert len(descriptors) == 3
        connection.sendall(b"PING\r\n")
        assert connection.recv(256) == b"-PROTOCOL bytes on a socket that is but a sign of life\r\n"
        wait_until(lambda: table.stats()["watchers"] == 0, "the server has noticed")
        assert table.stats()["clients_ended_protocol"] == 1
