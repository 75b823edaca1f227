"""A web server that forks its workers up front, as gunicorn does, and a cache that all of them share.

    python examples/prefork_cache.py

The table is opened once, before the fork: each worker that uses it gets a connection of its own. A page that is missing
is made by one worker, while the others that need it wait for that one. The server of the table is a process of its own.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import ringtable

WORKERS = 4
REQUESTS = 200
PAGES = 10
PAGE_TTL_S = 60.0
# For how long afterwards a page is still good enough for those who would have to wait for a new one.
PAGE_STALE_S = 10.0
RENDER_S = 0.05


def serve(listener: HTTPServer, table: ringtable.Table) -> None:
    """What a worker does until it is told to end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # One worker renders what is missing, the others wait for it; should it die, the next one renders.
            page = table.get_or_set(self.path, self.render, PAGE_TTL_S, stale=PAGE_STALE_S)
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            table.incr("requests")

        def render(self) -> bytes:
            table.incr("rendered")
            time.sleep(RENDER_S)
            return f"<h1>{self.path}</h1> rendered by process {os.getpid()}\n".encode()

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener.RequestHandlerClass = Handler
    listener.serve_forever()


@contextmanager
def table_server(path: str) -> Iterator[None]:
    """`ringtable server` in a process of its own."""
    command = [sys.executable, "-m", "ringtable", "server", "--name", path, "--max-memory", "64MiB"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        # A line says that clients can connect.
        if b"ready" not in server.stdout.readline():
            raise SystemExit("the server does not start")
        try:
            yield
        finally:
            server.terminate()


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


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        table_server(f"{folder}/cache.sock"),
        ringtable.connect(f"{folder}/cache.sock") as table,
        HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listener,
        forked_workers(listener, table),
    ):

        def request(number: int) -> bytes:
            url = f"http://127.0.0.1:{listener.server_port}/page/{number % PAGES}"
            with urllib.request.urlopen(url, timeout=30) as response:
                page: bytes = response.read()
                return page

        with ThreadPoolExecutor(2 * WORKERS) as pool:
            pages = set(pool.map(request, range(REQUESTS)))
        rendered = int(table["rendered"])
        print(f"{REQUESTS} requests to {WORKERS} processes, {rendered} pages rendered, {len(pages)} different ones")
        if rendered != PAGES or len(pages) != PAGES:
            raise SystemExit("a page was rendered more than once")


if __name__ == "__main__":
    main()
