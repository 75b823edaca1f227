"""Descriptors that clients pass to a server, which wants none: it does not wait for what becomes of them.

From Linux 6.16 on the kernel refuses them; `server::tests` has the same for older kernels on any kernel.
"""

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from ringtable import Server, Table
from ringtable._ringtable import lane_request, socket_path, watch_request
from support import DEADLINE_S, Passing, RawConnection, ServerProcess, resp, wait_until


@pytest.fixture
def passing() -> Iterator[Passing]:
    with Passing() as passing:
        yield passing


def plain(address: str, stack: ExitStack) -> socket.socket:
    connection = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
    connection.settimeout(DEADLINE_S)
    connection.connect(address)
    return connection


def asked(address: str, stack: ExitStack) -> socket.socket:
    connection = plain(address, stack)
    connection.sendall(resp(b"PING"))
    assert connection.recv(100) == b"+PONG\r\n"
    return connection


def joined(words: list[str]) -> Callable[[str, ExitStack], socket.socket]:
    def join(address: str, stack: ExitStack) -> socket.socket:
        connection = plain(address, stack)
        connection.sendall(resp(*(word.encode() for word in words)))
        for descriptor in socket.recv_fds(connection, 256, 8)[1]:
            stack.callback(os.close, descriptor)
        return connection

    return join


PLACES = [plain, asked, joined(lane_request()), joined(watch_request())]
PLACE_NAMES = ["new", "used", "lane", "watch"]


def test_smoke(server_process: ServerProcess, passing: Passing) -> None:
    with ExitStack() as stack, Table(timeout=DEADLINE_S) as table:
        refused = not passing.to(plain(socket_path("default"), stack))
        table["key"] = b"value"
        assert refused or int(table.stats()["clients_ended_descriptors"]) == 1
    assert server_process.stop() == 0


@pytest.mark.parametrize("place", PLACES, ids=PLACE_NAMES)
@pytest.mark.parametrize(("count", "depth"), [(1, 0), (250, 0), (1, 1), (1, 3)])
def test_nobody_waits_for_what_is_passed(
    server_process: ServerProcess,
    passing: Passing,
    place: Callable[[str, ExitStack], socket.socket],
    count: int,
    depth: int,
) -> None:
    with ExitStack() as stack:
        # More of them than there are workers.
        for _ in range(4):
            passing.to(place(socket_path("default"), stack), count=count, depth=depth)
        for _ in range(4):
            with Table(timeout=DEADLINE_S, transport="socket") as table:
                table["key"] = b"value"
    assert server_process.stop() == 0


def test_nobody_waits_at_a_full_door(passing: Passing) -> None:
    with Server(max_clients=2, workers=1) as server, ExitStack() as stack, Table(timeout=DEADLINE_S) as table:
        stack.enter_context(Table(timeout=DEADLINE_S))
        for _ in range(4):
            passing.to(plain(server.path, stack))
        table["key"] = b"value"
        stack.close()
        wait_until(lambda: table.stats()["clients"] == 1, "the others have gone")
        with Table(timeout=DEADLINE_S) as other:
            assert other["key"] == b"value"


def test_a_server_stops_whatever_is_in_its_queue(passing: Passing) -> None:
    """An embedded one, too, in a process that goes on."""
    with Server(workers=1) as server, ExitStack() as stack:
        for _ in range(4):
            passing.to(plain(server.path, stack))
        server.stop()
    with Server(workers=1), Table(timeout=DEADLINE_S) as table:
        table["key"] = b"value"


def test_a_stopped_server_is_in_nobodys_way(server_process: ServerProcess, passing: Passing) -> None:
    """What was passed while it stood still is there when it goes on."""
    with ExitStack() as stack:
        connections = [plain(socket_path("default"), stack) for _ in range(4)]
        server_process.freeze()
        for connection in connections:
            passing.to(connection, count=100)
        server_process.signal(signal.SIGCONT)
        with Table(timeout=DEADLINE_S) as table:
            table["key"] = b"value"
    assert server_process.stop() == 0


@pytest.mark.parametrize("kind", ["file", "memory", "epoll", "process", "pipe", "itself"])
def test_files_of_all_kinds(server: Server, kind: str) -> None:
    """Thousands of them: more than may be on their way at a time."""
    with ExitStack() as stack, Table(timeout=DEADLINE_S) as table:
        match kind:
            case "file":
                passed = os.open(os.devnull, os.O_RDONLY)
            case "memory":
                passed = os.memfd_create("passed")
            case "epoll":
                epoll = stack.enter_context(closing(select.epoll()))
                passed = os.dup(epoll.fileno())
            case "process":
                passed = os.pidfd_open(os.getpid())
            case "pipe":
                passed, end = os.pipe()
                stack.callback(os.close, end)
            case _:
                # Its other end is in this process, too, once the server has accepted it: before we count.
                passed = os.dup(asked(server.path, stack).fileno())
        stack.callback(os.close, passed)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with closing(plain(server.path, ExitStack())) as connection:
                try:
                    for _ in range(20):
                        socket.send_fds(connection, [b"PING\r\n"], [passed] * 250)
                except OSError:
                    # Refused, too many on their way, or ended.
                    continue
        table["key"] = b"value"
        with RawConnection(server.path) as other:
            assert other.command(b"GET", b"key") == b"value"
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "none of them is here")
