"""A service manager that listens, and that stores descriptors, as systemd does: a table outlives its keeper."""

import array
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ringtable import Table
from support import DEADLINE_S, Closing, children_of, figure, is_dead, wait_until

# Beyond those that a service gets.
HIGH = 100
FIRST = 3


class ManagerInPlaceOfSystemd(Closing):
    """A stand-in for systemd, which is not there in most places where tests run: the socket, the store, services."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(DEADLINE_S)
        self.said: list[str] = []
        self.stored: dict[str, int] = {}
        self._services: list[int] = []

    def hear(self) -> None:
        """Take a message."""
        words, passed, _, _ = self._socket.recvmsg(4_096, socket.CMSG_SPACE(64))
        descriptors = array.array("i")
        for _, _, data in passed:
            descriptors.frombytes(data)
        lines = words.decode().splitlines()
        self.said += lines
        name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "")
        if "FDSTOREREMOVE=1" in lines and name in self.stored:
            os.close(self.stored.pop(name))
        if "FDSTORE=1" in lines:
            (descriptor,) = descriptors
            self.stored[name] = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
            os.close(descriptor)

    def hear_until(self, word: str) -> None:
        """Take what there is, until that was said."""
        del self.said[:]
        while word not in self.said:
            self.hear()

    def hear_all(self) -> None:
        """Take what there is."""
        self._socket.setblocking(False)
        try:
            while True:
                self.hear()
        except BlockingIOError:
            self._socket.settimeout(DEADLINE_S)

    def start(self, *arguments: str, **environment: str) -> int:
        """Start the service, with what is stored. Its process."""
        names = list(self.stored)
        variables = {**os.environ, "NOTIFY_SOCKET": self.address, "FDSTORE": "32", **environment}
        if names:
            variables |= {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
        actions = [(os.POSIX_SPAWN_DUP2, self.stored[name], FIRST + nth) for nth, name in enumerate(names)]
        # It is to be its own process, of which the shell knows the number.
        script = 'LISTEN_PID=$$ exec "$@"'
        program = [sys.executable, "-m", "ringtable", "server", "--keeper", "--max-memory", "64MiB", "--workers", "1"]
        command = ["/bin/sh", "-c", script, "sh", *program, *arguments]
        service = os.posix_spawn(command[0], command, variables, file_actions=actions)
        self._services.append(service)
        return service

    def wait(self, service: int) -> int:
        """Wait for the end of a service. Its exit status; below 0, the signal that has killed it."""
        self._services.remove(service)
        return os.waitstatus_to_exitcode(os.waitpid(service, 0)[1])

    def close(self) -> None:
        for service in self._services:
            # An order to the server is one that nobody is to go on behind.
            for process in children_of(service) or [service]:
                os.kill(process, signal.SIGTERM)
            os.waitpid(service, 0)
        for descriptor in self.stored.values():
            os.close(descriptor)
        self._socket.close()


@pytest.fixture
def manager(ringtable_dir: Path, tmp_path: Path) -> Iterator[ManagerInPlaceOfSystemd]:
    with ManagerInPlaceOfSystemd(tmp_path) as manager:
        yield manager


def test_smoke(manager: ManagerInPlaceOfSystemd) -> None:
    service = manager.start()
    manager.hear_until("READY=1")
    with Table() as table:
        assert table.stats()["keeper_process_id"] == service
    # The table, grants, notes, the socket with its file and its lock.
    assert len(manager.stored) == 6


@pytest.mark.parametrize("loads", [False, True])
def test_a_server_that_loads_is_given_time(manager: ManagerInPlaceOfSystemd, tmp_path: Path, loads: bool) -> None:
    """It is asked for before the server serves; a table that is in memory alone needs none."""
    manager.start(*(("--data", str(tmp_path / "data")) if loads else ()))
    manager.hear_until("READY=1")
    assert ("EXTEND_TIMEOUT_USEC=30000000" in manager.said) == loads


def test_a_table_outlives_a_restart_of_the_service(manager: ManagerInPlaceOfSystemd) -> None:
    service = manager.start()
    manager.hear_until("READY=1")
    with Table() as table:
        table.update({f"key {number}": b"%d" % number for number in range(1_000)})
        server_id = table.server_id
        for death in ("in order", "in order", "killed", "in order"):
            server = figure("process_id")
            if death == "in order":
                os.kill(service, signal.SIGTERM)
                manager.hear_until("STOPPING=1")
                assert manager.wait(service) == 0
                manager.hear_all()
            else:
                # As systemd does with what is left of a service.
                for process in (service, server):
                    os.kill(process, signal.SIGKILL)
                manager.wait(service)
                wait_until(lambda server=server: is_dead(server), "all of it is gone")  # type: ignore[misc]
            service = manager.start()
            manager.hear_until("READY=1")
            assert table["key 999"] == b"999"
            assert len(table) == 1_000
            assert table.server_id == server_id
            # What only asks is asked again, over a new connection, which a write alone would not be.
            assert table.stats()["restarts"] == 0
            table[f"key {death}"] = b"value"
            del table[f"key {death}"]


def test_what_another_server_is_at_work_on_is_not_taken(manager: ManagerInPlaceOfSystemd) -> None:
    service = manager.start()
    manager.hear_until("READY=1")
    with Table() as table:
        table["key"] = b"value"
        server = figure("process_id")
        os.kill(service, signal.SIGKILL)
        manager.wait(service)
        # The server has outlived its keeper.
        other = manager.start()
        assert manager.wait(other) == 1
        assert table["key"] == b"value"
        assert figure("process_id") == server
        os.kill(server, signal.SIGTERM)
        wait_until(lambda: is_dead(server), "it has ended in order")


def test_options_of_another_table_are_refused(manager: ManagerInPlaceOfSystemd) -> None:
    service = manager.start()
    manager.hear_until("READY=1")
    os.kill(service, signal.SIGTERM)
    assert manager.wait(service) == 0
    manager.hear_all()
    assert manager.wait(manager.start("--max-clients", "10")) == 1
    assert manager.wait(manager.start("--name", "other")) == 1
    manager.start()
    manager.hear_until("READY=1")


def test_the_watchdog_is_told_that_the_server_lives(manager: ManagerInPlaceOfSystemd) -> None:
    manager.start(WATCHDOG_USEC="300000")
    manager.hear_until("READY=1")
    for _ in range(3):
        manager.hear_until("WATCHDOG=1")
