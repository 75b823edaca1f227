"""What is measured: a server (or files) that the benchmark starts, and how a client process connects to it."""

from typing import Any

from ringtable._bench.session import Session


class Subject:
    """In the benchmark's own process, an instance is a running server, ended by `stop`."""

    name: str
    address: Any
    """What `connect` needs. It can be pickled."""

    @property
    def pids(self) -> list[int]:
        """The processes of the server."""
        return []

    def stop(self) -> None:
        """Ends the server."""

    @staticmethod
    def connect(address: Any) -> Session:
        """Connects, in a client process."""
        raise NotImplementedError

    @staticmethod
    def version() -> str:
        """Names the releases that are measured.

        Raises:
            ImportError: The library is not installed.
        """
        raise NotImplementedError
