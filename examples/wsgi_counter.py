"""A WSGI application that counts its requests, whichever process of its server they come to.

    ringtable server &
    gunicorn --preload --workers 4 --threads 2 --chdir examples wsgi_counter

The table is opened when this is imported, which with `--preload` is once, before the workers are forked: each worker
gets a connection of its own when it first uses it. A worker may die at any time, and what was counted stays counted.
When the table's server is started anew, counting begins anew; as long as there is none, the answer is 503.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import ringtable

table = ringtable.connect(timeout=10.0)
# What is kept for each process goes when the process has been silent for so long.
SILENT_S = 3_600.0


def count() -> int:
    total = table.incr("requests")
    table.incr(f"requests of {os.getpid()}", ttl_if_new=SILENT_S)
    return total


def count_once_more() -> int:
    """Count, also if it is by this call that we learn that the table's server has gone."""
    try:
        return count()
    except ringtable.ServerGone:
        # What was asked of the old server has gone with its table: nothing is counted twice in the new one.
        return count()


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    try:
        status, body = "200 OK", f"{count_once_more()} {os.getpid()}\n".encode()
    except ringtable.Error as error:
        status, body = "503 Service Unavailable", f"{error}\n".encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
