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
from functools import partial
from typing import TYPE_CHECKING, Any

from ringtable._cli.descriptors import raise_limit
from ringtable._cli.serving import estate_of
from ringtable._cli.signals import admit_termination, interrupt_on_termination
from ringtable._errors import Error, PathTaken, ServerExists, ServerFailed, ServerGone, TableNotFound, Timeout
from ringtable._server import Server, defaults
from ringtable._table import Table

if TYPE_CHECKING:
    from ringtable._keeper.holdings import Estate, Kept

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
    given: dict[str, Any] = json.loads(options)
    limit_s = float(limit) if limit else None
    if given.pop("keeper"):
        _serve_kept(path, log, report, given, limit_s)
    else:
        _serve_first(path, log, report, given, limit_s)


def _serve_first(
    path: str,
    log: str,
    report: int,
    given: dict[str, Any],
    limit_s: float | None,
    made: _Log | None = None,
    kept: Kept | None = None,
) -> Estate | None:
    """Be the server, and tell the starter. Return what it leaves to this process, if that is the keeper from then on.

    Its log may be made already, and what a keeper gives it.
    """
    try:
        with _server_at(path, limit_s, given, kept) as server:
            made = made or _Log(log)
            made.begin()
            admit_termination()
            print(f"ringtable: process {os.getpid()} serves {path!r} with {json.dumps(given)}", flush=True)
            # It keeps no folder from being removed or unmounted, but for the socket's own.
            os.chdir("/")
            _say(report, {"ready": os.getpid()})
            os.close(report)
            ended = _serve(server)
            estate = estate_of(server)
            if estate is None:
                print(f"ringtable: ended {ended}", flush=True)
            return estate
    except ServerExists:
        _say(report, {"exists": path})
    except Error as error:
        _say(report, {"error": type(error).__name__, "message": str(error)})
        raise SystemExit(1) from None
    finally:
        if made is not None:
            made.forget()
    return None


def _serve_kept(path: str, log: str, report: int, options: dict[str, Any], limit_s: float | None) -> None:
    """Be the keeper, and in each of its processes the server."""
    from ringtable._cli.app import status_of
    from ringtable._cli.commands.server import DEATHS, HANG_TIMEOUT_S
    from ringtable._cli.serving import serve
    from ringtable._keeper.keeper import Keeper, serve_kept

    def go_on() -> None:
        os.close(report)
        made.write_there()

    def serve_next(kept: Kept) -> Estate | None:
        if kept[3] > 0:
            return serve(of_server, kept)
        return _serve_first(path, log, report, options, limit_s, made, kept)

    made = _Log(log)
    of_server = {**defaults(), "name": path, **options}
    new_keeper = partial(Keeper, of_server, DEATHS, HANG_TIMEOUT_S)
    first = new_keeper(on_ready=go_on)
    raise SystemExit(status_of(lambda: serve_kept(first.keep(), new_keeper, serve_next)))


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


def _server_at(path: str, limit_s: float | None, options: dict[str, Any], kept: Kept | None) -> Server:
    """Start the server. Where one is ending, this waits for the name, unless it has a keeper: then its starter does.

    Raises:
        ServerExists: There is another one, which lets clients in.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    pause_s, longest_s = _PAUSE_S
    while True:
        try:
            # What is given here is checked, and the signature is for people.
            return Server(path, **options, _kept=kept)
        except ServerExists:
            if kept is not None or _is_served(path) or (deadline is not None and time.monotonic() >= deadline):
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


class _Log:
    """A new log, which takes the place of the one before once there is a server."""

    def __init__(self, path: str) -> None:
        """Make it, beside its place.

        Raises:
            PathTaken: It cannot be made there.
        """
        self._path = path
        self._made = f"{path}.{os.getpid()}"
        try:
            self._file = os.open(self._made, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise PathTaken(f"making the log {path}: {error.strerror}") from error
        os.fchmod(self._file, 0o600)

    def begin(self) -> None:
        """Put it in its place, and let standard output and standard error be this log.

        Raises:
            PathTaken: What lies there is no log of ours.
        """
        with suppress(FileNotFoundError):
            _check_log(self._path)
        try:
            os.rename(self._made, self._path)
        except OSError as error:
            raise PathTaken(f"making the log {self._path}: {error.strerror}") from error
        self.write_there()
        faulthandler.enable()

    def write_there(self) -> None:
        """Let standard output and standard error be this log."""
        os.dup2(self._file, 1)
        os.dup2(self._file, 2)

    def forget(self) -> None:
        """Remove it if it has not come to its place."""
        with suppress(OSError):
            os.unlink(self._made)


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
