"""Fork, spawn, pickle, threads: one table used from many places at once."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table
from support import Child, Flag, ServerProcess, own_ringtable_memory, wait_until

PROCESSES = 4
ROUNDS = 2_000
# Each takes two turns on a core, which on a busy machine come every few milliseconds.
HANDOVERS = 300
CLOSINGS = 20

OPTIONS: list[dict[str, Any]] = [
    {"transport": "lane"},
    {"transport": "lane", "reads": "server"},
    {"transport": "lane", "writes": "posted"},
    {"transport": "socket"},
]
options = pytest.mark.parametrize("options", OPTIONS)


def test_smoke(server_process: ServerProcess) -> None:
    def write() -> None:
        with ringtable.connect() as table:
            table["from"] = b"the child"

    Child(write).result()
    with ringtable.connect() as table:
        assert table["from"] == b"the child"


# Fork


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


# multiprocessing


def _count(table: Table, rounds: int) -> int:
    for _ in range(rounds):
        table.incr("count")
    return rounds


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


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_table_can_be_sent_to_workers(server_process: ServerProcess, method: str) -> None:
    context: BaseContext = multiprocessing.get_context(method)
    with ringtable.connect() as table:
        with context.Pool(PROCESSES) as pool:
            done = pool.starmap(_count, [(table, ROUNDS)] * PROCESSES)
            pool.close()
            pool.join()
        assert sum(done) == PROCESSES * ROUNDS
        assert table["count"] == b"%d" % (PROCESSES * ROUNDS)


def test_a_pickle_is_an_address(server_process: ServerProcess) -> None:
    with ringtable.connect(timeout=5, reads="server", writes="posted") as table:
        data = pickle.dumps(table)
    with pickle.loads(data) as copy:
        assert (copy.timeout, copy.reads, copy.writes) == (5, "server", "posted")
        assert copy.call("PING") == b"PONG"


# Threads


@options
def test_threads_share_a_table(server: Server, options: dict[str, Any]) -> None:
    def use(thread: int) -> None:
        for index in range(ROUNDS // 4):
            key = f"{thread} {index}"
            table[key] = b"%d" % index
            assert table[key] == b"%d" % index
            table.incr("count")
            assert table.get_many([key, "missing"]) == [b"%d" % index, None]

    with Table(**options) as table, ThreadPoolExecutor(PROCESSES) as threads:
        for done in [threads.submit(use, thread) for thread in range(PROCESSES)]:
            done.result()
        assert table["count"] == b"%d" % (PROCESSES * (ROUNDS // 4))


def test_other_threads_run_while_one_waits(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        server_process.freeze()
        answers: list[object] = []
        waiting = threading.Thread(target=lambda: answers.append(table.call("PING")))
        waiting.start()
        # This thread gets on, though the other one waits for a server that does not answer.
        assert sum(range(1_000_000)) == 499_999_500_000
        assert answers == []
        server_process.signal(signal.SIGCONT)
        waiting.join()
        assert answers == [b"PONG"]


def test_closing_while_another_thread_calls(server: Server) -> None:
    def use(table: Table) -> int:
        calls = 0
        try:
            while True:
                table.incr("count")
                calls += 1
        except ringtable.Closed:
            return calls

    with ringtable.connect() as observer, ThreadPoolExecutor(PROCESSES) as threads:
        table = ringtable.connect()
        done = [threads.submit(use, table) for _ in range(PROCESSES)]
        wait_until(lambda: int(observer.get("count", b"0")) > 100, "the threads are at work")
        table.close()
        answered = sum(calls.result() for calls in done)
        # The call in which a thread learned of it may have been executed all the same.
        assert answered <= int(observer["count"]) <= answered + PROCESSES


READS: list[tuple[str, Callable[[Table], object]]] = [
    ("get", lambda table: table.get("key")),
    ("large get", lambda table: table.get("large")),
    ("in", lambda table: "key" in table),
    ("len", len),
    ("get_many", lambda table: table.get_many(["key", "missing"] * 50)),
    ("read_bucket", lambda table: table.read_bucket("key")),
    ("iteration", list),
]


@pytest.mark.parametrize("read", [read for _, read in READS], ids=[name for name, _ in READS])
def test_closing_while_other_threads_read(server_process: ServerProcess, read: Callable[[Table], object]) -> None:
    """Closing takes away the memory that the others read in place: they find out, and do not crash."""

    def read_for_ever(table: Table) -> None:
        while True:
            read(table)

    def use(table: Table, reading: threading.Barrier) -> None:
        read(table)
        reading.wait()
        with pytest.raises(ringtable.Closed):
            read_for_ever(table)

    with ringtable.connect() as table:
        table.update({"key": b"value", "large": b"v" * (1 << 20)})
    with ThreadPoolExecutor(PROCESSES) as threads:
        for _ in range(CLOSINGS):
            table, reading = ringtable.connect(), threading.Barrier(PROCESSES + 1)
            done = [threads.submit(use, table, reading) for _ in range(PROCESSES)]
            reading.wait()
            table.close()
            # At once, though there is still a reference to the table.
            assert own_ringtable_memory() == []
            for thread in done:
                thread.result()


# Readers beside writers


def test_increments_of_many_processes_are_all_counted(server_process: ServerProcess) -> None:
    words = [b"word %d" % index for index in range(10)]

    def count() -> None:
        with ringtable.connect() as table, table.pipeline() as pipeline:
            for _ in range(ROUNDS):
                for word in words:
                    pipeline.incr(word)

    children = [Child(count) for _ in range(PROCESSES)]
    for child in children:
        child.result()
    with ringtable.connect() as table:
        expected = Counter(dict.fromkeys(words, PROCESSES * ROUNDS))
        assert Counter({word: int(count) for word, count in table.items()}) == expected


@pytest.mark.parametrize("reads", ["direct", "server"])
def test_a_reader_never_sees_half_a_value(server_process: ServerProcess, seed: int, reads: Any) -> None:
    # A value is one byte repeated, and its size tells which byte: any mixture of two values shows.
    sizes = [1, 7, 64, 100, 1_000, 4_000, 5_000, 70_000]
    keys = [b"key %d" % index for index in range(4)]

    def value(choice: int) -> bytes:
        return bytes([choice + 1]) * sizes[choice]

    def write(number: int, finish: Flag) -> None:
        state = seed + number
        with ringtable.connect() as table:
            while not finish.is_set():
                for _ in range(100):
                    # A linear congruential generator is random enough, and quick.
                    state = (state * 6_364_136_223_846_793_005 + 1) % (1 << 64)
                    table[keys[state >> 60 & 3]] = value(state >> 40 & 7)

    def read() -> Counter[int]:
        seen: Counter[int] = Counter()
        with ringtable.connect(reads=reads) as table:
            for index in range(5 * ROUNDS):
                found = table.get(keys[index & 3])
                if found is not None:
                    choice = found[0] - 1
                    assert found == value(choice)
                    seen[choice] += 1
        return seen

    with Flag() as finish:
        writers = [Child(write, number, finish) for number in range(2)]
        readers = [Child(read) for _ in range(2)]
        try:
            seen = [reader.result(timeout=100) for reader in readers]
        finally:
            finish.set()
            for writer in writers:
                writer.result()
    assert all(len(counts) > 1 for counts in seen)


def test_what_is_written_is_seen_at_once(server_process: ServerProcess) -> None:
    """After `set` has returned, every other client reads that value or a newer one."""

    def echo() -> None:
        with ringtable.connect() as table:
            for index in range(HANDOVERS):
                while table.get("ping") != b"%d" % index:
                    pass
                table["pong"] = b"%d" % index

    with Child(echo) as child, ringtable.connect() as table:
        for index in range(HANDOVERS):
            table["ping"] = b"%d" % index
            assert table["ping"] == b"%d" % index
            while table.get("pong") != b"%d" % index:
                pass
        child.result()
