"""An upgrade to a version whose layout of shared memory is another one: the table moves, with all that is in it.

That version is this one, but for the number of a layout. So clients of this one can join it, too.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from installed import Installed
from ringtable import LockLost, ServerGone, Table
from ringtable._keeper.messages import UPGRADE
from support import DEADLINE_S, Child, Flag, is_dead, raises_server_gone, run_cli, wait_until

OTHER_LAYOUT = (
    "from ringtable._ringtable import KEPT_LAYOUTS",
    "from ringtable._ringtable import KEPT_LAYOUTS as _LAYOUTS\n\nKEPT_LAYOUTS = (*_LAYOUTS[:-1], _LAYOUTS[-1] + 1)",
)
NEXT = {"_keeper__taking_over": OTHER_LAYOUT}


@pytest.fixture
def installed(ringtable_dir: Path, tmp_path: Path) -> Iterator[Installed]:
    with Installed(tmp_path) as installed:
        yield installed


def move(installed: Installed, name: str = "next") -> None:
    """Upgrade to the version of another layout, and wait until it serves."""
    installed.install(name, **NEXT)
    installed.upgrade()


def test_smoke(installed: Installed) -> None:
    with Table() as table:
        table["key"] = b"value"
        before, server = table.stats(), table.server_id
        move(installed)
        assert table["key"] == b"value"
        after = table.stats()
        assert table.server_id != server
        assert (after["restarts"], after["upgrades"], after["upgrades_failed"]) == (1, 1, 0)
        assert after["keeper_process_id"] == before["keeper_process_id"] == installed.pid
        wait_until(lambda: is_dead(before["process_id"]), "the old one has ended")
        assert installed.words == ""
        # And goes on: a server that dies is followed by one of the same version, which has its table.
        server = table.server_id
        table["key"] = b"another"
        installed.kill_server()
        assert table["key"] == b"another"
        assert table.server_id == server


def test_entries_move_as_they_are(installed: Installed) -> None:
    large = bytes(range(256)) * (20 << 12)
    with Table() as table:
        table.set_many({f"key {number}": b"%d" % number for number in range(20_000)})
        table.set("expiring", b"value", ttl=3_600)
        table.set("evictable", b"value", evictable=True)
        table.set("permanent", b"value", evictable=False)
        table["large"] = large
        table["empty"] = b""
        found = table.get_with_version("key 7")
        assert found is not None
        unevictable = table.stats()["entries_unevictable"]
        move(installed)
        assert len(table) == 20_005
        for number in range(20_000):
            assert table[f"key {number}"] == b"%d" % number
        assert table["large"] == large
        assert table["empty"] == b""
        assert 3_000 < (table.ttl("expiring") or 0) <= 3_600
        assert table.ttl("key 7") is None
        assert table.stats()["entries_unevictable"] == unevictable
        # What a client knows of the old table is not taken for something of the new one.
        assert not table.set("key 7", b"other", if_version=found[1])
        assert table["key 7"] == b"7"


def _count(finish: Flag) -> int:
    counted = 0
    with Table() as table:
        while not finish.is_set():
            table.incr("counter")
            counted += 1
    return counted


def _read(finish: Flag) -> int:
    """Read in place, and see that nothing goes back."""
    seen = reads = 0
    with Table() as table:
        while not finish.is_set():
            now = int(table.get("counter", b"0"))
            assert now >= seen
            seen = now
            reads += 1
    return reads


def test_clients_join_anew_and_nothing_is_lost_or_done_twice(installed: Installed) -> None:
    with ExitStack() as stack, Table() as table:
        table["counter"] = b"0"
        table.set_many({f"key {number}": bytes(1_000) for number in range(20_000)})
        finish = stack.enter_context(Flag())
        counting = [stack.enter_context(Child(_count, finish)) for _ in range(4)]
        reading = stack.enter_context(Child(_read, finish))
        wait_until(lambda: int(table["counter"]) > 100, "they count")
        move(installed)
        moved = int(table["counter"])
        wait_until(lambda: int(table["counter"]) > moved + 100, "they go on")
        finish.set()
        counted = sum(child.result() for child in counting)
        assert reading.result() > 0
        assert int(table["counter"]) == counted
        assert installed.words == ""


def _count_in_batches(finish: Flag, key: str) -> tuple[int, int]:
    """Count by a hundred at a time. Returns what was counted, and what is in doubt."""
    counted = in_doubt = 0
    with Table() as table:
        while not finish.is_set():
            try:
                with table.pipeline() as batch:
                    for _ in range(100):
                        batch.incr(key)
                counted += 100
            except ServerGone:
                in_doubt += 100
    return counted, in_doubt


def test_of_a_batch_that_is_half_done_nothing_is_done_again(installed: Installed) -> None:
    keys = [f"counter {number}" for number in range(4)]
    with ExitStack() as stack, Table() as table:
        finish = stack.enter_context(Flag())
        counting = [stack.enter_context(Child(_count_in_batches, finish, key)) for key in keys]
        wait_until(lambda: all(int(table.get(key, b"0")) > 100 for key in keys), "they count")
        move(installed)
        moved = [int(table.get(key, b"0")) for key in keys]
        wait_until(
            lambda: all(int(table[key]) > then + 100 for key, then in zip(keys, moved, strict=True)), "they go on"
        )
        finish.set()
        for key, child in zip(keys, counting, strict=True):
            counted, in_doubt = child.result()
            assert in_doubt <= 100
            assert counted <= int(table[key]) <= counted + in_doubt


def test_who_does_not_join_anew_is_told(installed: Installed) -> None:
    with Table(reconnect=False) as table, Table(reconnect=False) as reader:
        table["key"] = b"value"
        assert reader["key"] == b"value"
        move(installed)
        with pytest.raises(ServerGone, match="moved to a server of another version"):
            table["key"] = b"other"
        wait_until(lambda: raises_server_gone(lambda: reader.get("key")), "who reads in place learns of it")


def test_who_reads_in_place_sees_what_was_written_elsewhere(installed: Installed) -> None:
    with Table() as reader, Flag() as finish, ThreadPoolExecutor(1) as pool:
        reader["key"] = b"old"

        def read_on() -> None:
            # So that the last look at the server is never long ago.
            while not finish.is_set():
                reader.get("key")

        reading = pool.submit(read_on)
        move(installed)
        with Table() as other:
            other["key"] = b"new"
        assert reader["key"] == b"new"
        finish.set()
        reading.result()


def test_what_is_of_a_connection_ends_with_it(installed: Installed) -> None:
    with Table() as table, Table() as other:
        table["key"] = b"value"
        lock = table.lock("lock")
        lock.acquire()
        with table.view("key") as view:
            move(installed)
            # It is memory of its own, as long as it is there.
            assert bytes(view) == b"value"
        assert other.lock("lock").acquire(timeout=DEADLINE_S), "it is free"
        with pytest.raises(LockLost):
            lock.release()


def test_whoever_orders_it_waits_for_it(installed: Installed, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    wait = f"        open({str(tmp_path / 'gate')!r}).read()\n"
    installed.install("next", **NEXT, _server=("        self._core = ", f"{wait}        self._core = "))
    with Table() as table:
        table["key"] = b"value"
        old = table.stats()["process_id"]
        command = [sys.executable, "-m", "ringtable", "upgrade", "--timeout", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ordered:
            wait_until(lambda: is_dead(old), "the old one has ended")
            # Longer than it waits for one answer.
            with pytest.raises(subprocess.TimeoutExpired):
                ordered.wait(1)
            with open(tmp_path / "gate", "w"):
                pass
            assert "has taken over" in ordered.communicate(timeout=DEADLINE_S)[0]
            assert ordered.returncode == 0
        assert table["key"] == b"value"


def test_posted_writes_are_done_or_told_of(installed: Installed) -> None:
    with Table(writes="posted") as posting:
        lost = 0
        for number in range(400):
            if number == 200:
                installed.install("next", **NEXT)
                installed.signal(UPGRADE)
            try:
                posting[f"posted {number}"] = b"%d" % number
            except ServerGone:
                lost += 1
        installed.wait_for_successor()
        while True:
            try:
                posting.flush()
                break
            except ServerGone:
                lost += 1
        missing = [number for number in range(400) if posting.get(f"posted {number}") != b"%d" % number]
        assert lost or not missing


@pytest.mark.parametrize(
    "changes",
    [
        {"_server": ("        self._core = ", "        raise RuntimeError('not today')\n        self._core = ")},
        {"_server": ('            "max_memory": max_memory,', '            "max_memory": "2MiB",')},
        {"_server": ("        self._core = ", "        os.kill(os.getpid(), 9)\n        self._core = ")},
        {"_cli__serving": ("    interrupt_on", "    raise KeyboardInterrupt\n    interrupt_on")},
        {"_keeper__holdings": ("    def leave_to", "    def leave_to_nobody(self) -> None: ...\n\n    def _leave_to")},
        {"_keeper__messages": ("def pack_layouts(", "def pack_layouts(_): raise SystemExit\n\ndef _pack_layouts(")},
        {"_keeper__holdings": ("    def hear(", "    def hear(self, _): raise SystemExit\n\n    def _hear(")},
    ],
    ids=["no start", "no room", "killed", "interrupted", "no way", "no word", "ends as it hears"],
)
def test_a_version_that_cannot_have_it_changes_nothing(
    installed: Installed, changes: dict[str, tuple[str, str]]
) -> None:
    # Nobody has to join anew.
    with Table(reconnect=False) as table, ExitStack() as stack:
        table.set_many({f"key {number}": bytes(1_000) for number in range(5_000)})
        lock = table.lock("lock")
        lock.acquire()
        server = table.server_id
        installed.install("next", **NEXT, **changes)
        done = run_cli("upgrade")
        assert done.returncode == 1, done
        assert "the new version could not take over, and the old one goes on" in done.stderr
        wait_until(lambda: table.stats()["upgrades_failed"] == 1, "the server has heard of it")
        assert table.server_id == server
        assert len(table) == 5_000
        table["key"] = b"value"
        lock.release()
        for number in range(40):
            stack.enter_context(Table())["key"] = b"%d" % number
        # Another one can.
        move(installed, "another")
        assert len(stack.enter_context(Table())) == 5_001


def test_a_table_moves_once(installed: Installed) -> None:
    with Table() as table:
        table["key"] = b"value"
        move(installed)
        assert table["key"] == b"value"
        second = OTHER_LAYOUT[1].replace("+ 1", "+ 2")
        installed.install("second", _keeper__taking_over=(OTHER_LAYOUT[0], second))
        done = run_cli("upgrade")
        assert done.returncode == 1
        assert "the table has moved to another layout before" in installed.words
        assert table["key"] == b"value"


@pytest.mark.parametrize("log", [False, True], ids=["snapshots", "log"])
def test_a_table_that_is_on_the_disk_is_there_from_then_on(ringtable_dir: Path, tmp_path: Path, log: bool) -> None:
    data = tmp_path / "data"
    (tmp_path / "later").mkdir()
    options = ["--data", str(data), *(["--log", "--fsync", "always"] if log else [])]
    with Installed(tmp_path, *options) as installed, Table() as table:
        table["key"] = b"value"
        move(installed)
        table["other"] = b"value"
        if not log:
            table.call("SAVE")
        installed.kill()
    with Installed(tmp_path / "later", *options), Table() as table:
        assert (table["key"], table["other"]) == (b"value", b"value")
