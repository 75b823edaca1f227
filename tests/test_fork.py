"""Fork, spawn, pickle: what a child has of the table that its parent opened, and what it has not."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table
from support import (
    DEADLINE_S,
    Child,
    Flag,
    ServerProcess,
    connect_in,
    memfds,
    own_ringtable_memory,
    run_script,
    signal_while_blocked,
    wait_until,
)

ROUNDS = 2_000
CHILDREN = 8
CROWD = 50
THREADS = 4

# A process with threads that forks is what this is about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

OPTIONS: list[dict[str, Any]] = [
    {"transport": "lane"},
    {"transport": "lane", "reads": "server"},
    {"transport": "lane", "writes": "posted"},
    {"transport": "socket"},
]
options = pytest.mark.parametrize("options", OPTIONS)


def test_smoke(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        table["from"] = b"the parent"
        assert Child(lambda: table["from"]).result() == b"the parent"


@options
def test_a_table_works_in_parent_and_child(server_process: ServerProcess, options: dict[str, Any]) -> None:
    with Table(**options) as table:
        table["key"] = b"parent"

        def use() -> list[bytes | None]:
            seen = table.get("key")
            for index in range(ROUNDS):
                table[f"child {index}"] = b"%d" % index
            table.flush()
            return [seen, *table.get_many(f"child {index}" for index in range(ROUNDS))]

        with Child(use) as child:
            for index in range(ROUNDS):
                table[f"parent {index}"] = b"%d" % index
                assert table[f"parent {index}"] == b"%d" % index
            assert child.result() == [b"parent", *(b"%d" % index for index in range(ROUNDS))]
        table.flush()
        assert len(table) == 2 * ROUNDS + 1


def test_a_child_does_not_keep_its_parents_connection_open(server_process: ServerProcess) -> None:
    with ringtable.connect() as observer, Flag() as connected, Flag() as forked, Flag() as finish:
        clients = int(observer.stats()["clients"])

        def parent() -> None:
            with ringtable.connect():
                connected.set()
                fork_and_wait()

        def fork_and_wait() -> None:
            # The grandchild never touches the table that it inherits, and stays while its parent dies.
            if os.fork() == 0:
                forked.set()
                finish.wait()
                os._exit(0)
            finish.wait()

        child = Child(parent)
        connected.wait()
        forked.wait()
        wait_until(lambda: observer.stats()["clients"] == clients + 1, "only the parent is connected")
        child.kill()
        wait_until(lambda: observer.stats()["clients"] == clients, "the parent is counted gone, though its child lives")
        finish.set()


def test_a_grandchild(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:

        def use() -> int:
            table.incr("count")
            child: int = Child(lambda: table.incr("count")).result()
            return child + table.incr("count")

        assert Child(use).result() == 2 + 3
        assert table.incr("count") == 4


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_does_not_keep_its_parents_server_alive(ringtable_dir: object) -> None:
    with Flag() as finish:
        with Server(), ringtable.connect() as table:
            table["key"] = b"value"
            child = Child(finish.wait)
            # A client of another process, which has to notice the end.
            with Flag() as connected:
                client = Child(_use_until_gone, connected)
                connected.wait()
        with pytest.raises(ringtable.TableNotFound):
            ringtable.connect()
        assert client.result() < 1.0
        with Server(), ringtable.connect() as table:
            assert len(table) == 0
        finish.set()
        child.result()


def _use_until_gone(connected: Flag) -> float:
    """Wait for the server's end, and return the longest time in seconds that a call took."""
    slowest = 0.0
    with ringtable.connect() as table:
        connected.set()
        while True:
            start = time.monotonic()
            try:
                table["other"] = b"value"
            except ringtable.ServerGone:
                return max(slowest, time.monotonic() - start)
            slowest = max(slowest, time.monotonic() - start)


def test_a_killed_servers_child_does_not_keep_its_door_open(ringtable_dir: object) -> None:
    """A listening socket that a child inherited would accept connections that nobody ever answers."""
    script = (
        "import os, signal, sys, ringtable\n"
        "server = ringtable.Server()\n"
        "child = os.fork()\n"
        "if child:\n"
        "    print(child, flush=True)\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        with ringtable.connect(timeout=5.0) as table:
            table["key"] = b"value"
        parent.kill()
        parent.wait(5.0)
        with pytest.raises(ringtable.TableNotFound):
            ringtable.connect(timeout=5.0)
        # The next server finds the dead one's socket, replaces it, and takes its own away when it stops.
        with Server(), ringtable.connect(timeout=5.0) as table:
            assert "key" not in table
    finally:
        parent.kill()
        os.kill(child, signal.SIGKILL)
        parent.wait(5.0)
        parent.stdout.close()


def test_a_child_that_ends_as_any_program(server_process: ServerProcess) -> None:
    """Not by `os._exit`: all that it has inherited is taken apart, too."""
    script = """
        import os, ringtable
        table = ringtable.connect()
        table["key"] = b"value"
        view, watch, pipeline = table.view("key"), table.watch(), table.pipeline()
        buffer = memoryview(view)
        pid = os.fork()
        table.incr("parents" if pid else "children")
        pipeline.incr("pipelines").execute()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            assert next(watch).key in (b"parents", b"children")
            assert bytes(view) == b"value"
        """
    assert run_script(script) == ("", "")
    with ringtable.connect() as table:
        assert table.get_many(["parents", "children", "pipelines"]) == [b"1", b"1", b"2"]


# What is under way at the fork


def test_a_pipeline_is_copied(server_process: ServerProcess) -> None:
    """What was recorded is executed by whoever executes it: by both, if both do."""
    with ringtable.connect() as table, table.pipeline() as pipeline:
        pipeline.incr("count", 10).get("count")
        assert Child(pipeline.execute).result() == [10, b"10"]
        assert pipeline.execute() == [20, b"20"]


def test_posted_writes_are_the_parents(ringtable_dir: Path) -> None:
    """The child neither sends them again, nor waits for them, nor hears of their errors."""
    with ServerProcess("--max-memory", "4MiB") as server, ringtable.connect() as table:
        server.freeze()
        for index in range(100):
            table.set(f"posted {index}", b"%d" % index, writes="posted")

        def use() -> int:
            table.flush()
            return table.incr("count")

        with Child(use) as child:
            server.signal(signal.SIGCONT)
            assert child.result() == 1
        table.flush()
        assert table.get_many(f"posted {index}" for index in range(100)) == [b"%d" % index for index in range(100)]


def test_the_error_of_a_posted_write_is_the_parents(ringtable_dir: Path) -> None:
    with ServerProcess("--max-memory", "4MiB"), ringtable.connect() as table:
        table.set("key", bytes(8 << 20), writes="posted")
        assert Child(table.flush).result() is None
        with pytest.raises(ringtable.OutOfMemory):
            table.flush()


def test_a_walk_goes_on_in_both(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        table.set_many((f"key {index}", b"value") for index in range(ROUNDS))
        walk = iter(table)
        seen = [next(walk) for _ in range(10)]
        theirs = Child(lambda: list(walk)).result()
        assert (
            sorted(seen + theirs) == sorted(seen + list(walk)) == sorted(b"key %d" % index for index in range(ROUNDS))
        )


def test_an_update_goes_on_in_both(server_process: ServerProcess) -> None:
    """The function forks: both processes come out of it with what they made of the same value, and none is lost."""
    with ringtable.connect() as table:
        pids: list[int] = []

        def add(value: bytes | None) -> bytes:
            if not pids:
                pids.append(os.fork())
            return b"%d" % (int(value or 0) + 1)

        table["count"] = b"40"
        try:
            updated = table.update("count", add)
        finally:
            if pids == [0]:
                os._exit(0)
        assert os.waitpid(pids[0], 0)[1] == 0
        assert updated in (b"41", b"42")
        assert table["count"] == b"42"


def test_a_lease_is_the_parents(server_process: ServerProcess) -> None:
    def compute() -> bytes:
        def use() -> list[object]:
            # A child that wants the value waits for its parent's, as anybody does.
            with pytest.raises(ringtable.Timeout):
                waits.get_or_set("key", lambda: b"the child's")
            return [table.call("RING.LEASE", "key"), table.call("RING.UNLEASE", "key", 1), table.get("key")]

        assert Child(use).result() == [0, 0, None]
        assert table.stats()["leases"] == 1
        return b"the parent's"

    with ringtable.connect() as table, connect_in(0.2) as waits:
        assert table.get_or_set("key", compute) == b"the parent's"
        assert table.stats()["leases"] == 0


def test_a_child_does_not_keep_its_parents_lease(server_process: ServerProcess) -> None:
    with ringtable.connect() as observer, Flag() as computing, Flag() as finish:

        def parent() -> bytes:
            with ringtable.connect() as table:
                return table.get_or_set("key", compute)

        def compute() -> bytes:
            # The grandchild lives on.
            if os.fork() == 0:
                computing.set()
                finish.wait()
                os._exit(0)
            finish.wait()
            return b"never"

        with Child(parent) as child:
            computing.wait()
            assert observer.stats()["leases"] == 1
            child.kill()
            assert observer.get_or_set("key", lambda: b"ours") == b"ours"
        finish.set()


def test_what_a_child_forgets_stays_its_parents(server_process: ServerProcess) -> None:
    """A child that lets go of all that it has inherited lets go of nothing of its parent's."""
    with ringtable.connect() as table:
        table["key"] = b"value" * 1_000
        things: list[Any] = [table.view("key"), table.watch(), table.pipeline(), ringtable.connect(), iter(table)]

        def forget() -> list[str]:
            things.clear()
            table.close()
            gc.collect()
            return own_ringtable_memory()

        clients = table.stats()["clients"]
        left = Child(forget).result()
        # The mapping that buffers made by the parent may point into.
        assert all("ringtable-table" in line for line in left)
        table["key"] = b"another"
        for index in range(100):
            table[f"key {index}"] = b"other" * 1_000
        assert bytes(things[0]) == b"value" * 1_000
        assert next(things[1]).key == b"key"
        assert things[3]["key"] == b"another"
        assert table.stats()["clients"] == clients
        for thing in things[:2] + things[3:4]:
            thing.close()


def post_and_flush(table: Table) -> None:
    table.set("key", b"value", writes="posted")
    table.flush()


BLOCKED: dict[str, Callable[[Table], object]] = {
    "incr": lambda table: table.incr("count"),
    "large value": lambda table: table.set("large", bytes(1 << 20)),
    "many values": lambda table: table.set_many((f"many {index}", bytes(1_000)) for index in range(1_000)),
    "get_or_set": lambda table: table.get_or_set("key", lambda: b"value"),
    "pipeline": lambda table: table.pipeline().incr("count").execute(),
    "connecting": lambda table: Table(transport="socket").incr("count"),
    "flush": post_and_flush,
}


@pytest.mark.parametrize(
    ("blocked", "transport"),
    [*((name, "lane") for name in BLOCKED), ("incr", "socket"), ("many values", "socket")],
)
def test_a_signal_handler_forks(server_process: ServerProcess, blocked: str, transport: Any) -> None:
    """The child comes back to the middle of a call that is its parent's alone, and of which it has nothing."""

    def call(blocking: Flag, ended: Flag) -> list[object]:
        pids: list[int] = []
        read_end, write_end = os.pipe()
        signal.signal(signal.SIGUSR1, lambda *_: pids.append(os.fork()))
        with Table(transport=transport) as table:
            server_process.freeze()
            blocking.set()
            try:
                BLOCKED[blocked](table)
                outcome = "returned"
            except ringtable.Error as error:
                outcome = str(error)
            if pids == [0]:
                os.write(write_end, outcome.encode())
                ended.set()
                os._exit(0)
            status = os.waitpid(pids[0], 0)[1]
            return [status, os.read(read_end, 1_000).decode(), outcome, table.incr("after")]

    with Flag() as blocking, Flag() as ended, Child(call, blocking, ended) as child:
        signal_while_blocked(child, blocking, ended, server_process)
        status, theirs, ours, after = child.result()
        assert (status, ours, after) == (0, "returned", 1)
        assert "forked from" in theirs


def test_a_signal_handler_forks_a_child_that_exits(server_process: ServerProcess) -> None:
    """By an exception through the call that it is in the middle of, and through all that a program does at its end."""
    script = f"""
        import os, signal, sys

        import ringtable

        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from support import freeze

        def handle(*_):
            pid = os.fork()
            if pid == 0:
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            os.kill({server_process.pid}, signal.SIGCONT)

        with ringtable.connect() as table:
            table["key"] = b"value"
            with table.view("key") as view:
                freeze({server_process.pid})
                signal.signal(signal.SIGALRM, handle)
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                table.set_many((f"key {{index}}", bytes(1_000)) for index in range(1_000))
                assert table.incr("count") == 1
                assert bytes(view) == b"value"
        """
    try:
        assert run_script(script) == ("", "")
    finally:
        server_process.signal(signal.SIGCONT)


# Threads that are inside at the fork


@contextmanager
def threads(work: Callable[[], object]) -> Iterator[None]:
    """Threads that do the same thing again and again."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()

    with ThreadPoolExecutor(THREADS) as pool:
        done = [pool.submit(run) for _ in range(THREADS)]
        try:
            yield
        finally:
            stop.set()
        for thread in done:
            thread.result()


def churn(table: Table) -> None:
    table.incr("theirs")
    table["key"] = bytes(100)


def churn_posted(table: Table) -> None:
    for _ in range(100):
        table.set("key", bytes(100), writes="posted")
    table.flush()


def make_views(table: Table) -> None:
    with table.view("large") as view:
        bytes(view)


BESIDE: dict[str, Callable[[Table], object]] = {
    "calls": churn,
    "posted writes": churn_posted,
    "direct reads": lambda table: table.get("key"),
    "large direct reads": lambda table: table.get("large"),
    "views": make_views,
    "connecting": lambda table: Table().close(),
    "pipelines": lambda table: table.pipeline().incr("theirs").get("large").execute(),
    "large writes": lambda table: table.set("key", bytes(300_000)),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=list(BESIDE))
def test_threads_are_in_the_middle_of(server_process: ServerProcess, beside: Callable[[Table], object]) -> None:
    """The child has none of them, only what they hold; it uses the same table at once."""
    with ringtable.connect() as table:
        table.update({"key": b"value", "large": bytes(1 << 20)})

        def use() -> int:
            assert table["large"] == bytes(1 << 20)
            with table.view("large") as view:
                assert bytes(view) == bytes(1 << 20)
            return table.incr("count")

        with threads(lambda: beside(table)):
            seen = sorted(Child(use).result() for _ in range(CHILDREN))
        assert seen == list(range(1, CHILDREN + 1))
        # The parent's calls go on as if nothing had been.
        beside(table)
        assert table.incr("count") == CHILDREN + 1


def test_threads_wait_in_a_call(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, ThreadPoolExecutor(THREADS) as pool:
        server_process.freeze()
        # One of them is inside, the others wait for their turn.
        done = [pool.submit(table.incr, "count") for _ in range(THREADS)]

        def use() -> int:
            started.set()
            return table.incr("child")

        with Flag() as started, Child(use) as child:
            started.wait()
            server_process.signal(signal.SIGCONT)
            assert child.result() == 1
        assert sorted(thread.result() for thread in done) == list(range(1, THREADS + 1))


def test_a_thread_forks(server_process: ServerProcess) -> None:
    """Any thread may fork; in its child it is the main one."""

    def fork() -> int:
        count: int = Child(table.incr, "count").result()
        return count

    with ringtable.connect() as table, threads(lambda: churn(table)), ThreadPoolExecutor(THREADS) as pool:
        done = [pool.submit(fork) for _ in range(CHILDREN)]
        assert sorted(thread.result() for thread in done) == list(range(1, CHILDREN + 1))


def test_a_child_becomes_another_program(server_process: ServerProcess) -> None:
    script = "import ringtable, sys; table = ringtable.connect(); table.incr('count'); assert sys.argv[1] in table"
    with ringtable.connect() as table, threads(lambda: churn(table)):
        table["key"] = b"value"
        view = table.view("key")
        pids = []
        for _ in range(THREADS):
            pid = os.fork()
            if pid == 0:
                os.execv(sys.executable, [sys.executable, "-c", script, "key"])
            pids.append(pid)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        assert table.incr("count") == THREADS + 1
        # What has no fork in between, either.
        subprocess.run([sys.executable, "-c", script, "key"], check=True, timeout=DEADLINE_S)
        assert bytes(view) == bytes(view)
        view.close()


def test_another_program_inherits_nothing(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, table.watch():
        table["key"] = b"value"
        with table.view("key"), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as program:
            wait_until(lambda: "python" in os.readlink(f"/proc/{program.pid}/exe"), "it has become another program")
            assert memfds(program.pid, "ringtable") == []
            assert program.stdin is not None
            program.stdin.write(b"\n")


# Many


def test_a_crowd_of_children(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, Flag() as start:

        def use() -> int:
            start.wait()
            table[f"child {os.getpid()}"] = b"here"
            return table.incr("count")

        children = [Child(use) for _ in range(CROWD)]
        start.set()
        assert sorted(child.result() for child in children) == list(range(1, CROWD + 1))
        assert len(table) == CROWD + 1
        wait_until(lambda: table.stats()["clients"] == 1, "they are gone")


def test_generations(server_process: ServerProcess) -> None:
    """Each process uses the table before and after the fork of its children."""
    with ringtable.connect() as table:

        def use(generation: int) -> None:
            table.incr("count")
            children = [Child(use, generation - 1) for _ in range(3)] if generation else []
            table.incr("count")
            for child in children:
                child.result()

        Child(use, 3).result()
        assert int(table["count"]) == 2 * (1 + 3 + 9 + 27)


# multiprocessing


def test_a_pickle_is_an_address(server_process: ServerProcess) -> None:
    with ringtable.connect(timeout=5, reads="server", writes="posted") as table:
        data = pickle.dumps(table)
    with pickle.loads(data) as copy:
        assert (copy.timeout, copy.reads, copy.writes) == (5, "server", "posted")
        assert copy.call("PING") == b"PONG"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(server_process: ServerProcess, ringtable_dir: Path, method: str) -> None:
    """Tables as arguments, from an initializer, and inherited. A program of its own: what it spawns imports it."""
    script = ringtable_dir / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, script, method], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


PROGRAM = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import ringtable

ROUNDS = 100


def count(table, key):
    for _ in range(ROUNDS):
        table.incr(key)
    return ROUNDS


def begin(table):
    global own
    own = table


def count_own(key):
    return count(own, key)


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ringtable.connect(timeout=30) as table:
        with context.Pool(2) as pool:
            assert sum(pool.starmap(count, [(table, "arguments")] * 4)) == 4 * ROUNDS
        with context.Pool(2, begin, (table,)) as pool:
            assert sum(pool.map(count_own, ["pool"] * 4)) == 4 * ROUNDS
            pool.close()
            pool.join()
        with ProcessPoolExecutor(2, context, begin, (table,)) as pool:
            assert sum(pool.map(count_own, ["executor"] * 4)) == 4 * ROUNDS
        process = context.Process(target=count, args=(table, "process"))
        process.start()
        process.join()
        assert process.exitcode == 0
        found = table.get_many(["arguments", "pool", "executor", "process"])
        assert found == [b"400", b"400", b"400", b"100"], found
"""


def test_a_fork_cuts_no_import_in_two(server_process: ServerProcess) -> None:
    """A child would wait for ever for the thread that was in the middle of it."""
    script = """
    import importlib.abc, os, signal, sys, threading, time
    import ringtable

    asked, forking = threading.Event(), threading.Event()

    class Slow(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "ringtable._tools.lock":
                asked.set()
                forking.wait()
                # Long enough for a fork that does not wait.
                time.sleep(0.2)

    sys.meta_path.insert(0, Slow())
    os.register_at_fork(before=forking.set)
    table = ringtable.connect()
    thread = threading.Thread(target=lambda: table.lock("a").acquire())
    thread.start()
    asked.wait()
    if (pid := os.fork()) == 0:
        signal.alarm(60)
        with table.lock("b"):
            os._exit(0)
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    """
    assert run_script(script) == ("", "")
