"""gunicorn with workers that are forked from a process that has opened a table: `examples/wsgi_counter.py`.

Or from one in which the table's server runs: `examples/gunicorn_conf.py`.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import ringtable
from support import DEADLINE_S, ServerProcess, wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"
WORKERS = 4
THREADS = 2
BROWSERS = 6
REQUESTS = 30


class Gunicorn:
    """gunicorn at work, its workers too."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "web.sock"
        self.log = folder / "gunicorn.log"
        arguments = [*options, "--workers", str(WORKERS), "--threads", str(THREADS), "--bind", f"unix:{self.socket}"]
        arguments += ["--chdir", str(EXAMPLES), "--log-file", str(self.log), "wsgi_counter"]
        self.process = subprocess.Popen([sys.executable, "-m", "gunicorn", *arguments])
        wait_until(lambda: self.process.poll() is None and self.answers(), f"it answers: {self.words()}")

    def words(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def answers(self) -> bool:
        try:
            return self.ask()[0] == b"200"
        except OSError:
            return False

    def request(self) -> tuple[int, int]:
        """The count that a request is told, and the process that has answered it; `OSError` without an answer."""
        status, body = self.ask()
        assert status == b"200", body
        count, pid = body.split()
        return int(count), int(pid)

    def ask(self) -> tuple[bytes, bytes]:
        """The status and the body of an answer; `OSError` without one."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(self.socket))
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while chunk := connection.recv(4_096):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        if not body.endswith(b"\n"):
            raise ConnectionResetError("no whole answer")
        return head.split()[1], body

    def workers(self) -> set[int]:
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in task.read_text().split()}

    def has_lost(self, worker: int) -> bool:
        return worker not in self.workers()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def web(server_process: ServerProcess, ringtable_dir: Path) -> Iterator[Gunicorn]:
    with at_work(Gunicorn(ringtable_dir, "--preload")) as gunicorn:
        yield gunicorn


@contextmanager
def at_work(gunicorn: Gunicorn) -> Iterator[Gunicorn]:
    try:
        yield gunicorn
    finally:
        if gunicorn.process.poll() is None:
            gunicorn.stop()


@contextmanager
def browsing(web: Gunicorn) -> Iterator[tuple[list[int], list[OSError]]]:
    """Requests all the while: the counts that they are told, and those that found no answer."""
    counts: list[int] = []
    failed: list[OSError] = []
    stop = threading.Event()

    def browse() -> None:
        while not stop.is_set():
            try:
                counts.append(web.request()[0])
            except OSError as error:
                failed.append(error)

    with ThreadPoolExecutor(BROWSERS) as browsers:
        done = [browsers.submit(browse) for _ in range(BROWSERS)]
        try:
            yield counts, failed
        finally:
            stop.set()
        for browser in done:
            browser.result()


def more_than(counts: list[int], more: int) -> Callable[[], bool]:
    before = len(counts)
    return lambda: len(counts) >= before + more


def test_smoke(web: Gunicorn) -> None:
    first, pid = web.request()
    assert pid in web.workers()
    assert web.request()[0] == first + 1
    with ringtable.connect() as table:
        assert table["requests"] == b"%d" % (first + 1)


def test_requests_are_counted_by_all_workers_together(web: Gunicorn) -> None:
    with ringtable.connect() as table, ThreadPoolExecutor(BROWSERS) as browsers:
        before = int(table["requests"])
        answers = list(browsers.map(lambda _: web.request(), range(BROWSERS * REQUESTS)))
        counts = sorted(count for count, _ in answers)
        assert counts == list(range(before + 1, before + BROWSERS * REQUESTS + 1))
        assert int(table["requests"]) == before + BROWSERS * REQUESTS
        # What the master has opened is none of theirs: each that has answered has a connection of its own.
        # (One that has been replaced may take a moment to go.)
        wait_until(lambda: 2 < int(table.stats()["clients"]) <= WORKERS + 2, "one connection a process")
        by_process = [int(value) for key, value in table.items() if key.startswith(b"requests of ")]
        assert sum(by_process) == int(table["requests"])


def test_a_worker_is_killed(web: Gunicorn) -> None:
    with ringtable.connect() as table:
        with browsing(web) as (counts, failed):
            for _ in range(3):
                wait_until(more_than(counts, REQUESTS), "they are at work")
                victim = web.request()[1]
                os.kill(victim, signal.SIGKILL)
                wait_until(partial(web.has_lost, victim), "it is gone")
            wait_until(more_than(counts, REQUESTS), "the count goes on")
            wait_until(lambda: len(web.workers()) == WORKERS, "there are as many as before")
        # None that was acknowledged is lost, or counted twice; those that found no answer may have been counted.
        assert len(set(counts)) == len(counts)
        acknowledged = len(counts) + 3 + 1
        assert max(counts) <= int(table["requests"])
        assert acknowledged <= int(table["requests"]) <= acknowledged + len(failed) + 3
        wait_until(lambda: int(table.stats()["clients"]) <= WORKERS + 2, "those that were killed are gone")


def test_it_is_reloaded(web: Gunicorn) -> None:
    with ringtable.connect() as table:
        before = web.workers()
        with browsing(web) as (counts, failed):
            wait_until(more_than(counts, REQUESTS), "they are at work")
            web.process.send_signal(signal.SIGHUP)
            wait_until(lambda: len(web.workers()) == WORKERS and not web.workers() & before, "all of them are new")
            wait_until(more_than(counts, REQUESTS), "the count goes on")
        assert len(set(counts)) == len(counts)
        assert len(counts) + 1 <= int(table["requests"]) <= len(counts) + len(failed) + 1


def test_it_stops_in_order(web: Gunicorn) -> None:
    with ringtable.connect() as table:
        with browsing(web) as (counts, failed):
            wait_until(more_than(counts, REQUESTS), "they are at work")
            assert web.stop() == 0
        assert len(set(counts)) == len(counts)
        assert len(counts) + 1 <= int(table["requests"]) <= len(counts) + len(failed) + 1
        # Neither its workers nor their connections are left.
        wait_until(lambda: table.stats()["clients"] == 1, "nobody is connected any more")


def test_the_tables_server_is_started_anew(ringtable_dir: Path) -> None:
    with ServerProcess() as first, at_work(Gunicorn(ringtable_dir, "--preload")) as web:
        for _ in range(REQUESTS):
            before = web.request()[0]
        first.kill()
        # If none comes as long as the application waits, the answer says so.
        status, body = web.ask()
        assert (status, b"the server is gone" in body) == (b"503", True)
        with ServerProcess(), ringtable.connect() as table:
            with ThreadPoolExecutor(BROWSERS) as browsers:
                answers = list(browsers.map(lambda _: web.request(), range(BROWSERS * REQUESTS)))
            # Every request from then on is counted, once, by whichever worker.
            assert sorted(count for count, _ in answers) == list(range(1, BROWSERS * REQUESTS + 1))
            assert before >= REQUESTS
            assert int(table["requests"]) == BROWSERS * REQUESTS
            assert web.stop() == 0


def test_the_tables_server_runs_in_gunicorn(ringtable_dir: Path) -> None:
    """Workers are forked from the process in which its threads run, one after the other as they die."""
    with at_work(Gunicorn(ringtable_dir, "--config", str(EXAMPLES / "gunicorn_conf.py"))) as web:
        with ringtable.connect() as table:
            assert table.stats()["process_id"] == web.process.pid
            before = int(table["requests"])
            with browsing(web) as (counts, failed):
                for _ in range(3):
                    wait_until(more_than(counts, REQUESTS), "they are at work")
                    victim = web.request()[1]
                    os.kill(victim, signal.SIGKILL)
                    wait_until(partial(web.has_lost, victim), "it is gone")
                wait_until(more_than(counts, REQUESTS), "the count goes on")
                web.process.send_signal(signal.SIGHUP)
                wait_until(more_than(counts, REQUESTS), "a reload keeps the table")
            acknowledged = len(counts) + before + 3
            assert len(set(counts)) == len(counts)
            assert acknowledged <= int(table["requests"]) <= acknowledged + len(failed) + 3
            assert web.stop() == 0
            with pytest.raises(ringtable.ServerGone):
                table["key"] = b"value"
        assert not (ringtable_dir / "default.sock").exists()
