"""A server with a keeper: whatever kills the server, another one goes on with the table, and clients notice nothing."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import ringtable
from ringtable import ServerGone, Table, Timeout
from support import (
    DEADLINE_S,
    Child,
    Flag,
    KeptServer,
    RawLane,
    freeze,
    is_dead,
    mappings,
    patiently,
    run_cli,
    seal_strictly,
    state_of,
    wait_until,
)

MANY = 10_000
LARGE = 20 << 20
AT_ONCE = 64


@pytest.fixture
def kept(ringtable_dir: Path) -> Iterator[KeptServer]:
    """A server named "default" with a keeper."""
    with KeptServer() as kept:
        yield kept


def version_of(table: Table, key: str) -> int:
    found = table.get_with_version(key)
    assert found is not None
    return found[1]


def is_ahead(done: list[int], before: list[int]) -> bool:
    """Whether everybody has done something since."""
    return all(map(int.__lt__, before, done))


def until_done(write: Callable[[], Any]) -> Any:
    """The result of a write that may be done twice, and that the server may die of meanwhile."""
    while True:
        with suppress(ServerGone):
            return write()


def test_smoke(kept: KeptServer) -> None:
    with Table() as table:
        before = table.stats()
        assert before["keeper_process_id"] == kept.pid
        assert before["process_id"] == kept.server_pid
        assert before["restarts"] == 0
        table["key"] = b"value"
        kept.kill_server()
        assert table["key"] == b"value"
        after = table.stats()
        assert after["keeper_process_id"] == kept.pid
        assert after["process_id"] == kept.server_pid != before["process_id"]
        assert after["restarts"] == 1
        table["key"] = b"other"
        assert table["key"] == b"other"
    assert "the server has died (signal 9): another one takes over what it had" in kept.words


def test_nobody_waits_for_who_does_not_read(ringtable_dir: Path) -> None:
    """A server whose process is the keeper has a line to say, and its pipe is full."""
    with KeptServer() as kept, Table(timeout=DEADLINE_S) as table:
        for _ in range(2):
            pipe = os.open(f"/proc/{kept.server_pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
            with suppress(BlockingIOError):
                while True:
                    os.write(pipe, bytes(1))
            os.close(pipe)
            kept.kill_keeper(wait=False)
            wait_until(lambda: table.stats()["keeper_process_id"] == kept.pid, "it is the keeper")
            table["key"] = b"value"


def test_ctrl_c_in_a_terminal_is_no_error(ringtable_dir: Path) -> None:
    command = [sys.executable, "-m", "ringtable", "server", "--keeper"]
    for _ in range(5):
        with subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as program:
            assert program.stdout is not None
            assert "ready" in program.stdout.readline()
            os.killpg(program.pid, signal.SIGINT)
            assert program.communicate(timeout=DEADLINE_S)[1] == ""
            assert program.returncode == 0


def test_a_party_whose_time_is_over_while_no_server_runs_has_left(kept: KeptServer) -> None:
    with Table() as table, Table() as other:
        barrier = table.barrier("barrier", parties=2)
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                barrier.wait(timeout=0.2)
            except Timeout as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: other.stats()["lease_waiters"] == 1, "it waits")
        pid = kept.server_pid
        freeze(kept.pid)
        os.kill(pid, signal.SIGKILL)
        # No event tells that its time is over.
        thread.join(0.4)
        os.kill(kept.pid, signal.SIGCONT)
        kept.wait_for_successor()
        thread.join(DEADLINE_S)
        assert len(raised) == 1
        assert other.stats()["lease_waiters"] == 0


def lane(*, sealed: bool) -> RawLane:
    """A lane, once the keeper has prepared one."""
    lanes: list[RawLane] = []

    def has_come() -> bool:
        with suppress(ConnectionRefusedError):
            lanes.append(RawLane(sealed=sealed))
        return bool(lanes)

    wait_until(has_come, "there is a lane")
    return lanes[0]


def test_who_seals_its_lane_when_the_server_is_dead_is_told_that_nothing_was_done(kept: KeptServer) -> None:
    with lane(sealed=True), lane(sealed=False) as late:
        kept.kill_server()
        seal_strictly(late.segment)
        assert late.last_words() == b"-REJOIN the server died before it served this client\r\n"
        with Table() as table:
            stats = table.stats()
            assert (stats["clients"], stats["clients_ended_unheard"]) == (2, 1)


def test_all_that_was_acknowledged_survives(kept: KeptServer) -> None:
    values = {f"key {number}": b"%d" % number * (number % 40) for number in range(MANY)}
    with Table() as table:
        server_id = table.server_id
        table.update(values)
        table.set("short", b"gone soon", ttl=0.001)
        table.set("long", b"for a while", ttl=1_000)
        table["large"] = bytes(LARGE)
        table.incr("counter", 41)
        version = version_of(table, "counter")
        for deaths in (1, 2):
            kept.kill_server()
            with Table() as newcomer:
                assert newcomer.stats()["restarts"] == deaths
                assert {key: newcomer[key] for key in values} == values
                assert len(newcomer) == len(table) == MANY + 3
                assert newcomer["large"] == bytes(LARGE)
                assert "short" not in newcomer
                ttl = newcomer.ttl("long")
                assert ttl is not None
                assert 1_000 - 2 * DEADLINE_S < ttl < 1_000
                assert newcomer.get_with_version("counter") == (b"41", version)
                # It is the same table, and no other one that was filled in the same way.
                assert newcomer.server_id == server_id
        assert table.incr("counter") == 42
        assert version_of(table, "counter") > version


def test_a_connection_over_shared_memory_goes_on(kept: KeptServer) -> None:
    with Table() as table, Table() as other, table.lock("lock") as lock:
        table["key"] = b"first"
        with table.view("key") as view:
            for number in range(3):
                kept.kill_server()
                # It is the client's connection that holds the lock, and that keeps what is under the view.
                assert not other.lock("lock").acquire(timeout=0)
                assert bytes(view) == b"first"
                for index in range(MANY // 10):
                    other["key"] = b"%d %d" % (number, index)
                assert bytes(view) == b"first"
                assert table["key"] == b"%d %d" % (number, MANY // 10 - 1)
        token = lock.token
    # Released, and by its owner: else the end of the block would have raised.
    with Table() as table, table.lock("lock") as lock:
        assert token is not None
        assert lock.token is not None
        assert lock.token > token


def _lock() -> bytes:
    with Table() as table, table.lock("lock"):
        return table["key"]


def _wait_for_event() -> bytes:
    with Table() as table:
        assert table.event("event").wait(DEADLINE_S)
        return table["key"]


def _want() -> bytes:
    with Table() as table:
        return table.get_or_set("result", lambda: b"computed by who waited", timeout=DEADLINE_S)


def _meet() -> int:
    with Table() as table:
        return table.barrier("barrier", 2).wait(DEADLINE_S)


def test_those_who_wait_go_on_waiting(kept: KeptServer) -> None:
    with Table() as table, ExitStack() as stack:
        table["key"] = b"first"
        lock = table.lock("lock")
        lock.acquire()
        token = int(str(table.call("RING.LEASE", "result")))
        locking, told, wanting, meeting = [
            stack.enter_context(Child(*call)) for call in ((_lock,), (_wait_for_event,), (_want,), (_meet,))
        ]
        for _ in range(3):
            # For a lock, an event, a result and a partner.
            wait_until(lambda: table.stats()["lease_waiters"] == 4, "four wait")
            kept.kill_server()
        for child in (locking, told, wanting, meeting):
            assert not child.has_ended()
        until_done(lambda: table.set("key", b"second"))
        until_done(table.event("event").set)
        assert told.result() == b"second"
        lock.release()
        assert locking.result() == b"second"
        table["result"] = b"computed"
        assert table.call("RING.UNLEASE", "result", token) == 1
        assert wanting.result() == b"computed"
        assert {table.barrier("barrier", 2).wait(DEADLINE_S), meeting.result()} == {0, 1}


def _hold(has_it: Flag) -> None:
    with Table() as table, table.lock("lock"), table.semaphore("semaphore", 1):
        has_it.set()
        signal.pause()


def test_whoever_dies_while_no_server_runs_holds_nothing_any_more(kept: KeptServer) -> None:
    with Table() as table, Flag() as has_it, Child(_hold, has_it) as owner:
        has_it.wait()
        # A keeper that stands starts nothing.
        freeze(kept.pid)
        kept.kill_server(wait=False)
        owner.kill()
        os.kill(kept.pid, signal.SIGCONT)
        kept.wait_for_successor()
        assert table.lock("lock").acquire(timeout=DEADLINE_S)
        assert table.semaphore("semaphore", 1).acquire(timeout=DEADLINE_S)


def _read(key: str) -> bytes:
    with Table() as table:
        return table[key]


def test_a_client_that_comes_while_no_server_runs_is_served(kept: KeptServer) -> None:
    with Table() as table:
        table["key"] = b"value"
        freeze(kept.pid)
        kept.kill_server(wait=False)
        with Child(_read, "key") as newcomer:
            wait_until(lambda: state_of(newcomer.pid) == "S", "it waits for an answer")
            os.kill(kept.pid, signal.SIGCONT)
            assert newcomer.result() == b"value"


def test_clients_with_sockets_find_the_table_again(ringtable_dir: Path) -> None:
    with KeptServer("--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0") as kept, ExitStack() as stack:
        tcp, udp = (kept.ready_line.split(f"{name}: ")[1].split(",")[0].strip() for name in ("tcp", "udp"))
        addresses: list[tuple[str, dict[str, Any]]] = [("default", {"transport": "socket"}), (tcp, {}), (udp, {})]
        tables = [stack.enter_context(Table(address, **options)) for address, options in addresses]
        path = str(ringtable_dir / "default.sock")
        host, _, port = tcp.removeprefix("tcp://").rpartition(":")
        clients = [redis.Redis(unix_socket_path=path), redis.Redis(host, int(port))]
        for client in clients:
            stack.callback(client.close)
        for number in range(3):
            tables[number]["key"] = b"%d" % number
            kept.kill_server()
            for table in tables:
                assert patiently(lambda table=table: table["key"]) == b"%d" % number  # type: ignore[misc]
            for client in clients:
                with suppress(redis.ConnectionError):
                    client.ping()
                assert client.get("key") == b"%d" % number


def _read_on(numbers: int, finish: Flag) -> int:
    """Read in place, and see that nothing is ever older than what was seen before."""
    seen = [0] * numbers
    reads = 0
    with Table() as table:
        while not finish.is_set():
            for number in range(numbers):
                value = int(table[f"key {number}"])
                assert value >= seen[number]
                seen[number] = value
                reads += 1
    return reads


def test_readers_in_place_notice_nothing(kept: KeptServer) -> None:
    with Table() as table, Flag() as finish:
        table.update({f"key {number}": b"0" for number in range(100)})
        with Child(_read_on, 100, finish) as reader:
            for death in range(1, 21):
                kept.kill_server()
                now = {f"key {number}": b"%d" % death for number in range(100)}
                until_done(lambda now=now: table.set_many(now))  # type: ignore[misc]
                reader.check()
            finish.set()
            assert reader.result() > 0


def _count(finish: Flag) -> tuple[int, int]:
    """Count, and return how often that was acknowledged, and how often it is in doubt."""
    acknowledged = in_doubt = 0
    with Table() as table:
        while not finish.is_set():
            try:
                table.incr("counter")
            except ServerGone:
                in_doubt += 1
            else:
                acknowledged += 1
    return acknowledged, in_doubt


def _count_many(finish: Flag) -> tuple[int, int]:
    """As `_count`, many times in one round trip."""
    acknowledged = in_doubt = 0
    with Table() as table:
        while not finish.is_set():
            pipeline = table.pipeline()
            for _ in range(AT_ONCE):
                pipeline.incr("counter")
            try:
                pipeline.execute()
            except ServerGone:
                in_doubt += AT_ONCE
            else:
                acknowledged += AT_ONCE
    return acknowledged, in_doubt


def test_what_is_counted_in_one_turn_is_counted_once(kept: KeptServer) -> None:
    """How far a lane has come is noted behind each request, and not behind the turn that has executed many."""
    _check_counts(kept, _count_many, 2)


def test_what_is_counted_is_counted_once(kept: KeptServer) -> None:
    in_doubt = _check_counts(kept, _count, 3)
    # A death finds at most one request of each in hand.
    assert in_doubt <= 30


def _check_counts(kept: KeptServer, count: Callable[[Flag], tuple[int, int]], processes: int) -> int:
    """Let processes count while servers die, and check the sum. Return how often it is in doubt."""
    with Table() as table, Flag() as finish, ExitStack() as stack:
        children = [stack.enter_context(Child(count, finish)) for _ in range(processes)]
        for _ in range(10):
            before = table.get("counter", b"0")
            wait_until(lambda before=before: table.get("counter", b"0") != before, "they count")  # type: ignore[misc]
            kept.kill_server()
        finish.set()
        counted = [child.result() for child in children]
        acknowledged, in_doubt = map(sum, zip(*counted, strict=True))
        assert acknowledged <= int(table["counter"]) <= acknowledged + in_doubt
        return in_doubt


@pytest.mark.parametrize("size", [0, LARGE], ids=["clear", "large value"])
def test_a_request_behind_one_of_several_turns_is_done_once(ringtable_dir: Path, size: int) -> None:
    with KeptServer(workers=1, max_memory="64MiB") as kept, Table() as table, Table() as other:
        # Of that nothing is left in hand, though it had several turns.
        if size:
            table["large"] = bytes(size)
            table["large"] = bytes(size)
        else:
            table.update({f"key {number}": b"value" for number in range(MANY)})
            table.clear()
        other.incr("of the other", 1_000)
        server = kept.server_pid
        freeze(server)
        counted: list[int] = []
        counting = threading.Thread(target=lambda: counted.append(table.incr("counter")))
        counting.start()
        wait_until(lambda: state_of(counting.native_id or 0) == "S", "its request is there")
        os.kill(server, signal.SIGKILL)
        counting.join(DEADLINE_S)
        assert counted == [1]
        assert table["counter"] == b"1"
        assert table["of the other"] == b"1000"


def _write_large(finish: Flag) -> tuple[int, int]:
    """Write large values, and return how many were written, and how many got lost on their way."""
    written = lost = 0
    with Table() as table:
        while not finish.is_set():
            value = bytes([written % 256]) * LARGE
            try:
                table["large"] = value
            except ServerGone:
                lost += 1
            else:
                written += 1
    return written, lost


def test_a_large_value_on_its_way_is_lost_as_a_whole(kept: KeptServer) -> None:
    with Table() as table, Flag() as finish, Child(_write_large, finish) as writer:
        wait_until(lambda: "large" in table, "the first one is there")
        for _ in range(10):
            kept.kill_server()
            value = table["large"]
            assert value.count(value[0]) == len(value) == LARGE
        finish.set()
        written, lost = writer.result()
        assert written > 0
        # It is on its way nearly all of the time.
        assert 0 < lost <= 10
        assert table.stats()["memory_drafts"] == 0
        assert len(table) == 1


def test_a_hundred_clients_join_at_once(kept: KeptServer) -> None:
    begin = threading.Barrier(101)
    tables: list[Table] = []

    def join() -> None:
        begin.wait(DEADLINE_S)
        table = Table()
        tables.append(table)
        table.incr("count")

    threads = [threading.Thread(target=join) for _ in range(100)]
    for thread in threads:
        thread.start()
    begin.wait(DEADLINE_S)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(tables) == 100
    assert tables[0]["count"] == b"100"
    kept.kill_server()
    transports = [table.transport for table in tables]
    for table in tables:
        until_done(lambda table=table: table.set("key", b"value"))  # type: ignore[misc]
        table.close()
    assert transports == ["lane"] * 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_order_to_end_is_for_both(ringtable_dir: Path, number: signal.Signals) -> None:
    with KeptServer() as kept, Table() as table:
        kept.kill_server()
        server = kept.server_pid
        table["key"] = b"value"
        kept.signal(number)
        assert kept.wait() == 0
        assert is_dead(server)
        with pytest.raises(ServerGone):
            table["key"] = b"value"
        assert os.listdir(ringtable_dir) == []
        # The one death, and nothing of the end.
        assert len(kept.words.splitlines()) == 1


def test_servers_that_die_again_and_again_are_given_up(ringtable_dir: Path) -> None:
    with KeptServer(max_deaths=2) as kept, Table() as table:
        kept.kill_server()
        kept.kill_server(wait=False)
        assert kept.wait() == 1
        with pytest.raises(ServerGone):
            table["key"] = b"value"
        with pytest.raises(ringtable.TableNotFound):
            Table()
        assert "died 2 times within 10 s; the server has died (signal 9): giving up" in kept.words
        for left in ringtable_dir.glob("*.sock"):
            left.unlink()


def test_a_first_start_that_fails_does_so_as_without_a_keeper(kept: KeptServer) -> None:
    other = ("--name", "other")
    for arguments in (("--buckets", "10"), (*other, "--buckets", "0"), (*other, "--tcp", "1.1.1.1:1")):
        plain, with_keeper = run_cli("server", *arguments), run_cli("server", "--keeper", *arguments)
        assert plain.returncode == with_keeper.returncode != 0
        assert plain.stderr == with_keeper.stderr != ""


@pytest.mark.parametrize(
    ("option", "words"),
    [(("--strict-seal",), "--strict-seal and a keeper"), (("--topology", "shared"), "--topology and a keeper")],
    ids=["strict seal", "shared rings"],
)
def test_what_a_keeper_cannot_keep_is_refused(ringtable_dir: Path, option: tuple[str, ...], words: str) -> None:
    refused = run_cli("server", "--keeper", *option)
    assert refused.returncode == 1
    assert f"{words} do not go together" in refused.stderr
    assert os.listdir(ringtable_dir) == []


def test_a_server_whose_keeper_has_died_is_the_next_keeper(kept: KeptServer) -> None:
    with Table() as table, table.watch() as watch, table.lock("lock") as lock:
        table["key"] = b"value"
        table["large"] = b"." * LARGE
        version = version_of(table, "key")
        with table.view("large") as view:
            server = kept.server_pid
            kept.kill_keeper()
            assert "the keeper of this server has died: its process is the next one" in kept.words
            after = table.stats()
            assert after["keeper_process_id"] == server == kept.pid
            assert after["process_id"] == kept.server_pid != server
            assert (after["restarts"], after["upgrades"]) == (1, 0)
            assert bytes(view) == b"." * LARGE
        assert version_of(table, "key") == version
        assert table.set("key", b"other", if_version=version)
        assert lock.locked()
        assert [next(watch).key for _ in range(3)] == [b"key", b"large", b"key"]
        with ExitStack() as stack:
            # More than were prepared.
            for number in range(40):
                newcomer = stack.enter_context(Table())
                assert newcomer.transport == "lane"
                newcomer["key"] = b"%d" % number
            # And what any keeper does.
            kept.kill_server()
            assert newcomer["key"] == b"39"
        done = run_cli("upgrade")
        assert done.returncode == 0, done.stderr
        assert (table.stats()["restarts"], table.stats()["upgrades"]) == (3, 1)
    kept.signal(signal.SIGTERM)
    wait_until(lambda: is_dead(kept.pid), "it ends in order")
    with pytest.raises(ringtable.TableNotFound):
        Table()


def test_keepers_and_servers_die_in_turns_and_each_request_is_done_once(kept: KeptServer) -> None:
    is_over = threading.Event()
    done = [0] * 3

    def increment(number: int) -> None:
        with Table() as table:
            while not is_over.is_set():
                assert table.incr(f"counter {number}") == done[number] + 1
                done[number] += 1

    threads = [threading.Thread(target=increment, args=(number,)) for number in range(len(done))]
    for thread in threads:
        thread.start()
    try:
        for turn in range(8):
            before = done.copy()
            if turn % 3 == 2:
                kept.kill_server()
            else:
                kept.kill_keeper()
            wait_until(partial(is_ahead, done, before), "everybody goes on")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    with Table() as table:
        assert [int(table[f"counter {number}"]) for number in range(len(done))] == done


def test_a_server_that_is_told_to_end_as_its_keeper_dies_ends(kept: KeptServer) -> None:
    with Table() as table:
        table["key"] = b"value"
    server = kept.server_pid
    # Both come while it stands.
    freeze(server)
    kept.signal(signal.SIGKILL)
    os.kill(server, signal.SIGTERM)
    os.kill(server, signal.SIGCONT)
    wait_until(lambda: is_dead(server), "it ends in order")
    with pytest.raises(ringtable.TableNotFound):
        Table()


def test_a_keeper_that_stands_is_waited_for_by_nobody(kept: KeptServer) -> None:
    with Table() as table, ExitStack() as stack:
        freeze(kept.pid)
        newcomers = 0
        refused: ringtable.Error | None = None
        while refused is None:
            try:
                stack.enter_context(Table(timeout=1.0))["key"] = b"served"
                newcomers += 1
            except ringtable.OutOfResources as error:
                refused = error
        # Those for whom a lane was prepared.
        assert 0 < newcomers < 40
        assert "its keeper, which is to hold what the client gets, does not answer" in str(refused)
        # Whoever is there goes on, also while others ask again and again.
        with Child(_read, "key") as newcomer:
            for number in range(100):
                table["key"] = b"%d" % number
            kept.signal(signal.SIGCONT)
            assert newcomer.result() == b"99"
        kept.kill_server()
        assert table["key"] == b"99"


def test_what_clients_had_is_let_go_of(kept: KeptServer) -> None:
    def held() -> list[int]:
        """Descriptors and lanes of both processes."""
        return [
            len(found)
            for pid in (kept.pid, kept.server_pid)
            for found in (os.listdir(f"/proc/{pid}/fd"), mappings(pid, "ringtable-lane"))
        ]

    def come_and_go(clients: int) -> None:
        for _ in range(clients):
            with Table() as table:
                table["key"] = b"value"

    come_and_go(20)
    before = held()
    come_and_go(200)
    # Some lanes are prepared for those to come, how many is left open.
    most = [count + 100 for count in before]
    wait_until(lambda: all(now < limit for now, limit in zip(held(), most, strict=True)), "what they had is gone")
    kept.kill_server()
    come_and_go(20)
    wait_until(lambda: all(now < limit for now, limit in zip(held(), most, strict=True)), "what they had is gone")
