"""Starting a server in the background: the half of it that runs in the process that wants one.

The other half, `_background.py`, says in a line of JSON that it is ready, that there is another server, or why it does
not start.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from ringtable import _errors
from ringtable._errors import Error, OutOfResources, ServerFailed

# What a new process runs: it leaves a grandchild behind, and ends, so that nobody is left with a child to wait for. The
# paths of this Python's own library are enough for it, and that of the package.
_DETACHED = "import os, sys; os.fork() and os._exit(0); sys.path.append(sys.argv[1]); "
_DETACHED += "from ringtable._background import main; main(*sys.argv[2:])"

# Of what a server that has failed has said, so many characters are told.
_WORDS_MAX = 2_000


def start(path: str, log: str, options: dict[str, Any], limit_s: float | None) -> None:
    """Start a server in the background, and wait until it is ready, or another one is there.

    Args:
        path: Of its socket.
        log: The path of its log.
        options: Those of `Server`, as JSON has them.
        limit_s: Seconds that this may take; `None` for no limit.

    Raises:
        Error: It says why it does not start.
        ServerFailed: It has ended without saying so.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise Error(
            f"there is no server at {path}, and this program cannot start one, since there is no Python that it could"
            " run: start one with `ringtable server`"
        )
    package = os.path.dirname(os.path.dirname(__file__))
    limit = "" if limit_s is None else str(limit_s)
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _DETACHED,
        package,
        path,
        log,
        limit,
        json.dumps(options),
    ]
    read_end, write_end = os.pipe()
    try:
        try:
            starter = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end, start_new_session=True
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Error(
                f"there is no server at {path}, and this program cannot start one, since sys.executable cannot be run"
                f" ({error}): start one with `ringtable server`"
            ) from error
        except OSError as error:
            raise OutOfResources(f"starting a server: {error}") from error
        finally:
            os.close(write_end)
        try:
            words = _read_all(read_end, limit_s)
        finally:
            # It forks and ends, whatever becomes of the server.
            starter.wait()
    finally:
        os.close(read_end)
    _judge(words, path)


def _read_all(pipe: int, limit_s: float | None) -> str:
    """What is written to the pipe until it is closed, or the time is over."""
    deadline = None if limit_s is None else time.monotonic() + limit_s
    words = b""
    while True:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([pipe], [], [], left_s)[0]:
            # It may be there yet.
            return "{}"
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return words.decode(errors="replace")
        words = (words + piece)[-(1 << 16) :]
        # Others may have the pipe, too: what another thread has forked meanwhile.
        if words.endswith(b"}\n"):
            return words.decode(errors="replace")


def _judge(words: str, path: str) -> None:
    """Raise what the server has said in its last line, unless that it is ready, or that another one is."""
    try:
        report = json.loads(words.strip().rpartition("\n")[2])
    except ValueError:
        said = words.strip()[-_WORDS_MAX:] or "it has said nothing"
        raise ServerFailed(f"the server that was started for {path} has ended: {said}") from None
    if "error" in report:
        raise getattr(_errors, report["error"], ServerFailed)(report["message"])
