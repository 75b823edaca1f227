"""A server in the background: what runs in the process that `ringtable.open` starts.

It says to its starter, in a line of JSON on the pipe that is its standard error at first, that it is ready, that there
is another server, or why it does not start. From then on it writes to its log.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import stat
import time
from contextlib import suppress
from typing import Any

from ringtable._cli.descriptors import raise_limit
from ringtable._cli.signals import interrupt_on_termination
from ringtable._errors import Error, PathTaken, ServerExists, ServerFailed, ServerGone, TableNotFound, Timeout
from ringtable._server import Server
from ringtable._table import Table

# What a log begins with: what does not is no log of ours.
_MARK = b"ringtable: "

# Seconds after which one looks again whether the name is free, at first and at most; and that a server may take to let
# one in.
_PAUSE_S = (0.005, 0.1)
_ANSWER_S = 1.0


def main(path: str, log: str, limit: str, options: str) -> None:
    """Be the server at this path, unless there is one. Everything is text, as it comes from the command line."""
    # The thread that has started this may have had signals blocked; and it may have ignored some.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    interrupt_on_termination()
    raise_limit()
    report = os.dup(2)
    try:
        with _server_at(path, float(limit) if limit else None, json.loads(options)) as server:
            _begin_log(log)
            print(f"ringtable: process {os.getpid()} serves {path!r} with {options}", flush=True)
            # It keeps no folder from being removed or unmounted, but for the socket's own.
            os.chdir("/")
            _say(report, {"ready": os.getpid()})
            os.close(report)
            print(f"ringtable: ended {_serve(server)}", flush=True)
    except ServerExists:
        _say(report, {"exists": path})
    except Error as error:
        _say(report, {"error": type(error).__name__, "message": str(error)})
        raise SystemExit(1) from None


def _serve(server: Server) -> str:
    """Serve until the end, and return why it has come."""
    try:
        server.wait()
    except KeyboardInterrupt:
        server.stop()
        return "since it was told to"
    except ServerFailed as error:
        return str(error)
    return "since nobody was connected any more"


def _server_at(path: str, limit_s: float | None, options: dict[str, Any]) -> Server:
    """Start the server. Where one is ending, this waits for the name.

    Raises:
        ServerExists: There is another one, which lets clients in.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    pause_s, longest_s = _PAUSE_S
    while True:
        try:
            # What is given here is checked, and the signature is for people.
            return Server(path, **options)
        except ServerExists:
            if _is_served(path) or (deadline is not None and time.monotonic() >= deadline):
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)


def _is_served(path: str) -> bool:
    """Whether there is a server that takes clients, or would if it could."""
    try:
        Table(path, transport="socket", timeout=_ANSWER_S).close()
    except (TableNotFound, ServerGone):
        return False
    except (Error, Timeout):
        # The starter will hear of it, too.
        return True
    return True


def _begin_log(path: str) -> None:
    """Let standard output and standard error be a new log, in the place of the one before.

    Raises:
        PathTaken: What lies there is no log of ours.
    """
    with suppress(FileNotFoundError):
        _check_log(path)
        os.unlink(path)
    try:
        log = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise PathTaken(f"making the log {path}: {error.strerror}") from error
    os.fchmod(log, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable()


def _check_log(path: str) -> None:
    found = os.lstat(path)
    is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    if is_ours:
        with open(path, "rb") as log:
            is_ours = log.read(len(_MARK)) in (b"", _MARK)
    if not is_ours:
        raise PathTaken(f"{path} is no log of a server, and is left alone: choose another path, or move it away")


def _say(report: int, words: dict[str, Any]) -> None:
    """Tell the starter, which may be gone."""
    with suppress(OSError):
        os.write(report, f"{json.dumps(words)}\n".encode())
