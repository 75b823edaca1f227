"""Tables inside of a Python process: signal handlers, finalizers, the interpreter's end, threads, subinterpreters."""

import gc
import os
import signal
import textwrap
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Table
from ringtable._ringtable import Histogram
from support import (
    DEADLINE_S,
    Child,
    Flag,
    ServerProcess,
    own_ringtable_memory,
    run_script,
    signal_while_blocked,
    state_of,
    wait_until,
)

THREADS = 8
ROUNDS = 200

# In a script of its own.
FREEZE = f"__import__('sys').path.insert(0, {str(Path(__file__).parent)!r}) or __import__('support').freeze"

transports = pytest.mark.parametrize("transport", ["lane", "socket"])
Call = Callable[[Table], object]


def test_smoke(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
    assert run_script("import ringtable; print(ringtable.connect()['key'])") == ("b'value'\n", "")


# Signal handlers in the middle of a call


def in_a_call(server: ServerProcess, handler: Call, call: Call, transport: Any = "lane") -> list[object]:
    """What a handler comes to that runs in the middle of a call, what the call comes to, and the next one."""

    def outcome(work: Call, table: Table) -> object:
        try:
            return work(table)
        except ringtable.Error as error:
            return type(error).__name__

    def child(blocking: Flag, handled: Flag) -> list[object]:
        outcomes: list[object] = []

        def handle(*_: object) -> None:
            outcomes.append(outcome(handler, table))
            handled.set()

        signal.signal(signal.SIGUSR1, handle)
        with Table(transport=transport) as table:
            table["key"] = b"value"
            server.freeze()
            blocking.set()
            outcomes.append(outcome(call, table))
            outcomes.append(outcome(lambda table: table.incr("after"), table))
        return outcomes

    with Flag() as blocking, Flag() as handled, Child(child, blocking, handled) as process:
        signal_while_blocked(process, blocking, handled, server)
        outcomes: list[object] = process.result()
        return outcomes


CALLS: dict[str, Call] = {
    "incr": lambda table: table.incr("count"),
    "set": lambda table: table.set("other", b"value"),
    "posted set": lambda table: table.set("other", b"value", writes="posted"),
    "delete": lambda table: table.delete("other"),
    "flush": lambda table: table.flush(),
    "clear": lambda table: table.clear(),
    "stats": lambda table: table.stats(),
    "pipeline": lambda table: table.pipeline().incr("count").execute(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_a_handler_cannot_call_what_it_interrupts(server_process: ServerProcess, call: Call) -> None:
    """It would wait for itself. It hears so at once, and the call that it interrupts goes on."""
    assert in_a_call(server_process, call, CALLS["incr"]) == ["Reentrant", 1, 1]


def test_a_handler_cannot_call_over_the_same_socket(server_process: ServerProcess) -> None:
    assert in_a_call(server_process, CALLS["incr"], CALLS["incr"], "socket") == ["Reentrant", 1, 1]


def test_a_handler_may_read_in_place(server_process: ServerProcess) -> None:
    def read(table: Table) -> object:
        return [table["key"], "key" in table, len(table), table.get_many(["key"])]

    assert in_a_call(server_process, read, CALLS["incr"]) == [[b"value", True, 1, [b"value"]], 1, 1]


@transports
def test_a_handler_may_close_the_table(server_process: ServerProcess, transport: Any) -> None:
    def call(table: Table) -> object:
        try:
            return table.incr("count")
        finally:
            # What the handler could not let go of, the call did.
            assert own_ringtable_memory() == []

    outcomes = in_a_call(server_process, lambda table: table.close(), call, transport)
    # An answer that comes meanwhile is one.
    assert outcomes in ([None, "Closed", "Closed"], [None, 1, "Closed"])


def test_a_handler_may_close_the_watch(server_process: ServerProcess) -> None:
    def child(blocking: Flag) -> list[object]:
        seen: list[object] = []

        def handle(*_: object) -> None:
            try:
                next(watch)
            except ringtable.Reentrant:
                seen.append("reentrant")
            watch.close()

        signal.signal(signal.SIGUSR1, handle)
        with ringtable.connect() as table:
            watch = table.watch()
        blocking.set()
        seen.append(list(watch))
        seen.append(own_ringtable_memory())
        return seen

    with Flag() as blocking, Child(child, blocking) as process:
        blocking.wait()
        wait_until(lambda: state_of(process.pid) == "S", "it waits for an event")
        os.kill(process.pid, signal.SIGUSR1)
        assert process.result() == ["reentrant", [], []]


def test_a_handler_may_use_another_table(server_process: ServerProcess) -> None:
    def child(blocking: Flag) -> list[object]:
        seen: list[object] = []
        with ringtable.connect() as table, ringtable.connect() as other, table.watch() as watch:
            signal.signal(signal.SIGUSR1, lambda *_: seen.append(other.incr("count")))
            blocking.set()
            seen.append(next(watch).key)
        return seen

    with Flag() as blocking, Child(child, blocking) as process:
        blocking.wait()
        wait_until(lambda: state_of(process.pid) == "S", "it waits for an event")
        os.kill(process.pid, signal.SIGUSR1)
        assert process.result() == [1, b"count"]


# Ctrl-C in each kind of wait


def post_until_full(table: Table) -> None:
    while True:
        table.set("key", bytes(1_000), writes="posted")


def post_and_flush(table: Table) -> None:
    table.set("key", b"value", writes="posted")
    table.flush()


def wait_for_a_turn(table: Table) -> None:
    thread = threading.Thread(target=lambda: table.incr("count"), daemon=True)
    thread.start()
    wait_until(lambda: thread.native_id and state_of(thread.native_id) == "S", "the thread is inside")
    table.incr("count")


WAITS: dict[str, Call] = {
    "a reply": lambda table: table.incr("count"),
    "room": post_until_full,
    "room for a large value": lambda table: table.set("large", bytes(8 << 20)),
    "many replies": lambda table: table.set_many((f"key {index}", bytes(1_000)) for index in range(1_000)),
    "room for many large values": lambda table: table.set_many((f"key {index}", bytes(1 << 20)) for index in range(64)),
    "posted writes": post_and_flush,
    "a posted write that is read": lambda table: table.set("key", b"value", writes="posted") and table["key"],
    "a pipeline": lambda table: table.pipeline().incr("count").execute(),
    "a turn": wait_for_a_turn,
    "a lease": lambda table: table.get_or_set("absent", lambda: b"value"),
    "a connection": lambda table: Table(),
    "an update": lambda table: table.update("count", lambda value: b"new"),
}
OVER_A_SOCKET = [
    (name, "socket")
    for name in ("room", "room for a large value", "room for many large values", "many replies", "a lease")
]


@pytest.mark.parametrize(("wait", "transport"), [*((name, "lane") for name in WAITS), *OVER_A_SOCKET])
def test_ctrl_c_ends_a_wait_for(server_process: ServerProcess, wait: str, transport: Any) -> None:
    def child(blocking: Flag) -> list[object]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Table(transport=transport) as table:
            server_process.freeze()
            blocking.set()
            try:
                WAITS[wait](table)
            except KeyboardInterrupt:
                # The table is in order. (Not by `signal`: the server is no child of this process.)
                os.kill(server_process.pid, signal.SIGCONT)
                return ["interrupted", table.incr("after"), table.incr("after")]
        return ["not interrupted"]

    with Flag() as blocking, Child(child, blocking) as process:
        try:
            blocking.wait()
            wait_until(lambda: state_of(process.pid) == "S", "it is blocked")
            os.kill(process.pid, signal.SIGINT)
            assert process.result() == ["interrupted", 1, 2]
        finally:
            server_process.signal(signal.SIGCONT)


@pytest.mark.parametrize("transport", ["lane", "socket"])
def test_ctrl_c_ends_the_writing_of_what_was_computed(server_process: ServerProcess, transport: Any) -> None:
    """One signal was used up by the wait for the write, and the wait for giving the lease back went on."""

    def child(blocking: Flag) -> list[object]:
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def make() -> bytes:
            server_process.freeze()
            blocking.set()
            return b"value"

        with Table(transport=transport) as table:
            try:
                table.get_or_set("key", make)
            except KeyboardInterrupt:
                os.kill(server_process.pid, signal.SIGCONT)
                return ["interrupted", table.incr("after"), table.stats()["leases"]]
        return ["not interrupted"]

    with Flag() as blocking, Child(child, blocking) as process:
        try:
            blocking.wait()
            wait_until(lambda: state_of(process.pid) == "S", "it is blocked")
            os.kill(process.pid, signal.SIGINT)
            assert process.result() == ["interrupted", 1, 0]
        finally:
            server_process.signal(signal.SIGCONT)


def test_a_walk_among_empty_buckets_has_steps(ringtable_dir: Path) -> None:
    """It was one step, without looking at signals or time, however many buckets there are."""
    with ringtable.Server(workers=1, max_memory="512MiB", buckets=1 << 22), Table() as table:
        cursor, keys = table.scan()
        assert (cursor > 0, keys) == (True, [])
        table.set_many((f"key {index}", b"") for index in range(100))
        assert len(set(table)) == 100


def test_a_walk_that_finds_nothing_times_out(server: ringtable.Server) -> None:
    class Empty(Table):
        def scan(self, cursor: int = 0, *, prefix: str | bytes = b"") -> tuple[int, list[Any]]:
            return cursor + 1, []

    with Empty(timeout=0.2, lazy=True) as table, pytest.raises(ringtable.Timeout, match="goes on from here"):
        next(iter(table))


# Finalizers, and the interpreter's end


def test_a_view_outlives_its_table(server_process: ServerProcess) -> None:
    class Cycle(Table):
        itself: object

    table = Cycle()
    table["key"] = b"value" * 1_000
    view, gone = table.view("key"), weakref.ref(table)
    buffer = memoryview(view)
    # Which only the collector takes apart.
    table.itself = table
    del table
    gc.collect()
    assert gone() is None
    with ringtable.connect() as other:
        other["key"] = b"other"
        assert buffer.tobytes() == b"value" * 1_000
        del view
        assert buffer.tobytes() == b"value" * 1_000
        buffer.release()
        wait_until(lambda: other.stats()["clients"] == 1, "the view was the last of the table")


AT_THE_END = {
    "atexit": "import atexit; atexit.register(lambda: table.incr('count'))",
    "a global's finalizer": """
        class Last:
            def __del__(self, table=table):
                table.incr('count')

        last = Last()
        """,
    "a cycle's finalizer": """
        class Last:
            def __del__(self, table=table):
                table.incr('count')

        last = Last()
        last.itself = last
        """,
    "all that is open": """
        table.incr('count')
        view, walk, pipeline = table.view('count'), iter(table), table.pipeline().incr('count', 10)
        watch = table.watch() if table.transport == 'lane' else None
        buffer = memoryview(view)
        table.set('posted', b'value', writes='posted')
        """,
    "the end of a thread": """
        import sys, threading

        threading.Thread(target=lambda: (table.incr('count'), sys.exit(3))).start()
        """,
}


@transports
@pytest.mark.parametrize("way", AT_THE_END)
def test_at_the_interpreters_end(server_process: ServerProcess, way: str, transport: str) -> None:
    before = f"import ringtable\ntable = ringtable.Table(transport={transport!r})\n"
    assert run_script(before + textwrap.dedent(AT_THE_END[way])) == ("", "")
    with ringtable.connect() as table:
        assert table["count"] == b"1"
        wait_until(lambda: table.stats()["clients"] == 1, "it is gone")


# What daemon threads are in the middle of when the interpreter ends, and whether the server stands still meanwhile.
DAEMONS: dict[str, tuple[bool, str]] = {
    "calls": (False, "while True: table.incr('count')"),
    "direct reads": (False, "while True: table.get('key')"),
    "large direct reads": (False, "while True: table.get('large')"),
    "posted writes": (False, "while True: table.set('key', b'value', writes='posted')"),
    "views": (False, "while True: bytes(table.view('key', copy_ok=True))"),
    "a watch": (False, "next(table.watch('nothing'))"),
    "leases": (False, "while True: table.get_or_set('leased', lambda: b'', 0.001)"),
    "connecting": (False, "while True: ringtable.connect().close()"),
    "a reply": (True, "table.incr('count')"),
    "room": (True, "while True: table.set('key', bytes(1000), writes='posted')"),
    "a connection": (True, "ringtable.connect()"),
}


@pytest.mark.parametrize("daemon", DAEMONS)
def test_daemon_threads_at_the_interpreters_end(server_process: ServerProcess, daemon: str) -> None:
    """The program ends well, and soon, also if its end closes the table that the threads are inside of."""
    frozen, work = DAEMONS[daemon]
    script = f"""
        import builtins, threading, time
        import ringtable

        table = ringtable.connect()
        table["key"], table["large"] = b"value", bytes(1 << 20)
        begun = threading.Semaphore(0)

        def work():
            begun.release()
            try:
                {work}
            except ringtable.Closed:
                pass

        class Last:
            # While the interpreter takes itself apart.
            def __del__(self, table=table):
                table.close()

        # The thread keeps its own globals alive.
        builtins.last = Last()
        if {frozen}:
            {FREEZE}({server_process.pid})
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
            begun.acquire()
        # Not to wait for anything: the end may come at any moment.
        time.sleep(0.05)
        """
    try:
        assert run_script(script) == ("", "")
    finally:
        server_process.signal(signal.SIGCONT)
    with ringtable.connect() as table:
        wait_until(lambda: table.stats()["clients"] == 1, "it is gone")


def test_a_daemon_thread_keeps_no_lock_at_the_end(server_process: ServerProcess) -> None:
    """What takes itself apart may call the table that a thread was inside of, and that never comes out of it."""
    script = f"""
        import builtins, os, signal, threading, time
        import ringtable

        table = ringtable.connect()
        inside = threading.Event()

        def work():
            inside.set()
            table.incr("count")

        class Last:
            def __del__(self, table=table, sleep=time.sleep, kill=os.kill, number=signal.SIGCONT):
                # Time for the thread to look whether it was interrupted, as it does several times a second.
                sleep(0.5)
                kill({server_process.pid}, number)
                table.incr("after")

        # The thread keeps its own globals alive.
        builtins.last = Last()
        {FREEZE}({server_process.pid})
        threading.Thread(target=work, daemon=True).start()
        inside.wait()
        time.sleep(0.05)
        """
    try:
        assert run_script(script) == ("", "")
    finally:
        server_process.signal(signal.SIGCONT)
    with ringtable.connect() as table:
        assert table["after"] == b"1"


def test_a_server_that_nobody_stops(ringtable_dir: object) -> None:
    assert run_script("import ringtable; server = ringtable.Server(); table = ringtable.connect()") == ("", "")
    with pytest.raises(ringtable.TableNotFound):
        ringtable.connect()


# Threads that share one object


def at_once(work: Callable[[int], object]) -> list[Any]:
    """What threads return that all begin at the same time."""
    begin = threading.Barrier(THREADS)

    def begun(number: int) -> object:
        begin.wait(DEADLINE_S)
        return work(number)

    with ThreadPoolExecutor(THREADS) as threads:
        return [thread.result() for thread in [threads.submit(begun, number) for number in range(THREADS)]]


def test_one_table(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:

        def work(number: int) -> None:
            key = f"key {number}"
            for index in range(ROUNDS):
                value = b"%d" % index * 100
                table[key] = value
                assert table[key] == value
                table.incr("count")
                table.set("shared", b"%d" % number * 1_000, writes="posted")
                assert table["shared"] in [b"%d" % other * 1_000 for other in range(THREADS)]
                table.update("updated", lambda value: b"%d" % (int(value or 0) + 1), retries=10_000)
                assert table.get_many([key, "missing"]) == [value, None]

        at_once(work)
        assert table["count"] == table["updated"] == b"%d" % (THREADS * ROUNDS)


def test_one_view(server_process: ServerProcess) -> None:
    """Buffers come and go while somebody tries to close it."""
    with ringtable.connect() as table:
        table["key"] = b"value" * 1_000
        for _ in range(20):
            view = table.view("key")

            def work(number: int, view: ringtable.View = view) -> None:
                for _ in range(ROUNDS // 10):
                    try:
                        if number == 0:
                            return view.close()
                        with memoryview(view) as buffer:
                            assert buffer[:5].tobytes() == b"value"
                        assert bytes(view) == b"value" * 1_000
                    except (BufferError, ringtable.Closed):
                        pass
                return None

            at_once(work)
            view.close()
            table["key"] = b"value" * 1_000
        wait_until(lambda: table.stats()["entries_retired"] == 0, "nobody keeps them any more")


def test_many_views(server_process: ServerProcess) -> None:
    """All pins of the connection are taken and given back by all threads."""
    with ringtable.connect() as table:
        for number in range(THREADS):
            table[f"key {number}"] = b"%d" % number * 1_000

        def work(number: int) -> None:
            for _ in range(ROUNDS):
                views = [table.view(f"key {(number + other) % THREADS}") for other in range(6)]
                for other, view in enumerate(views):
                    assert bytes(view) == b"%d" % ((number + other) % THREADS) * 1_000
                    view.close()
                table[f"key {number}"] = b"%d" % number * 1_000

        at_once(work)


def test_one_watch(server_process: ServerProcess) -> None:
    """Each event goes to one of them."""
    with ringtable.connect() as table, table.watch("key", timeout=DEADLINE_S) as watch:

        def work(number: int) -> list[bytes]:
            if number == 0:
                for index in range(ROUNDS):
                    table[f"key {index}"] = b"value"
                for _ in range(THREADS - 1):
                    table.incr("key end")
                return []
            seen: list[bytes] = []
            while (event := next(watch)).key != b"key end":
                assert event.kind == "set"
                seen.append(event.key)
            return seen

        seen = [key for keys in at_once(work) for key in keys]
        assert sorted(seen) == sorted(b"key %d" % index for index in range(ROUNDS))


def test_one_histogram() -> None:
    histogram = Histogram()

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            histogram.record(number + 1)
            histogram.percentile(50.0)

    at_once(work)
    assert histogram.count == THREADS * ROUNDS


def test_one_table_is_closed_by_all(server_process: ServerProcess) -> None:
    for _ in range(20):
        table = ringtable.connect()
        table["key"] = bytes(100_000)
        view = table.view("key")

        def work(number: int, table: Table = table, view: ringtable.View = view) -> None:
            try:
                while number % 2:
                    table.get("key")
                    table.incr("count")
                table.close()
                view.close()
            except ringtable.Closed:
                pass

        at_once(work)
        assert own_ringtable_memory() == []


# Other interpreters in the process


def test_another_interpreter_is_refused(server_process: ServerProcess) -> None:
    """And the main one goes on."""
    script = """
        import ringtable

        try:
            import _interpreters as interpreters  # from Python 3.13 on
        except ImportError:
            import _xxsubinterpreters as interpreters

        REFUSED = '''if True:
            try:
                import ringtable
            except ImportError as error:
                assert "subinterpreters" in str(error), error
            else:
                raise AssertionError("imported")
            '''
        table = ringtable.connect()
        other = interpreters.create()
        failure = interpreters.run_string(other, REFUSED)
        assert failure is None, failure
        interpreters.destroy(other)
        assert table.incr("count") == 1
        """
    assert run_script(script) == ("", "")
    with ringtable.connect() as table:
        assert table["count"] == b"1"
