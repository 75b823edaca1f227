"""Clients and servers of different versions: they talk over lanes and rings as long as records are laid out alike."""

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table
from ringtable._ringtable import lane_request, rings_request
from support import DEADLINE_S, Closing, RawConnection, RawLane, figures_of

# The numbers of some commands, which they have for ever.
GET, SET, INCRBY, PTTL, PING = 0, 1, 4, 11, 15


class OtherServer(Closing):
    """A server of another version, as clients see it: a real one, but for what its answers to joins say that it knows.

    It stands between a client and the server, and passes on all that either sends, descriptors too.
    """

    def __init__(self, server: Server, path: Path, digits: Callable[[bytes], bytes]) -> None:
        self.path = path
        self._server, self._digits = server.path, digits
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                # Shut down.
                return
            thread = threading.Thread(target=self._pass_on, args=[near])
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, near: socket.socket) -> None:
        """Pass on what comes from either side, until one of them closes."""
        with closing(near), socket.socket(socket.AF_UNIX) as far:
            far.connect(self._server)
            while True:
                ready = select.select([near, far], [], [], DEADLINE_S)[0]
                if near in ready:
                    if not (request := near.recv(1 << 16)):
                        return
                    far.sendall(request)
                if far in ready:
                    answer, descriptors, _, _ = socket.recv_fds(far, 1 << 16, 8)
                    if not answer:
                        return
                    if answer.startswith((b"+LANE ", b"+RINGS ")):
                        words, _, known = answer.removesuffix(b"\r\n").rpartition(b" ")
                        answer = words + b" " + self._digits(known) + b"\r\n"
                    socket.send_fds(near, [answer], descriptors)
                    for descriptor in descriptors:
                        os.close(descriptor)

    def close(self) -> None:
        """Let nobody else in, and wait until all have gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        self._listener.close()
        self.path.unlink()


def without(*numbers: int) -> Callable[[bytes], bytes]:
    """What a server says that does not know these commands."""

    def digits(known: bytes) -> bytes:
        bits = [int(digit, 16) for digit in known.decode()]
        for number in numbers:
            bits[number // 4] &= ~(1 << number % 4)
        return "".join(f"{digit:x}" for digit in bits).encode()

    return digits


@pytest.fixture(params=["lanes", "shared"])
def topology(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(ringtable_dir: Path, topology: Any) -> Iterator[Server]:
    # One worker, so that what one client has asked is counted when another one is answered.
    with Server(workers=1, max_memory="64MiB", topology=topology) as server:
        yield server


@pytest.fixture
def witness(server: Server) -> Iterator[Table]:
    """A client of the server's own version."""
    with ringtable.connect(server.path) as table:
        yield table


def requests_since(witness: Table, work: Callable[[], Any]) -> int:
    """How many requests the server has executed while something was done."""
    before = figures_of(witness)["requests"]
    work()
    # The figures do not count the request that asks for them, but the one before.
    return figures_of(witness)["requests"] - before - 1


def test_smoke(server: Server, topology: str, ringtable_dir: Path, witness: Table) -> None:
    with (
        OtherServer(server, ringtable_dir / "other", lambda known: known) as other,
        ringtable.connect(other.path, reads="server") as table,
    ):
        assert table.transport == ("lane" if topology == "lanes" else "rings")
        table["key"] = b"value"
        assert table["key"] == witness["key"] == b"value"
        assert table.call("TTL", "key") == -1
        assert requests_since(witness, lambda: table.call_many([("PING",)] * 3)) == 3


def test_what_the_server_does_not_know_is_refused_by_name_and_not_sent(
    server: Server, ringtable_dir: Path, witness: Table
) -> None:
    def refused(name: str, work: Callable[[], Any]) -> None:
        with pytest.raises(ringtable.CommandError, match=f"the server does not know the command '{name}'"):
            work()

    def ask_for_it() -> None:
        refused("PTTL", lambda: table.call("pttl", "key"))
        refused("PTTL", lambda: table.ttl("key"))
        refused("INCRBY", lambda: table.incr("count"))
        refused("INCRBY", lambda: table.pipeline().incr("count").execute())

    with (
        OtherServer(server, ringtable_dir / "other", without(PTTL, INCRBY)) as other,
        ringtable.connect(other.path) as table,
    ):
        table["key"] = b"value"
        assert requests_since(witness, ask_for_it) == 0
        # What it knows goes on, beside what it does not.
        replies = table.call_many([("GET", "key"), ("PTTL", "key"), ("NONSENSE",), ("INCR", "count")])
        assert (replies[0], replies[3]) == (b"value", 1)
        assert "does not know the command 'PTTL'" in str(replies[1])
        assert "unknown command 'NONSENSE'" in str(replies[2])
        first, second = table.pipeline().get("key").incr("count").execute(raise_errors=False)
        assert first == b"value"
        assert isinstance(second, ringtable.CommandError)
    assert (witness["count"], len(witness)) == (b"1", 2)


def test_a_posted_write_that_the_server_does_not_know_is_refused_at_once(
    server: Server, ringtable_dir: Path, witness: Table
) -> None:
    with (
        OtherServer(server, ringtable_dir / "other", without(SET)) as other,
        ringtable.connect(other.path, writes="posted") as table,
    ):
        for _ in range(3):
            with pytest.raises(ringtable.CommandError, match="'SET'"):
                table.set("key", b"value")
        table.flush()
        assert table.call("PING") == b"PONG"
    assert len(witness) == 0


@pytest.mark.parametrize("more", [b"f", b"0" * 10 + b"f" * 10_000], ids=["one", "many"])
def test_a_server_that_knows_more_is_understood(
    server: Server, ringtable_dir: Path, witness: Table, more: bytes
) -> None:
    with (
        OtherServer(server, ringtable_dir / "other", lambda known: known + more) as other,
        ringtable.connect(other.path) as table,
    ):
        assert table.incr("count") == 1
        with pytest.raises(ringtable.CommandError, match="unknown command 'LPUSH'"):
            table.call("LPUSH", "key", "value")
    assert witness["count"] == b"1"


def test_a_server_that_knows_less_is_understood(server: Server, ringtable_dir: Path) -> None:
    # GET alone, from before there was anything else.
    with (
        OtherServer(server, ringtable_dir / "other", lambda _: b"1") as other,
        ringtable.connect(other.path, reads="server") as table,
    ):
        assert table.get("key") is None
        with pytest.raises(ringtable.CommandError, match="does not know the command 'PING'"):
            table.call("PING")


@pytest.mark.parametrize("digits", [b"", b"F", b"xyz", b"0x1", b"-1", b"ff,ff", b"\xff\xff"], ids=repr)
def test_an_answer_that_says_nothing_is_refused(server: Server, ringtable_dir: Path, digits: bytes) -> None:
    with (
        OtherServer(server, ringtable_dir / "other", lambda _: digits) as other,
        pytest.raises(ringtable.ProtocolError, match="an unexpected answer to a join"),
    ):
        ringtable.connect(other.path)


def test_records_of_another_version_refuse_the_join(server: Server, topology: str) -> None:
    request = lane_request() if topology == "lanes" else rings_request()
    name, version, records = (word.encode() for word in request)
    with RawConnection(server.path) as connection:
        for words in [(version, b"%d" % (int(records) + 1)), (version, b"0123456789abcdef"), (b"0", records)]:
            refusal = str(connection.command(name, *words))
            assert refusal.startswith("VERSION the server has ")
            assert "install the same version" in refusal
        # The connection goes on, and the right versions are let in.
        assert connection.command(b"PING") == b"PONG"


def test_a_client_that_asks_for_what_the_server_does_not_know_is_ended(ringtable_dir: Path) -> None:
    """Our own clients do not: see above."""
    with Server(max_memory="64MiB") as server, ringtable.connect(server.path) as witness:
        for number in (63, 255, 65_535):
            with RawLane() as lane:
                # A record without arguments, behind the one for a command that there is.
                lane.store(RawLane.REQUEST_DATA, 8 | PING << 32)
                lane.store(RawLane.REQUEST_DATA + 8, 8 | number << 32)
                lane.store(RawLane.REQUEST_TAIL, 16)
                lane.ring()
                assert lane.last_words() != b""
        assert figures_of(witness)["clients_ended_record"] == 3
        assert witness.call("PING") == b"PONG"
