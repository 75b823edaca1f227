"""What is measured: a server (or files) that a benchmark starts, and how a client process connects to it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ringtable._bench import probe
from ringtable._bench.processes import ServerProcess
from ringtable._bench.session import Session

Started = TypeVar("Started", bound="Subject")


class Subject:
    """In the benchmark's own process, an instance is a running server, ended by `stop`."""

    name: str
    address: Any
    """What `connect` needs. It can be pickled."""

    too_large: str = ""
    """What a report says of values that it refuses for their size; empty if it takes all of them."""

    shared: ClassVar[bool] = True
    """Whether clients see each other's writes."""

    @property
    def pids(self) -> list[int]:
        """The processes of the server."""
        return []

    def stop(self) -> None:
        """Ends the server."""

    def memory_bytes(self, client_pid: int) -> int:
        """Resident memory that holds what is stored, and the private memory of the server, bytes."""
        raise NotImplementedError

    @staticmethod
    def connect(address: Any) -> Session:
        """Connects, in a client process."""
        raise NotImplementedError

    @staticmethod
    def version() -> str:
        """Names the releases that are measured.

        Raises:
            ImportError: It is not installed.
        """
        raise NotImplementedError


class ProcessSubject(Subject):
    """A subject whose server is one process that the benchmark has started."""

    _server: ServerProcess

    @property
    def pids(self) -> list[int]:
        return [self._server.pid]

    def stop(self) -> None:
        self._server.stop()

    def memory_bytes(self, client_pid: int) -> int:
        return probe.private_bytes(self._server.pid)


@contextmanager
def running(start: Callable[[Path], Started], folder: Path) -> Iterator[Started]:
    """A fresh and empty server, with a folder of its own below this one; both end with the block."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        subject = start(Path(own))
        try:
            yield subject
        finally:
            subject.stop()
