"""A web application whose table's server is killed and upgraded under load, and not one request fails.

    python examples/unnoticed_restarts.py

Four processes answer requests: each counts the visits of a page and of a visitor, who has a session. Eight visitors ask
without a pause. Meanwhile the server of the table is killed, and upgraded to the version that is installed, in turns; a
keeper holds what it had. At the end all visits were counted, each of them once.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import ringtable

WORKERS = 4
VISITORS = 8
SESSION_S = 3_600
PAUSE_S = 0.5


class Door(HTTPServer):
    """The socket that all workers accept from. Who comes while they all wait stands in a queue."""

    request_queue_size = 128


def serve(listener: HTTPServer, table: ringtable.Table) -> None:
    """What a worker does until it is told to end."""
    sessions = table.namespace("session:")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visitor = self.headers["Visitor"]
            visits = table.incr("visits")
            since = sessions.get(visitor)
            if since is None:
                since = str(time.time()).encode()
                sessions.set(visitor, since, ttl=SESSION_S)
            page = b"visit %d, here since %s\n" % (visits, since)
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener.RequestHandlerClass = Handler
    listener.serve_forever()


@contextmanager
def table_server(path: str) -> Iterator[None]:
    """`ringtable server` with a keeper."""
    options = ["--name", path, "--max-memory", "64MiB", "--keeper", "--max-deaths", "1000"]
    command = [sys.executable, "-m", "ringtable", "server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as keeper:
        assert keeper.stdout is not None
        if b"ready" not in keeper.stdout.readline():
            raise SystemExit("the server does not start")
        try:
            yield
        finally:
            keeper.terminate()


@contextmanager
def forked_workers(listener: HTTPServer, table: ringtable.Table) -> Iterator[None]:
    """Workers that all accept connections of one socket."""
    pids: list[int] = []
    try:
        for _ in range(WORKERS):
            pid = os.fork()
            if pid == 0:
                try:
                    serve(listener, table)
                finally:
                    os._exit(1)
            pids.append(pid)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            os.waitpid(pid, 0)


class Visitors:
    """Threads that ask for the page until the end of the block."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(VISITORS)]
        self._lock = threading.Lock()
        self.visits: list[int] = []
        self.failures: list[str] = []
        self.longest_s = 0.0

    def _visit(self, number: int) -> None:
        request = urllib.request.Request(self._url, headers={"Visitor": f"visitor {number}"})
        while not self._end.is_set():
            begin = time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    visit = int(response.read().split(b",")[0].removeprefix(b"visit "))
            except OSError as error:
                with self._lock:
                    self.failures.append(str(error))
            else:
                with self._lock:
                    self.visits.append(visit)
                    self.longest_s = max(self.longest_s, time.monotonic() - begin)

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def disturb(table: ringtable.Table, rounds: int) -> None:
    """Kill the server, and upgrade the next one, so many times."""
    for _ in range(rounds):
        for process, number in (("process_id", signal.SIGKILL), ("keeper_process_id", signal.SIGUSR2)):
            before = table.stats()["restarts"]
            os.kill(table.stats()[process], number)
            while table.stats()["restarts"] == before:
                time.sleep(0.01)
            time.sleep(PAUSE_S)


def main(rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        table_server(f"{folder}/web.sock"),
        ringtable.connect(f"{folder}/web.sock") as table,
        Door(("127.0.0.1", 0), BaseHTTPRequestHandler) as listener,
        forked_workers(listener, table),
    ):
        with Visitors(f"http://127.0.0.1:{listener.server_port}/") as visitors:
            disturb(table, rounds)
        counted, answered = int(table["visits"]), len(visitors.visits)
        print(f"{rounds} servers were killed, and {rounds} upgraded, under {VISITORS} visitors")
        print(f"{answered} requests answered, {len(visitors.failures)} failed, {counted} visits counted")
        print(f"the longest request took {visitors.longest_s * 1_000:.0f} ms")
        if visitors.failures or sorted(visitors.visits) != list(range(1, answered + 1)) or counted != answered:
            raise SystemExit(f"not every visit was counted once: {visitors.failures[:3]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often a server is killed, and the next one upgraded")
    main(parser.parse_args().rounds)
