"""Servers that end by themselves when nobody has been there for a while (`linger`): who counts, and when that is.

And who comes just then: it is served, or finds no server.
"""

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ringtable
from ringtable import Server, TableNotFound, Watch
from ringtable._ringtable import socket_path
from support import DEADLINE_S, Child, Flag, RawConnection, ServerProcess

if TYPE_CHECKING:
    from ringtable._types import Topology

# A moment, after which the server is to end.
SOON_S = 0.05


def has_ended(server: Server) -> bool:
    """Wait until a server has ended by itself."""
    return server.wait(DEADLINE_S)


@contextmanager
def visited(connect: Callable[[], AbstractContextManager[object]], **options: Any) -> Iterator[Server]:
    """A server that lingers for a moment, and has this client: on a busy machine it may take several to get there."""
    linger = SOON_S
    while True:
        with Server(**{"max_memory": "16MiB", "workers": 1, **options}, linger=linger) as server:
            try:
                client = connect()
            except TableNotFound:
                linger *= 2
                continue
            with client:
                yield server
                assert not server.wait(2 * linger)
            assert has_ended(server)
            return


def test_smoke(ringtable_dir: Path) -> None:
    with Server(max_memory="16MiB", workers=1, linger=SOON_S) as server:
        with ringtable.connect() as table:
            table["key"] = b"value"
        assert has_ended(server)
        assert not server.running
        assert list(ringtable_dir.iterdir()) == []
        with pytest.raises(TableNotFound):
            ringtable.connect()


def test_without_any_client_it_ends_so_long_after_its_start() -> None:
    begun = time.monotonic()
    with Server(max_memory="16MiB", workers=1, linger=timedelta(milliseconds=200)) as server:
        assert has_ended(server)
    assert time.monotonic() - begun >= 0.2


def test_it_ends_so_long_after_the_last_client_has_left() -> None:
    with visited(ringtable.connect) as server:
        with ringtable.connect() as other:
            other["key"] = b"value"
            left = time.monotonic()
        assert server.running
    assert time.monotonic() - left >= SOON_S


def test_by_default_it_goes_on() -> None:
    with Server(max_memory="16MiB", workers=1) as server:
        ringtable.connect().close()
        assert not server.wait(0.2)


def a_lane() -> AbstractContextManager[object]:
    return ringtable.connect()


def a_member() -> AbstractContextManager[object]:
    return ringtable.Table(transport="rings")


def a_socket() -> AbstractContextManager[object]:
    return ringtable.Table(transport="socket")


def a_watch() -> AbstractContextManager[object]:
    return Watch("default")


def a_client_of_another_kind() -> AbstractContextManager[object]:
    return RawConnection(socket_path("default"))


@pytest.mark.parametrize("client", [a_lane, a_socket, a_watch, a_client_of_another_kind])
def test_who_is_there_keeps_it(client: Callable[[], AbstractContextManager[object]]) -> None:
    with visited(client) as server:
        assert server.running


@pytest.mark.parametrize("topology", ["shared", "sharded"])
def test_so_does_a_member_of_shared_rings(topology: "Topology") -> None:
    with visited(a_member, workers=2, max_clients=4, topology=topology) as server:
        assert server.stats()["ring_members"] == 1


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_so_does_a_client_at_a_port(protocol: str, kind: socket.SocketKind) -> None:
    """A session over UDP is there without any socket of its own, and until its client says that it leaves."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port = f"127.0.0.1:{probe.getsockname()[1]}"
    with visited(lambda: ringtable.connect(f"{protocol}://{port}"), **{protocol: port}) as server:
        assert server.running


def test_who_is_killed_is_not_there() -> None:
    with Flag() as connected:

        def stay() -> None:
            with ringtable.connect():
                connected.set()
                time.sleep(DEADLINE_S)

        with visited(ringtable.connect) as server, Child(stay):
            connected.wait()
            assert server.running


def test_a_process_ends_with_its_server(ringtable_dir: Path) -> None:
    with ServerProcess("--max-memory", "16MiB", "--workers", "1", "--linger", "0.05") as server:
        assert server.wait() == 0
    assert list(ringtable_dir.iterdir()) == []


def test_whoever_comes_as_it_ends_is_served_or_finds_no_server(seed: int) -> None:
    """Hundreds of ends, and clients that come at that very moment."""
    chance = random.Random(seed)
    served = missed = 0
    while served < 20 or missed < 20:
        with Server(max_memory="4MiB", buckets=64, workers=1, spin_us=0, linger=0.01) as server:
            time.sleep(0.0098 + 0.0006 * chance.random())
            try:
                with ringtable.connect(timeout=DEADLINE_S) as table:
                    table["key"] = b"value"
                    assert table["key"] == b"value"
                    served += 1
            except TableNotFound:
                missed += 1
            assert has_ended(server)


@pytest.mark.parametrize("linger", [0, 0.001, -1, float("nan"), 1e10])
def test_what_is_out_of_range_is_refused(linger: float) -> None:
    with pytest.raises(ringtable.InvalidOption, match=r"linger is .*; allowed are 0.01 to 1000000000 seconds"):
        Server(linger=linger)
