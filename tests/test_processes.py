"""Threads that share a table, readers beside writers: one table used from many places at once."""

import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
