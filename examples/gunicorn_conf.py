"""A configuration of gunicorn that runs the table's server in gunicorn's own first process.

    gunicorn --config examples/gunicorn_conf.py --workers 4 --threads 2 --chdir examples wsgi_counter

The server starts before the workers are forked, which it does not mind: it stays the first process's, and goes on when
a worker dies. It ends with gunicorn. So a reload (SIGHUP) keeps the table; an upgrade in place (SIGUSR2) does not work,
since the new gunicorn starts while the old one has the name. Without `--preload`: that would import the application,
which opens the table, before the server is there.
"""

from typing import Any

import ringtable

_servers: list[ringtable.Server] = []


def on_starting(arbiter: Any) -> None:
    _servers.append(ringtable.Server(max_memory="64MiB"))


def on_exit(arbiter: Any) -> None:
    for server in _servers:
        server.stop()
