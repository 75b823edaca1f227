"""memcached, if it is on the PATH: no package index has it."""

import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ringtable._bench.errors import BenchError
from ringtable._bench.processes import ServerProcess, accepts
from ringtable._bench.session import Session
from ringtable._bench.subject import ProcessSubject

REPLY_S_MAX = 30.0


class Memcached(ProcessSubject):
    """memcached on a unix socket. Bursts are sent as one, sets among them without replies."""

    name = "memcached"

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        program = shutil.which(self.name)
        if program is None:
            raise BenchError("not installed here")
        self.address = str(folder / "memcached.sock")
        command = [program, "-u", "root", "-s", self.address, *options]
        self._server = ServerProcess(self.name, command, lambda _: accepts(Path(self.address)))

    @staticmethod
    def connect(address: str) -> Session:
        connection = Connection(address)
        return Session(
            names={"connection": connection},
            get="[value] = connection.get_many([key])",
            set="connection.set_many({key: value})",
            get_many="values = connection.get_many(keys)",
            set_many="connection.set_many(items)",
            close=connection.close,
        )

    @staticmethod
    def version() -> str:
        program = shutil.which(Memcached.name)
        if program is None:
            raise ImportError("memcached is not on the PATH")
        return subprocess.run([program, "-V"], check=True, capture_output=True, text=True).stdout.strip()


class Connection:
    """The few commands that are measured, in the text protocol."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(REPLY_S_MAX)
        self._socket.connect(address)
        self._lines = self._socket.makefile("rb")

    def set_many(self, items: dict[bytes, bytes]) -> None:
        """Keys are any bytes here, and text there."""
        parts = [b"set %b 0 0 %d noreply\r\n%b\r\n" % (key, len(value), value) for key, value in items.items()]
        # Nothing else says that all sets before it are done.
        self._socket.sendall(b"".join(parts) + b"version\r\n")
        line = self._lines.readline()
        if not line.startswith(b"VERSION"):
            raise BenchError(f"memcached did not store a burst: {line.decode(errors='replace').strip()}")

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self._socket.sendall(b"get " + b" ".join(keys) + b"\r\n")
        found: dict[bytes, bytes] = {}
        while (words := self._lines.readline().split()) and words[0] == b"VALUE":
            found[words[1]] = self._lines.read(int(words[3]) + 2)[:-2]
        if words != [b"END"]:
            raise BenchError("memcached did not answer a get")
        return [found.get(key) for key in keys]

    def incr(self, key: bytes) -> int:
        """Add one to a number that is there."""
        self._socket.sendall(b"incr " + key + b" 1\r\n")
        line = self._lines.readline()
        if not line[:1].isdigit():
            raise BenchError(f"memcached did not increment: {line.decode(errors='replace').strip()}")
        return int(line)

    def statistics(self) -> dict[str, str]:
        self._socket.sendall(b"stats\r\n")
        found = {}
        while (words := self._lines.readline().decode().split()) and words[0] == "STAT":
            found[words[1]] = words[2]
        return found

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
