"""`ringtable` as forks of a process that has imported it before: in a fifth of the time of a new interpreter.

Design: multiprocessing's fork server, one for each process that runs tests. What runs in a fork is the command's own
`main`. Environment and folder are those of the test; limits and user are those of the fork server, and there is no
start of an interpreter, and no end: tests of these start a program of their own.
"""

import multiprocessing
import os
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["ringtable._cli.app", "ringtable._cli.commands.server", "ringtable._server"])

_STDOUT = 1
_STDERR = 2


class Program:
    """`ringtable` with these arguments, which writes to copies of these descriptors."""

    def __init__(self, arguments: tuple[str, ...], output: int, errors: int = _STDERR) -> None:
        streams = [Connection(os.dup(stream), readable=False) for stream in (output, errors)]
        self._process = _context.Process(target=_run, args=(arguments, dict(os.environ), streams))
        self._process.start()
        for stream in streams:
            stream.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def has_ended(self) -> bool:
        return self._process.exitcode is not None

    def wait(self, timeout: float) -> int:
        """Wait until it has ended, for so many seconds at most, and return its exit status.

        Raises:
            TimeoutError: It has not ended.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"the process {self.pid} did not end within {timeout} s")
        return self._process.exitcode

    def close(self) -> None:
        self._process.close()


class ColdProgram:
    """The same as a program of its own, of the package that lies in a folder."""

    def __init__(self, arguments: tuple[str, ...], output: int, errors: int, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ringtable", *arguments],
            stdout=output,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )
        self.pid = self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout: float) -> int:
        """As that of `Program`."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the process {self.pid} did not end within {timeout} s") from error

    def close(self) -> None:
        pass


def fork_server() -> int | None:
    """The process whose forks the programs are, if it has been started."""
    # There is no public word for it.
    return getattr(forkserver._forkserver, "_forkserver_pid", None)


def _run(arguments: tuple[str, ...], environment: dict[str, str], streams: list[Connection]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, number in zip(streams, (_STDOUT, _STDERR), strict=True):
        os.dup2(stream.fileno(), number)
        stream.close()
    # New ones, since the old ones may remember that they have been files.
    sys.stdout = open(_STDOUT, "w", closefd=False)  # noqa: SIM115 the program's end closes it
    sys.stderr = open(_STDERR, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["ringtable", *arguments]
    from ringtable._cli import main

    main()
