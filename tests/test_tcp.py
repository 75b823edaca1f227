"""The TCP port: for clients without unix sockets, on this machine alone, and without lanes."""

import multiprocessing
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
import redis
import ringtable
from ringtable import Server, Table
from ringtable._ringtable import lane_request
from support import (
    CALL_S_MAX,
    DEADLINE_S,
    Child,
    Flag,
    RawConnection,
    ServerProcess,
    state_of,
    time_to_notice_death,
    wait_until,
)


@pytest.fixture
def address(server: Server) -> str:
    """The address of the server's port."""
    assert server.tcp is not None
    return server.tcp


@pytest.fixture
def distant() -> Iterator[ServerProcess]:
    """A server with a port as a process of its own."""
    with ServerProcess("--workers", "2", "--max-memory", "256MiB", "--tcp", "localhost:0") as server:
        yield server


def tcp_of(server: ServerProcess) -> str:
    """The address of the port, as the ready line tells it."""
    return server.ready_line.rpartition(", tcp: ")[2].strip()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def listening(backlog: int = 16) -> socket.socket:
    """A port at which connections are taken, and nothing is ever answered."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(backlog)
    return listener


def address_of(listener: socket.socket) -> str:
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def test_smoke(address: str) -> None:
    assert address.startswith("tcp://127.0.0.1:")
    with ringtable.connect(address) as table, ringtable.connect() as over_a_lane:
        table["hello"] = b"world"
        assert table["hello"] == over_a_lane["hello"] == b"world"
        assert (table.transport, over_a_lane.transport) == ("socket", "lane")


def test_a_server_has_no_port_unless_asked() -> None:
    with Server("silent") as server:
        assert server.tcp is None


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(address: str, protocol: int) -> None:
    with redis.Redis(port=port_of(address), protocol=protocol) as client:
        assert client.ping()
        assert client.set("key", "value", ex=100)
        assert client.get("key") == b"value"
        with client.pipeline(transaction=False) as pipeline:
            for index in range(10_000):
                pipeline.set(f"key {index}", b"v" * (index % 200))
            assert all(pipeline.execute())
        assert client.dbsize() == 10_001


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:http",
        "tcp://:6379",
        "tcp://example.org:6379",
        "tcp://::1:6379",
        "tcp://127.0.0.1:6379/0",
        "redis://127.0.0.1:6379",
    ],
)
def test_addresses_that_mean_nothing(address: str) -> None:
    with pytest.raises(ringtable.InvalidOption) as raised:
        ringtable.connect(address)
    assert address.removeprefix("tcp://") in str(raised.value)
    assert "HOST:PORT" in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", "[::1]"])
def test_hosts_of_this_machine(host: str) -> None:
    if host == "[::1]" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with Server(tcp=f"{host}:0") as server:
        assert server.tcp is not None
        assert port_of(server.tcp) > 0
        with ringtable.connect(f"tcp://{host}:{port_of(server.tcp)}") as table:
            assert table.call("PING") == b"PONG"


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "[2001:db8::1]", "[::ffff:127.0.0.1]"])
def test_a_server_that_others_could_reach_is_refused(host: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match="only this machine") as raised:
        Server(tcp=f"{host}:6379")
    assert f"{host}:6379" in str(raised.value)
    # And nothing of it is left: the name is free.
    Server().stop()


@pytest.mark.parametrize("tcp", ["", "6379", "127.0.0.1", "127.0.0.1:65536", "example.org:6379", "tcp://127.0.0.1:0"])
def test_a_server_at_an_address_that_means_nothing(tcp: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match="HOST:PORT") as raised:
        Server(tcp=tcp)
    assert f"'{tcp}'" in str(raised.value)


def test_a_server_has_a_name_besides() -> None:
    with pytest.raises(ringtable.InvalidOption, match="unix socket"):
        Server("tcp://127.0.0.1:6379")


def test_a_port_that_is_taken(address: str) -> None:
    port = port_of(address)
    with pytest.raises(ringtable.Error, match=f"tcp://127.0.0.1:{port}.*in use"):
        Server("other", tcp=f"127.0.0.1:{port}")
    # The name is free all the same, and so is the port once its server has ended.
    Server("other").stop()


def test_a_port_can_be_used_again_at_once() -> None:
    with Server(tcp="127.0.0.1:0") as server, ringtable.connect(server.tcp or "") as table:
        port = port_of(server.tcp or "")
        table["key"] = b"value"
        server.stop()
        with Server(tcp=f"127.0.0.1:{port}") as again, ringtable.connect(again.tcp or "") as fresh:
            assert "key" not in fresh


def test_where_nobody_listens() -> None:
    with socket.socket() as bound:
        # So that nobody else gets the port.
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ringtable.TableNotFound, match=f"{address_of(bound)}.*refused"):
            ringtable.connect(address_of(bound))


# No lanes


def test_a_lane_is_refused(address: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match=f"unix socket.*{address}"):
        Table(address, transport="lane")


def test_a_lane_is_refused_by_the_server(address: str) -> None:
    with RawConnection(("127.0.0.1", port_of(address))) as connection, ringtable.connect() as table:
        lanes = table.stats()["lanes"]
        refusal = connection.command(*(word.encode() for word in lane_request()))
        assert str(refusal).startswith("ERR lanes, rings and watches need a unix socket")
        assert connection.command(b"SET", b"key", b"value") == b"OK"
        assert table["key"] == b"value"
        assert table.stats()["lanes"] == lanes


def test_a_web_page_writes_nothing(address: str) -> None:
    """A browser can be made to send a request to any port of its machine; the page chooses what its body says."""
    for request, error in (
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown command 'POST' in a plain line"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "no HTTP server"),
    ):
        with RawConnection(("127.0.0.1", port_of(address))) as connection:
            connection.send(request + b"SET key value\r\n")
            assert error in str(connection.reply())
            assert connection.is_closed()
    with ringtable.connect() as table:
        assert "key" not in table


# Ends


def test_more_clients_than_allowed() -> None:
    with Server(max_clients=2, tcp="127.0.0.1:0") as server:
        address = server.tcp or ""
        with ringtable.connect() as lane, ringtable.connect(address) as table:
            with pytest.raises(ringtable.TooManyClients, match="2"):
                ringtable.connect(address)
            assert lane.call("PING") == table.call("PING") == b"PONG"


def test_a_server_that_stops_in_order_tells_its_clients(distant: ServerProcess) -> None:
    with Table(tcp_of(distant)) as table:
        table["key"] = b"value"
        assert distant.stop() == 0
        for _ in range(2):
            with pytest.raises(ringtable.ServerGone):
                table["key"] = b"value"
        with pytest.raises(ringtable.TableNotFound):
            ringtable.connect(tcp_of(distant))


def test_a_blocked_call_notices_the_servers_death(distant: ServerProcess) -> None:
    with Table(tcp_of(distant)) as table:
        assert time_to_notice_death(distant, table) < CALL_S_MAX


def test_a_client_that_is_killed_is_gone(distant: ServerProcess) -> None:
    with ringtable.connect() as observer, Flag() as connected:
        clients = observer.stats()["clients"]

        def stay() -> None:
            with ringtable.connect(tcp_of(distant)):
                connected.set()
                signal.pause()

        with Child(stay) as child:
            connected.wait()
            assert int(observer.stats()["clients"]) == int(clients) + 1
            child.kill()
        wait_until(lambda: observer.stats()["clients"] == clients, "it is counted gone")


def test_a_killed_servers_child_does_not_keep_its_port_open() -> None:
    with Flag() as started, Flag() as finish:
        port_read, port_write = os.pipe()

        def serve() -> None:
            server = Server(tcp="127.0.0.1:0")
            os.write(port_write, (server.tcp or "").encode())
            # The grandchild stays while its parent dies.
            if os.fork() == 0:
                started.set()
                finish.wait()
                os._exit(0)
            signal.pause()

        with Child(serve) as parent:
            started.wait()
            address = os.read(port_read, 100).decode()
            with ringtable.connect(address, timeout=DEADLINE_S, reconnect=False) as table:
                table["key"] = b"value"
                parent.kill()
                with pytest.raises(ringtable.ServerGone):
                    table["key"] = b"value"
        with pytest.raises(ringtable.TableNotFound):
            ringtable.connect(address, timeout=DEADLINE_S)
        finish.set()
        os.close(port_read)
        os.close(port_write)
        # The next server takes the dead one's place, and removes its own socket when it stops.
        Server().stop()


# Waits


def test_a_call_ends_at_its_timeout(distant: ServerProcess) -> None:
    with Table(tcp_of(distant), timeout=2.0) as table:
        table["key"] = b"value"
        distant.freeze()
        start = time.monotonic()
        with pytest.raises(ringtable.Timeout, match=r"2\.0|2 s"):
            table["key"] = b"value"
        assert 2.0 <= time.monotonic() - start < 2.0 + CALL_S_MAX
        distant.signal(signal.SIGCONT)
        for index in range(100):
            table["key"] = b"%d" % index
            assert table["key"] == b"%d" % index


def test_connecting_to_who_never_answers_ends_at_its_timeout() -> None:
    with closing(listening()) as listener:
        start = time.monotonic()
        with pytest.raises(ringtable.Timeout, match=r"0\.2"):
            ringtable.connect(address_of(listener), timeout=0.2)
        assert 0.2 <= time.monotonic() - start < CALL_S_MAX


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A port whose queue of connections is full: the kernel does not even answer who knocks."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(listening(backlog=0)))
        for _ in range(4):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener


def test_connecting_to_a_full_queue_ends_at_its_timeout(full: socket.socket) -> None:
    start = time.monotonic()
    with pytest.raises(ringtable.Timeout, match=r"0\.2"):
        ringtable.connect(address_of(full), timeout=0.2)
    assert 0.2 <= time.monotonic() - start < CALL_S_MAX


def test_an_interrupt_ends_connecting(full: socket.socket) -> None:
    with Flag() as connecting:

        def connect() -> str:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                connecting.set()
                ringtable.connect(address_of(full))
            except KeyboardInterrupt:
                return "interrupted"
            return "connected"

        with Child(connect) as child:
            connecting.wait()
            wait_until(lambda: state_of(child.pid) == "S", "it waits")
            os.kill(child.pid, signal.SIGINT)
            assert child.result() == "interrupted"


# Other processes


def test_a_forked_child_connects_by_itself(distant: ServerProcess) -> None:
    with Table(tcp_of(distant)) as table:
        table["key"] = b"parent"

        def use() -> bytes:
            seen = table["key"]
            for index in range(1_000):
                table.incr("child", index)
            return seen

        with Child(use) as child:
            for index in range(1_000):
                table.incr("parent", index)
            assert child.result() == b"parent"
        assert table["parent"] == table["child"] == b"499500"


def test_pickled_and_spawned(distant: ServerProcess) -> None:
    with Table(tcp_of(distant)) as table, pickle.loads(pickle.dumps(table)) as copy:
        copy["key"] = b"value"
        assert table["key"] == b"value"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_increment, (table,)) == 1


def _increment(table: Table) -> int:
    return table.incr("count")
