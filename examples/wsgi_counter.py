"""A WSGI application that counts its requests, whichever process of its server they come to.

    ringtable server &
    gunicorn --preload --workers 4 --threads 2 --chdir examples wsgi_counter

The table is opened when this is imported, which with `--preload` is once, before the workers are forked: each worker
gets a connection of its own when it first uses it. A worker may die at any time, and what was counted stays counted.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import ringtable

table = ringtable.connect(timeout=10.0)
# What is kept for each process goes when the process has been silent for so long.
SILENT_S = 3_600.0


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    count = table.incr("requests")
    table.incr(f"requests of {os.getpid()}", ttl_if_new=SILENT_S)
    body = f"{count} {os.getpid()}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
