"""Starting and ending servers, each a process of its own. They end with this process, however it ends."""

import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver, get_context, resource_tracker
from pathlib import Path
from typing import IO

from ringtable._bench.errors import BenchError
from ringtable._cli.children import bound
from ringtable._cli.signals import interrupts_held_back

START_S_MAX = 20.0
STOP_S_MAX = 10.0
POLL_S = 0.01

CONTEXT = get_context("forkserver")
"""How clients start: forked from a small clean process, so they inherit no thread, lock, socket or mapping."""

TMPFS = Path("/dev/shm")


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for sockets and files of one run, in memory unless $TMPDIR says otherwise."""
    elsewhere = "TMPDIR" in os.environ or not TMPFS.is_dir()
    return tempfile.TemporaryDirectory(prefix="ringtable-bench-", dir=None if elsewhere else TMPFS)


def start_forkserver(preload: list[str]) -> None:
    """Starts the process that clients are forked from, out of reach of Ctrl-C also while it starts."""
    CONTEXT.set_forkserver_preload(preload)
    # One after the other: starting the first one lets SIGINT through again.
    with interrupts_held_back():
        resource_tracker.ensure_running()
    with interrupts_held_back():
        forkserver.ensure_running()


class ServerProcess:
    """A server that is out of reach of Ctrl-C, and ready when the constructor returns.

    It also ends when the thread that has started it does.
    """

    def __init__(self, name: str, command: list[str], ready: "Callable[[ServerProcess], bool]") -> None:
        """Starts it, and waits until `ready` holds."""
        self._name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`
        with interrupts_held_back():
            self.process = subprocess.Popen(
                bound(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                process_group=0,
            )
            _RUNNING.append(self)
        try:
            self._wait_until_ready(ready)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def _wait_until_ready(self, ready: "Callable[[ServerProcess], bool]") -> None:
        deadline = time.monotonic() + START_S_MAX
        while not ready(self):
            if self.process.poll() is not None:
                words = self.last_words()
                raise BenchError(f"the server of {self._name} ended with status {self.process.returncode}: {words}")
            if time.monotonic() > deadline:
                raise BenchError(f"the server of {self._name} was not ready after {START_S_MAX} s")

    def read_line(self) -> str:
        """The next line on its standard output; empty if there is none yet."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], POLL_S)[0]:
            return ""
        return self.process.stdout.readline().decode()

    def last_words(self) -> str:
        """What it has said on standard error, on one line, without the frames that some programs draw."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        return " ".join("".join(letter for letter in text if not "─" <= letter <= "╿").split()) or "no message"

    def stop(self) -> None:
        """Ends it: asks first, then forces."""
        if self not in _RUNNING:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()
        _RUNNING.remove(self)


_RUNNING: list[ServerProcess] = []


def stop_all() -> None:
    """Ends the servers that are still there: an interrupt may come between a start and the block that would end it."""
    for server in list(_RUNNING):
        server.stop()


def accepts(path: Path) -> bool:
    """Whether a server listens on the unix socket; waits a moment before it says no."""
    with socket.socket(socket.AF_UNIX) as probing:
        if probing.connect_ex(os.fspath(path)) == 0:
            return True
    time.sleep(POLL_S)
    return False
