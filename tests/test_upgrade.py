"""Another version takes over from a server with a keeper while it serves, and clients notice nothing."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from installed import Installed
from ringtable import ServerGone, Table, Timeout
from ringtable._keeper.messages import UPGRADE
from support import (
    DEADLINE_S,
    Child,
    Flag,
    KeptServer,
    freeze,
    is_dead,
    run_cli,
    wait_until,
)

LARGE = 20 << 20
# Larger than the ring of a lane.
VALUE = 300_000


@pytest.fixture
def kept(ringtable_dir: Path) -> Iterator[KeptServer]:
    """A server named "default" with a keeper."""
    with KeptServer() as kept:
        yield kept


def test_smoke(kept: KeptServer) -> None:
    with Table() as table:
        table["key"] = b"value"
        before = table.stats()
        done = run_cli("upgrade")
        after = table.stats()
        assert done.returncode == 0, done
        assert done.stdout == (
            f"ringtable: upgraded: process {after['process_id']} has taken over from process {before['process_id']},"
            " of 1 entries and 2 clients\n"
        )
        assert table["key"] == b"value"
        assert after["process_id"] == kept.server_pid != before["process_id"]
        assert after["keeper_process_id"] == before["keeper_process_id"] == kept.pid
        assert after["restarts"] == 1
        wait_until(lambda: is_dead(before["process_id"]), "the old one has ended")
    assert kept.words == ""


def _lock() -> bytes:
    with Table() as table, table.lock("lock"):
        return table["key"]


def test_connections_over_shared_memory_go_on(kept: KeptServer) -> None:
    with Table() as table, Table() as other, ExitStack() as stack:
        table["key"] = b"first"
        lock = table.lock("lock")
        lock.acquire()
        locking = stack.enter_context(Child(_lock))
        with table.view("key") as view:
            for number in range(3):
                wait_until(lambda: other.stats()["lease_waiters"] == 1, "it waits for the lock")
                kept.upgrade()
                assert not other.lock("lock").acquire(timeout=0)
                for index in range(1_000):
                    other["key"] = b"%d %d" % (number, index)
                assert bytes(view) == b"first"
                assert table["key"] == b"%d 999" % number
        assert not locking.has_ended()
        table["key"] = b"last"
        lock.release()
        assert locking.result() == b"last"


def _count(finish: Flag) -> int:
    counted = 0
    with Table() as table:
        while not finish.is_set():
            table.incr("counter")
            counted += 1
    return counted


def _write_large(finish: Flag, key: str) -> int:
    written = 0
    with Table() as table:
        while not finish.is_set():
            table[key] = bytes([written % 256]) * LARGE
            written += 1
    return written


def _read_on(finish: Flag) -> int:
    """Read in place and through the server, large values and many at once, and see that nothing goes back."""
    reads = seen = 0
    with Table() as table, Table(reads="server") as asking:
        while not finish.is_set():
            for reader in (table, asking):
                now = int(reader.get("counter", b"0"))
                assert now >= seen
                seen = now
                value = reader.get("large", b"x")
                assert value.count(value[0]) == len(value)
                assert len(list(reader.keys())) <= 103
            table.set_many({f"key {number}": b"%d" % reads for number in range(100)})
            reads += 1
    return reads


def test_no_request_fails_and_none_is_done_twice(kept: KeptServer) -> None:
    with Table() as table, Flag() as finish, ExitStack() as stack:
        counting = [stack.enter_context(Child(_count, finish)) for _ in range(2)]
        # One at each worker, more or less.
        writing = [stack.enter_context(Child(_write_large, finish, key)) for key in ("large", "other")]
        reading = stack.enter_context(Child(_read_on, finish))
        for _ in range(5):
            before = table.get("counter", b"0"), table.get("large")
            wait_until(
                lambda before=before: (  # type: ignore[misc]
                    table.get("counter", b"0") != before[0] and table.get("large") != before[1]
                ),
                "they work",
            )
            kept.upgrade()
            for child in (*counting, *writing, reading):
                child.check()
        finish.set()
        # A call that had raised would raise here.
        assert sum(child.result() for child in counting) == int(table["counter"])
        assert all(child.result() > 0 for child in writing)
        assert reading.result() > 0
        assert table.stats()["restarts"] == 5
        assert table.stats()["clients_ended_broken"] == 0
    assert kept.words == ""


def _read_large(finish: Flag, number: int) -> int:
    """Read what is larger than a lane, and have a lock all the while, which is not to be lost."""
    reads = 0
    with Table(reads="server") as table, table.lock(f"lock {number}"):
        while not finish.is_set():
            assert len(table["value"]) == VALUE
            reads += 1
    return reads


def test_who_reads_large_values_keeps_its_connection_and_its_lock(kept: KeptServer) -> None:
    with Table() as table, Flag() as finish, ExitStack() as stack:
        table["value"] = bytes(VALUE)
        reading = [stack.enter_context(Child(_read_large, finish, number)) for number in range(4)]
        wait_until(lambda: table.stats()["locks"] == 4, "all have their locks")
        for _ in range(10):
            kept.upgrade()
            assert table.stats()["locks"] == 4
        finish.set()
        assert all(child.result() > 0 for child in reading)


def _meet(parties: int, rounds: int) -> list[int]:
    with Table() as table:
        barrier = table.barrier("barrier", parties)
        return [(barrier.wait(DEADLINE_S), int(table.incr(f"round {number}")))[1] for number in range(rounds)]


def test_parties_stay_together(kept: KeptServer) -> None:
    parties, rounds = 3, 3_000
    with Table() as table, ExitStack() as stack:
        meeting = [stack.enter_context(Child(_meet, parties, rounds)) for _ in range(parties)]
        wait_until(lambda: "round 0" in table, "they meet")
        while f"round {rounds - 1}" not in table:
            kept.upgrade()
        # Whoever passes a barrier finds that all have passed the one before.
        counted = [child.result() for child in meeting]
        assert all(sorted(row) == [1, 2, 3] for row in zip(*counted, strict=True))


def test_memory_is_neither_lost_nor_given_twice(kept: KeptServer) -> None:
    def value(number: int) -> bytes:
        return b"%050d" % number

    def fill(name: str, numbers: range) -> None:
        table.set_many({f"{name} {number}": value(number) for number in numbers})

    with Table() as table:
        fill("key", range(2_000))
        table.delete_many([f"key {number}" for number in range(0, 2_000, 2)])
        allocated = table.stats()["memory_allocated"]
        kept.upgrade()
        # What workers had at hand was free, too.
        assert table.stats()["memory_allocated"] <= allocated
        # What was left at the upgrade is of that moment, and not of this one. All of these have the same size, and find
        # room in the same pages.
        fill("upg", range(400))
        kept.kill_server()
        fill("dth", range(400))
        for name in ("upg", "dth"):
            for number in range(400):
                assert table[f"{name} {number}"] == value(number)
        for number in range(1, 2_000, 2):
            assert table[f"key {number}"] == value(number)


SERVER = "_cli__serving"


def test_it_is_what_is_installed_now_that_takes_over(ringtable_dir: Path, tmp_path: Path) -> None:
    with Installed(tmp_path) as kept, Table() as table:
        table["key"] = b"value"
        (first,) = kept.extensions()
        assert "/first/" in first
        for version in ("second", "third"):
            kept.install(version, **{SERVER: ('"ready again"', f'"ready again, the {version}"')})
            kept.upgrade()
            assert f"ready again, the {version}" in kept.said
            assert any(f"/{version}/" in extension for extension in kept.extensions())
            # A server that dies is followed by one of the same program.
            kept.kill_server()
            assert kept.said.count(f"ready again, the {version}") == 2
            assert table["key"] == b"value"
            table["key"] = b"value"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"_keeper__taking_over": ("from ringtable._ringtable import KEPT_LAYOUTS", "KEPT_LAYOUTS = 6 * (0,)")},
            "0.0.0",
        ),
        ({"_errors": ('"""Every', 'raise RuntimeError(\'not today\')\n"""Every')}, "not today"),
        (
            {"_server": ("        self._core = ", "        raise RuntimeError('not today')\n        self._core = ")},
            "another one takes over what it had",
        ),
    ],
    ids=["other layouts", "no import", "no start"],
)
def test_what_cannot_take_over_changes_nothing(
    ringtable_dir: Path, tmp_path: Path, changes: dict[str, tuple[str, str]], words: str
) -> None:
    with Installed(tmp_path) as kept, Table() as table, ExitStack() as stack:
        table["key"] = b"value"
        server = kept.server_pid
        kept.install("second", **changes)
        done = run_cli("upgrade")
        assert done.returncode == 1
        assert "the new version could not take over, and the old one goes on" in done.stderr
        assert words in kept.words
        wait_until(lambda: table.stats()["upgrades_failed"] == 1, "the server has heard of it")
        # That it cannot start may be seen only when the old one has gone: then that program takes over again.
        assert (kept.server_pid == server) == (words != "another one takes over what it had")
        # More than lanes were prepared.
        for number in range(40):
            stack.enter_context(Table())["key"] = b"%d" % number
        assert table["key"] == b"39"


WAITS = "import os\nwith open(os.environ['GATE']) as gate:\n    gate.read()\n"


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipe that a new version waits at when it is imported."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("GATE", str(gate))
    return gate


def at_the_gate(kept: Installed) -> None:
    """Begin an upgrade to a version that waits at the gate."""
    kept.install("second", _errors=('"""Every', f'{WAITS}"""Every'))
    kept.signal(UPGRADE)
    wait_until(lambda: len(kept.processes()) == 2, "the successor is there")


def test_clients_come_and_go_while_a_successor_gets_ready(ringtable_dir: Path, tmp_path: Path, gate: Path) -> None:
    with Installed(tmp_path) as kept, Table() as table, ExitStack() as stack:
        with Table() as other:
            other["key"] = b"value"
            at_the_gate(kept)
            lock = other.lock("lock")
            lock.acquire()
        # So few that no lanes have to be prepared for others.
        for number in range(5):
            stack.enter_context(Table())["key"] = b"%d" % number
        table["key"] = b"before"
        with open(gate, "w"):
            pass
        kept.wait_for_successor()
        assert table["key"] == b"before"
        assert table.lock("lock").acquire(timeout=DEADLINE_S)
        assert table.stats()["lanes"] == 6
        for number in range(40):
            stack.enter_context(Table())["key"] = b"%d" % number
        assert table["key"] == b"39"


def test_clients_that_come_do_not_wait_for_a_successor_that_takes_long(
    ringtable_dir: Path, tmp_path: Path, gate: Path
) -> None:
    with Installed(tmp_path) as kept, Table() as table, ExitStack() as stack:
        at_the_gate(kept)
        # More than lanes were prepared.
        for number in range(40):
            stack.enter_context(Table())["key"] = b"%d" % number
        assert table["key"] == b"39"
        assert "no upgrade: the new program takes too long to begin" in kept.words
        assert len(kept.processes()) == 1
        wait_until(lambda: table.stats()["upgrades_failed"] == 1, "the server has heard of it")


def test_a_server_that_dies_while_its_successor_gets_ready(ringtable_dir: Path, tmp_path: Path, gate: Path) -> None:
    with Installed(tmp_path) as kept, Table() as table:
        table["key"] = b"value"
        at_the_gate(kept)
        server = table.stats()["process_id"]
        os.kill(server, signal.SIGKILL)
        kept.wait_for_successor()
        assert table["key"] == b"value"
        assert len(kept.processes()) == 1
        assert "no upgrade: the server, or the new program, has died meanwhile" in kept.words


def test_an_order_to_end_is_for_the_successor_too(ringtable_dir: Path, tmp_path: Path, gate: Path) -> None:
    with Installed(tmp_path) as kept, Table() as table:
        table["key"] = b"value"
        at_the_gate(kept)
        processes = kept.processes()
        kept.signal(signal.SIGTERM)
        assert kept.wait() == 0
        assert all(is_dead(process) for process in processes)
        with pytest.raises(ServerGone):
            table["key"] = b"value"
        assert os.listdir(ringtable_dir) == []


def test_whoever_orders_an_upgrade_that_is_on_its_way_waits_for_it(kept: KeptServer) -> None:
    with ThreadPoolExecutor(3) as pool:
        orders = list(pool.map(lambda _: run_cli("upgrade"), range(3)))
    assert [order.returncode for order in orders] == [0, 0, 0]
    with Table() as table:
        figures = table.stats()
    assert 1 <= figures["upgrades"] == figures["restarts"] <= 3
    assert figures["upgrades_failed"] == 0
    assert kept.words == ""


def test_without_a_keeper_there_is_no_upgrade(server: object) -> None:
    done = run_cli("upgrade")
    assert done.returncode == 1
    assert "the server has no keeper" in done.stderr


@pytest.mark.parametrize("ending", ["import os; os._exit(0)", "raise SystemExit(0)", "import os; os.abort()"])
def test_a_new_program_that_ends_as_it_begins_is_no_order_to_end(
    ringtable_dir: Path, tmp_path: Path, ending: str
) -> None:
    with Installed(tmp_path) as kept, Table() as table:
        table["key"] = b"value"
        # Behind the resignation of the server before.
        kept.install("second", **{SERVER: ("    interrupt_on_termination()\n", f"    {ending}\n")})
        kept.signal(UPGRADE)
        kept.wait_for_successor()
        assert table["key"] == b"value"
        wait_until(lambda: table.stats()["upgrades_failed"] == 1, "the server has heard of it")
        figures = table.stats()
        assert (figures["restarts"], figures["upgrades"]) == (2, 0)
        kept.kill_server()
        assert table["key"] == b"value"


def test_a_new_program_that_dies_again_and_again_gives_way_to_the_one_before(
    ringtable_dir: Path, tmp_path: Path
) -> None:
    with Installed(tmp_path, max_deaths=2) as kept, Table() as table:
        table["key"] = b"value"
        # When it lets clients in, its keeper knows that it serves.
        ends = "__import__('ringtable').connect(running.path).close(); __import__('os').abort()"
        kept.install("second", **{SERVER: ("running.wait()", ends)})
        kept.signal(UPGRADE)
        wait_until(lambda: "since the upgrade: the program from before takes over" in kept.words, "it is given up")
        kept.wait_for_successor()
        assert table["key"] == b"value"
        assert table.stats()["keeper_process_id"] == kept.pid


def test_hundreds_of_clients_go_on(ringtable_dir: Path) -> None:
    # Beyond what `select` takes, of three or four descriptors for each client.
    with KeptServer() as kept, ExitStack() as stack:
        tables = [stack.enter_context(Table()) for _ in range(300)]
        kept.upgrade()
        kept.kill_server()
        for table in tables:
            table.incr("counter")
        assert tables[0]["counter"] == b"300"


@pytest.mark.parametrize("what", ["death", "upgrade"])
def test_an_order_to_end_in_the_middle_of_it_ends_all_in_order(ringtable_dir: Path, what: str) -> None:
    for nth in range(6):
        with KeptServer() as kept, Table() as table:
            table["key"] = b"value"
            if what == "death":
                os.kill(kept.server_pid, signal.SIGKILL)
            else:
                kept.signal(UPGRADE)
                # At another moment each time.
                for _ in range(2_000 * nth):
                    table["key"] = b"value"
            kept.signal(signal.SIGTERM)
            assert kept.wait() == 0
            assert os.listdir(ringtable_dir) == []


def test_a_server_that_hangs_is_replaced(ringtable_dir: Path) -> None:
    with KeptServer("--hang-timeout", "0.5") as kept, Table() as table:
        table["key"] = b"value"
        freeze(kept.server_pid)
        kept.wait_for_successor()
        assert table["key"] == b"value"
        assert "the server has shown no life for 0.5 s: killing it" in kept.words
        assert table.stats()["restarts"] == 1


def test_whoever_shows_life_is_left_alone(ringtable_dir: Path) -> None:
    with KeptServer("--hang-timeout", "0.5") as kept, Table() as table:
        server = kept.server_pid
        # A keeper that stands asks nothing, and does not take that for silence.
        for _ in range(3):
            freeze(kept.pid)
            with suppress(Timeout), Table(timeout=0.6) as other:
                other.event("never set").wait(0.6)
            kept.signal(signal.SIGCONT)
            assert table.incr("counter") > 0
        assert kept.server_pid == server
        assert kept.words == ""
