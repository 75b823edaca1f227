"""Servers that log each change: what is there after they and their machine have died, and when the disk fails."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import ringtable
from foreign import ForeignServer, check, programs
from ringtable import CommandError, DamagedFile, FileError, InvalidOption, Server, ServerGone, Table
from support import DEADLINE_S, Child, ServerProcess, run_cli, wait_until

PROGRAMS = programs()
by_each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
POLICIES = ["always", "everysec", "no"]


@contextmanager
def logged(folder: Path, *options: str) -> Iterator[tuple[ServerProcess, Table]]:
    """A server with a log, and a table of its."""
    with ServerProcess("--data", str(folder), "--log", *options) as server, ringtable.connect() as table:
        yield server, table


def changes(folder: Path) -> list[Path]:
    """The files of changes of a log, in their order."""
    files = (folder / "appendonlydir").glob("*.incr.aof")
    return sorted(files, key=lambda file: int(file.name.split(".")[2]))


def contents_of(table: Table) -> dict[Any, Any]:
    """The entries of a table: the value, when it will be gone, whether it is never evicted."""
    return {key: table.call("RING.ENTRY", key) for key in table}


def test_smoke(ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path) as (server, table):
        table["key"] = b"value"
        table.flush(durable=True)
        server.kill()
    with logged(tmp_path) as (_, table):
        assert dict(table) == {b"key": b"value"}


def change_much(table: Table, seed: int, changes: int = 2_000) -> None:
    """Change entries in all ways that there are."""
    choose = random.Random(seed)
    keys = [b"key %d" % number for number in range(200)] + [b"", b"\xff" * 60_000, b"*3\r\n$3\r\nSET\r\n#"]
    for number in range(changes):
        key = choose.choice(keys)
        match choose.randrange(12):
            case 0 | 1 | 2:
                size = choose.choice([0, 1, 100, 4_096, 4_097, 70_000])
                table.set(key, choose.randbytes(size), ttl=choose.choice([None, 1_000]))
            case 3:
                table.set(key, b"#ringtable-sum 0123456789abcdef 0 0\n", evictable=choose.choice([None, False, True]))
            case 4:
                table.delete(key)
            case 5:
                table.expire(key, 500.5)
            case 6:
                table.persist(key)
            case 7:
                table.incr(b"count %d" % choose.randrange(5), number)
            case 8:
                table.set(key, b"again", keepttl=True)
            case 9:
                table.get_and_delete(key)
            case 10:
                table.delete_prefix(b"key %d" % choose.randrange(10, 100))
            case 11:
                if choose.randrange(100) == 0:
                    table.clear()
                else:
                    table.set_many({b"many %d" % other: b"value" for other in range(choose.randrange(10))}, ttl=100)


@pytest.mark.parametrize("policy", POLICIES)
def test_all_kinds_of_changes_are_there_again(policy: str, ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    for number in range(3):
        with logged(tmp_path, "--fsync", policy) as (server, table):
            change_much(table, seed + number, 600)
            table.flush(durable=True)
            before = contents_of(table)
            server.kill()
        with logged(tmp_path, "--fsync", policy) as (server, table):
            assert contents_of(table) == before
            assert server.stop() == 0
        with logged(tmp_path, "--fsync", policy) as (_, table):
            assert contents_of(table) == before


def test_eviction_and_expiry_are_logged(ringtable_dir: Path, tmp_path: Path) -> None:
    options = ("--max-memory", "8MiB", "--cache")
    with logged(tmp_path, *options) as (server, table):
        table.set_many((b"key %d" % number, b"value" * 1_000) for number in range(5_000))
        table.set_many((b"soon %d" % number, b"value") for number in range(100))
        for number in range(100):
            table.expire(b"soon %d" % number, 0.01)
        wait_until(lambda: table.stats()["expired_keys"] >= 100, "they are gone")
        table.flush(durable=True)
        before = contents_of(table)
        assert 100 < len(before) < 4_000
        server.kill()
    with logged(tmp_path, *options) as (_, table):
        assert contents_of(table) == before


@pytest.mark.parametrize("policy", POLICIES)
def test_the_order_to_end_loses_nothing(policy: str, ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path, "--fsync", policy) as (server, table):
        with ringtable.connect(writes="posted") as posting:
            for number in range(20_000):
                posting[b"key %d" % number] = b"value"
            posting.flush()
        assert server.stop() == 0
    with logged(tmp_path) as (_, table):
        assert len(table) == 20_000


def test_what_is_acknowledged_under_always_survives_kills(ringtable_dir: Path, tmp_path: Path) -> None:
    """Each client counts; whatever it was told is there after the death of the server, and at most one more."""

    def count(number: int, transport: Any, told: int) -> None:
        with Table("default", transport=transport, reconnect=False) as own, os.fdopen(told, "wb", 0) as told_to:
            while True:
                told_to.write(b"%d\n" % own.incr(f"count {number}"))

    seen = [0] * 4
    for _ in range(5):
        with logged(tmp_path, "--fsync", "always") as (server, table):
            for number, before in enumerate(seen):
                assert int(table.get(f"count {number}", b"0")) in (before, before + 1)
            seen = [int(table.get(f"count {number}", b"0")) for number in range(4)]
            pipes = [os.pipe() for _ in range(4)]
            children = [
                Child(count, number, "socket" if number == 0 else "auto", write_end)
                for number, (_, write_end) in enumerate(pipes)
            ]
            for _, write_end in pipes:
                os.close(write_end)
            wait_until(lambda: table.stats()["log_syncs"] > 30, "some syncs")
            server.kill()
            for number, (child, (read_end, _)) in enumerate(zip(children, pipes, strict=True)):
                with pytest.raises(AssertionError, match="ServerGone"):
                    child.result()
                child.close()
                with os.fdopen(read_end) as told:
                    lines = told.read().splitlines()
                assert [int(line) for line in lines] == list(range(seen[number] + 1, seen[number] + len(lines) + 1))
                seen[number] += len(lines)


def test_one_sync_is_for_all_who_wait(ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path, "--fsync", "always") as (_, table):
        before = table.stats()["log_syncs"]
        table.set_many((b"key %d" % number, b"value") for number in range(10_000))
        assert table.stats()["log_syncs"] - before < 2_000
        assert table.stats()["log_records"] >= 10_000


def test_reads_do_not_wait_for_the_disk(ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path, "--fsync", "always") as (_, table), ringtable.connect(reads="server") as asking:
        table["key"] = b"value"
        before = table.stats()["log_syncs"]
        for _ in range(1_000):
            assert asking["key"] == b"value"
        assert table.stats()["log_syncs"] == before


# Rewriting


def test_a_log_is_rewritten_while_others_write(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    with logged(tmp_path) as (server, table):

        def change(number: int) -> None:
            with ringtable.connect() as own:
                change_much(own, seed + number, 10_000_000)

        with Child(change, 1) as one, Child(change, 2) as other:
            for _ in range(10):
                # Behind a rewrite that is under way there is another one.
                assert table.call("SAVE") == b"OK"
                one.check()
                other.check()
            one.kill()
            other.kill()
        table.flush(durable=True)
        before_kill = contents_of(table)
        assert len(changes(tmp_path)) <= 2
        server.kill()
    with logged(tmp_path) as (_, table):
        assert contents_of(table) == before_kill


def test_a_long_log_is_rewritten_by_itself(ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path) as (server, table):
        for _ in range(80):
            table["key"] = os.urandom(1 << 20)
        wait_until(lambda: table.stats()["log_rewrites"] > 0, "it has become too long")
        assert sum(file.stat().st_size for file in changes(tmp_path)) < 70 << 20
        table.flush(durable=True)
        before = dict(table)
        server.kill()
    with logged(tmp_path) as (_, table):
        assert dict(table) == before


def test_a_server_that_dies_while_it_rewrites(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(8):
        with logged(tmp_path) as (server, table):
            table.set_many((b"key %d" % number, choose.randbytes(100)) for number in range(30_000))
            table.call("BGREWRITEAOF")
            table.set_many((b"key %d" % number, choose.randbytes(100)) for number in range(choose.randrange(3_000)))
            table.flush(durable=True)
            before = dict(table)
            if choose.randrange(2):
                table.call("SAVE")
            server.kill()
        with logged(tmp_path) as (server, table):
            assert dict(table) == before
            server.kill()


# Real servers


@by_each_program
def test_another_server_goes_on_with_the_folder(program: Path, ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    with logged(tmp_path) as (server, table):
        change_much(table, seed)
        table.call("SAVE")
        change_much(table, seed + 1)
        table.flush(durable=True)
        before = {key: entry[:2] for key, entry in contents_of(table).items()}
        server.kill()
    done = check(program, "aof", tmp_path / "appendonlydir" / "appendonly.aof.manifest")
    assert (done.returncode, "All AOF files and manifest are valid" in done.stdout) == (0, True), done.stdout
    with ForeignServer(program, tmp_path, "--appendonly", "yes") as foreign:
        client = foreign.client
        assert {key: [client.get(key), client.pexpiretime(key)] for key in client.scan_iter(count=1000)} == before


def test_an_entry_whose_time_was_renewed(ringtable_dir: Path, tmp_path: Path) -> None:
    """When the log is loaded, the time that it had at first has passed."""
    with logged(tmp_path) as (server, table):
        for save in (True, False):
            for name, renew in (("later", lambda key: table.expire(key, 1_000)), ("never", table.persist)):
                key = f"{name} {save}"
                table.set(key, b"value", ttl=2)
                if save:
                    table.call("SAVE")
                assert renew(key)
        table.flush(durable=True)
        passed = time.monotonic() + 2
        wait_until(lambda: time.monotonic() > passed, "that time has passed")
        before = contents_of(table)
        assert len(before) == 4
        server.kill()
    with logged(tmp_path) as (_, table):
        assert contents_of(table) == before


def test_what_is_evicted_while_it_is_loaded_does_not_come_back(ringtable_dir: Path, tmp_path: Path) -> None:
    options = ("--cache", "--max-memory")
    with logged(tmp_path, *options, "32MiB") as (server, table):
        table.set_many((b"key %d" % number, bytes(1_000)) for number in range(15_000))
        table.flush(durable=True)
        server.kill()
    with logged(tmp_path, *options, "8MiB") as (server, table):
        before = set(table)
        assert 1_000 < len(before) < 14_000
        server.kill()
    with logged(tmp_path, *options, "32MiB") as (_, table):
        assert set(table) == before


def test_a_table_that_is_full_is_loaded(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    """Entries come back in another order than they were written in, and find room all the same."""
    choose = random.Random(seed)
    options = ("--eviction", "noeviction", "--max-memory", "16MiB")
    with logged(tmp_path, *options) as (server, table):
        refused = 0
        while refused < 300:
            try:
                table[b"key %d" % choose.randrange(100_000)] = bytes(choose.choice([100, 2_000, 5_000, 50_000]))
            except ringtable.OutOfMemory:
                refused += 1
                for key in choose.sample(sorted(table), 3):
                    del table[key]
        table.call("SAVE")
        before = contents_of(table)
        server.kill()
    with logged(tmp_path, *options) as (_, table):
        assert contents_of(table) == before


# What is not as one would like it


def log_fifty(folder: Path) -> tuple[Path, bytes]:
    """Log fifty keys, each of them durable before the next one; returns the file of changes, and what is in it."""
    with logged(folder) as (server, table):
        for number in range(50):
            table[f"key {number}"] = b"value" * 100
            table.flush(durable=True)
        server.kill()
    [file] = changes(folder)
    return file, file.read_bytes()


def test_a_torn_tail_is_cut_off(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    file, whole = log_fifty(tmp_path)
    manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    named = manifest.read_text()
    head = whole.index(b"\n") + 1
    for _ in range(12):
        cut = choose.randrange(head, len(whole))
        torn = whole[:cut] + choose.choice([b"", bytes(100), choose.randbytes(30)])
        for other in changes(tmp_path):
            other.unlink()
        manifest.write_text(named)
        file.write_bytes(torn)
        with logged(tmp_path) as (server, table):
            count = len(table)
            assert set(table) == {b"key %d" % number for number in range(count)}
            server.kill()
        # All that was whole, and nothing else; the file as it is now is whole.
        kept = file.read_bytes()
        assert torn.startswith(kept)
        assert kept.count(b"#ringtable-sum ") == whole[:cut].count(b"#ringtable-sum ") or not whole[:cut].endswith(
            b"\n"
        )
        assert count == kept.count(b"SET")


def test_damage_of_what_was_on_the_disk_is_no_torn_tail(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    file, whole = log_fifty(tmp_path)
    ends = [match.end() for match in re.finditer(rb"#ringtable-sum .*\n", whole)]
    for _ in range(10):
        place = choose.randrange(ends[-3])
        damaged = bytearray(whole)
        damaged[place] ^= 1 << choose.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=rf"^{file}: at byte \d+ there is "):
            Server(data=tmp_path, log=True)
        assert file.read_bytes() == damaged
    file.write_bytes(whole)
    with logged(tmp_path) as (_, table):
        assert len(table) == 50


def test_what_redis_has_written_behind_it_is_not_cut_off(ringtable_dir: Path, tmp_path: Path) -> None:
    """A server of Redis goes on with the folder; what it adds has no checksums."""
    file, whole = log_fifty(tmp_path)
    with file.open("ab") as log:
        log.write(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nset\r\n$6\r\ntheirs\r\n$1\r\n1\r\n")
    before = file.read_bytes()
    assert before.startswith(whole)
    with pytest.raises(DamagedFile, match=f"at byte {len(whole)} there is what Redis, or Valkey, has written"):
        Server(data=tmp_path, log=True)
    assert run_cli("check", str(tmp_path)).returncode == 1
    assert file.read_bytes() == before


def test_a_log_without_its_manifest_is_not_begun_anew(ringtable_dir: Path, tmp_path: Path) -> None:
    file, whole = log_fifty(tmp_path)
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").unlink()
    with pytest.raises(DamagedFile, match=r"manifest: at byte 0 there is no such file"):
        Server(data=tmp_path, log=True)
    assert file.read_bytes() == whole


def test_a_damaged_snapshot_or_manifest(ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path) as (server, table):
        table["key"] = b"value"
        table.call("SAVE")
        server.stop()
    folder = tmp_path / "appendonlydir"
    for file in [*folder.glob("*.base.rdb"), folder / "appendonly.aof.manifest"]:
        whole = file.read_bytes()
        file.write_bytes(whole[:-2])
        with pytest.raises(DamagedFile, match=f"^{file}: at byte"):
            Server(data=tmp_path, log=True)
        file.write_bytes(whole)
    [file] = changes(tmp_path)[:1]
    file.rename(tmp_path / "away")
    with pytest.raises(FileError, match=f"reading {file}: No such file"):
        Server(data=tmp_path, log=True)
    (tmp_path / "away").rename(file)
    with logged(tmp_path) as (_, table):
        assert dict(table) == {b"key": b"value"}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A folder on a disk of its own, with little room."""
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount anything here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(table: Table, keys: int) -> None:
    """Write large values to some keys, until the disk is full."""
    for number in range(100):
        table[f"large {number % keys}"] = bytes(100_000)
        table.flush(durable=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_disk_refuses_writes_and_nothing_else(policy: str, ringtable_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, "3m"):
        with logged(folder, "--fsync", policy) as (server, table):
            table["key"] = b"before"
            table.flush(durable=True)
            with pytest.raises((FileError, ServerGone)):
                fill(table, 100)
            wait_until(lambda: table.stats()["log_broken"] == 1, "it has failed")
            with pytest.raises(FileError, match=r"the log cannot be written .*no space left on the device.* refused"):
                table["key"] = b"after"
            with pytest.raises(FileError, match="refused"):
                table["key"] = bytes(1 << 20)
            assert table["key"] == b"before"
            info: Any = table.call("INFO", "persistence")
            assert b"aof_last_write_status:err" in info
            with pytest.raises(FileError):
                del table["large 0"]
            (folder / "other").write_bytes(b"")
            with pytest.raises(CommandError, match="no space"):
                table.call("SAVE")
            server.kill()
        with logged(folder, "--fsync", policy) as (server, table):
            # What was acknowledged as durable is there.
            assert table["key"] == b"before"
            server.kill()


def test_a_disk_with_room_again(ringtable_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, "6m"), logged(folder) as (server, table):
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(4 << 20))
        table["key"] = b"before"
        with pytest.raises((FileError, ServerGone)):
            fill(table, 3)
        ballast.unlink()
        assert table.call("SAVE") == b"OK"
        table["key"] = b"after"
        table.flush(durable=True)
        assert table.stats()["log_broken"] == 0
        before = dict(table)
        server.kill()
        with logged(folder) as (_, again):
            assert dict(again) == before


def test_writes_may_go_on_without_the_disk(ringtable_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, "2m"), logged(folder, "--on-disk-error", "keep-serving") as (server, table):
        for number in range(30):
            table[f"large {number}"] = bytes(100_000)
        wait_until(lambda: table.stats()["log_broken"] == 1, "it has failed")
        table["key"] = b"value"
        assert table["key"] == b"value"
        with pytest.raises(FileError, match="no space"):
            table.flush(durable=True)
        server.kill()


def test_what_a_failed_log_has_not_is_saved_at_the_end(ringtable_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, "6m"):
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(5 << 20))
        with logged(folder, "--on-disk-error", "keep-serving") as (server, table):
            for number in range(30):
                table[f"large {number}"] = bytes(100_000)
            wait_until(lambda: table.stats()["log_broken"] == 1, "it has failed")
            table["key"] = b"value"
            ballast.unlink()
            assert server.stop() == 0
        with logged(folder) as (_, table):
            assert table["key"] == b"value"
            assert len(table) == 31


def test_what_does_not_go_together(ringtable_dir: Path, tmp_path: Path) -> None:
    for options, words in [
        ({"log": True}, "^log needs a folder: data FOLDER$"),
        ({"snapshots_kept": 5}, "^snapshots_kept needs a folder"),
        ({"snapshot_every": 5}, "^snapshot_every needs a folder"),
        ({"fsync": "always", "data": tmp_path}, "^fsync needs a log: log$"),
        ({"on_disk_error": "keep-serving", "data": tmp_path}, "^on_disk_error needs a log"),
        (
            {"log": True, "data": tmp_path, "fsync": "sometimes"},
            "fsync is 'sometimes'; allowed are always, everysec, no",
        ),
        ({"log": True, "data": tmp_path, "on_disk_error": "cry"}, "on_disk_error is 'cry'; allowed are refuse"),
        ({"log": True, "data": tmp_path, "fsync": "always", "udp": "127.0.0.1:0"}, "fsync always does not go together"),
    ]:
        with pytest.raises(InvalidOption, match=words):
            Server(**options)  # type: ignore[arg-type]
    with Server(data=tmp_path, log=True):
        pass
    with pytest.raises(InvalidOption, match="has the log of a table: go on with it"):
        Server(data=tmp_path)


@pytest.mark.parametrize("log", [False, True], ids=["snapshots", "a log"])
def test_a_folder_of_redis_is_not_begun_anew(ringtable_dir: Path, tmp_path: Path, log: bool) -> None:
    dump = tmp_path / "dump.rdb"
    with Server(), ringtable.connect() as table:
        table["key"] = b"value"
        table.snapshot(dump)
    with pytest.raises(InvalidOption, match=f"{dump} is of Redis or Valkey"):
        Server(data=tmp_path, log=log)
    assert {path.name for path in tmp_path.iterdir()} <= {"dump.rdb", "ringtable.lock"}
    # Beside a snapshot of ringtable's it is somebody's copy.
    dump.rename(tmp_path / "snapshot-1764524695123.rdb")
    with Server(data=tmp_path, log=log), ringtable.connect() as table:
        table.snapshot(dump)
    with Server(data=tmp_path, log=log), ringtable.connect() as table:
        assert table["key"] == b"value"


def test_a_table_without_a_log(table: Table) -> None:
    words = "this server has no log: start it with --data DIR --log"
    with pytest.raises(CommandError, match=words):
        table.flush(durable=True)
    with pytest.raises(CommandError, match=words):
        table.call("BGREWRITEAOF")


def test_snapshots_become_a_log(ringtable_dir: Path, tmp_path: Path) -> None:
    with Server(data=tmp_path), ringtable.connect() as table:
        table.set("key", b"value", evictable=False)
        before = contents_of(table)
    with logged(tmp_path) as (server, table):
        assert contents_of(table) == before
        table["more"] = b"value"
        server.stop()
    with logged(tmp_path) as (_, table):
        assert set(table) == {b"key", b"more"}


def test_a_keeper_and_a_log(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    with logged(tmp_path, "--keeper", "--max-deaths", "100") as (server, table):
        for number in range(3):
            change_much(table, seed + number, 300)
            os.kill(table.stats()["process_id"], signal.SIGKILL)
            change_much(table, seed + 10 + number, 300)
            assert table.stats()["restarts"] == number + 1
        done = run_cli("upgrade")
        assert done.returncode == 0, done.stderr
        change_much(table, seed + 20, 300)
        wait_until(lambda: table.stats()["log_rewrites"] > 0, "what was on its way is on the disk")
        table.flush(durable=True)
        before = contents_of(table)
        assert server.stop() == 0
    with logged(tmp_path) as (_, table):
        assert contents_of(table) == before


def test_the_commands_of_redis(ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path) as (_, table), redis.Redis(unix_socket_path=table.address) as client:
        client.set("key", "value")
        assert client.bgrewriteaof() is True
        wait_until(lambda: table.stats()["log_rewrites"] == 1, "it is rewritten")
        info: Any = client.info("persistence")
        assert info["aof_enabled"] == 1
        assert info["aof_last_write_status"] == "ok"
        assert info["aof_rewrites"] == 1


def test_a_full_queue_holds_up_those_who_write(ringtable_dir: Path, tmp_path: Path) -> None:
    """More than it has room for, at once: all of it is written, and somebody who reads goes on."""
    with logged(tmp_path, "--max-memory", "512MiB") as (server, table):

        def write(number: int) -> None:
            with ringtable.connect(timeout=DEADLINE_S) as own:
                for other in range(100):
                    own[f"large {number} {other % 3}"] = bytes(1 << 20)

        with Child(write, 1) as one, Child(write, 2) as other, ringtable.connect(reads="server", timeout=5) as asking:
            while not (one.has_ended() and other.has_ended()):
                asking.get("large 1 0")
            one.result()
            other.result()
        table.flush(durable=True)
        before = len(table)
        server.kill()
    with logged(tmp_path, "--max-memory", "512MiB") as (_, table):
        assert len(table) == before == 6


def test_files_are_looked_at(ringtable_dir: Path, tmp_path: Path) -> None:
    with logged(tmp_path) as (server, table):
        table.set_many({"one": b"1", "two": b"2"})
        table.call("SAVE")
        table["three"] = b"3"
        table.flush(durable=True)
        server.kill()
    folder = tmp_path / "appendonlydir"
    [base] = folder.glob("*.base.rdb")
    [file] = changes(tmp_path)
    done = run_cli("check", str(tmp_path))
    words = f"{base}: whole: 2 entries\n{file}: whole: 1 changes\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, words, "")
    before = file.read_bytes()
    file.write_bytes(before + b"*3\r\n$3\r")
    done = run_cli("check", str(tmp_path))
    assert done.stdout.endswith("1 changes, and 7 bytes at the end that were never durable\n")
    assert file.read_bytes() == before + b"*3\r\n$3\r"
    base.write_bytes(base.read_bytes()[:-1])
    for path in (tmp_path, base):
        done = run_cli("check", str(path))
        assert (done.returncode, done.stderr.startswith(f"{base}: at byte ")) == (1, True)
    done = run_cli("check", str(ringtable_dir))
    assert (done.returncode, "neither a snapshot nor a log" in done.stderr) == (1, True)
