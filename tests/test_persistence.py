"""Servers that keep their table on the disk: snapshots in a folder, and what is there after whatever has ended them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import ringtable
from foreign import ForeignServer, programs
from ringtable import DamagedFile, FileError, InvalidOption, OutOfMemory, Server, ServerExists, Table
from support import DEADLINE_S, Child, ServerProcess, children_of, run_cli, wait_until


def snapshots(folder: Path) -> list[Path]:
    """The snapshots in a folder, the newest one first."""
    return sorted(folder.glob("snapshot-*.rdb"), reverse=True)


def has_others(folder: Path, before: list[Path]) -> bool:
    """Whether there are other snapshots than before."""
    return snapshots(folder) != before


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[ServerProcess, Table]]:
    """A server with a folder, and a table of its."""
    with ServerProcess("--data", str(folder), *options) as server, ringtable.connect() as table:
        yield server, table


def test_smoke(ringtable_dir: Path, tmp_path: Path) -> None:
    for number in range(3):
        with served(tmp_path) as (server, table):
            assert dict(table) == {b"key %d" % before: b"value" for before in range(number)}
            table[f"key {number}"] = b"value"
            assert server.stop() == 0


@pytest.mark.parametrize("options", [(), ("--keeper",), ("--log",)])
def test_a_server_that_is_told_to_end_while_it_loads(ringtable_dir: Path, tmp_path: Path, options: tuple[str]) -> None:
    """It loads no further, and what is on the disk is as it was."""
    given = ("--data", str(tmp_path), "--max-memory", "256MiB")
    with ServerProcess(*given) as server, ringtable.connect() as table:
        for first in range(0, 1_000_000, 100_000):
            table.set_many((b"%d" % number, b"value") for number in range(first, first + 100_000))
        server.stop()
    before = snapshots(tmp_path)
    command = [sys.executable, "-m", "ringtable", "server", *given, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:

        def is_loading() -> bool:
            found = [file for pid in (program.pid, *children_of(program.pid)) for file in files_of(pid)]
            return str(before[0]) in found

        wait_until(is_loading, "it reads the snapshot")
        program.send_signal(signal.SIGTERM)
        said, _ = program.communicate(timeout=DEADLINE_S)
    assert (program.returncode, said) == (0, "")
    assert snapshots(tmp_path) == before
    assert not (tmp_path / "appendonlydir" / "appendonly.aof.manifest").exists()


def files_of(pid: int) -> list[str]:
    """The files that a process has open."""
    found = []
    with suppress(FileNotFoundError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(descriptor))
    return found


def test_a_table_is_there_again_after_an_end_in_order(ringtable_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with served(folder) as (server, table):
        table.set("expires", b"later", ttl=1_000)
        table.set("stays", b"7", evictable=False)
        table["large"] = os.urandom(3 << 20)
        table.set("soon", b"gone", ttl=0.01)
        before = {key: table.call("RING.ENTRY", key) for key in ("expires", "stays", "large")}
        assert folder.stat().st_mode & 0o777 == 0o700
        wait_until(lambda: "soon" not in table, "it expires")
        server.stop()
    [snapshot] = snapshots(folder)
    assert snapshot.stat().st_mode & 0o777 == 0o600
    with served(folder) as (_, table):
        assert {key: table.call("RING.ENTRY", key) for key in ("expires", "stays", "large")} == before
        assert len(table) == 3
        assert table.stats()["entries_unevictable"] == 1


def test_servers_inside_a_program(ringtable_dir: Path, tmp_path: Path) -> None:
    for number in range(2):
        with Server(data=tmp_path, snapshot_every=0), ringtable.connect() as table:
            assert len(table) == number
            table["key"] = b"value"
    with ringtable.open("other", data=tmp_path / "other", linger=0.05) as table:
        table["key"] = b"value"
        process = table.stats()["process_id"]
    wait_until(lambda: not Path(f"/proc/{process}").exists(), "it has ended, since nobody was there")
    with ringtable.open("other", data=str(tmp_path / "other"), linger=0.05) as table:
        assert dict(table) == {b"key": b"value"}
        with pytest.raises(InvalidOption, match=r"data is '/elsewhere', but the server at .* runs with"):
            ringtable.open("other", data="/elsewhere")


def test_what_a_snapshot_has_is_there_after_a_kill(ringtable_dir: Path, tmp_path: Path) -> None:
    with served(tmp_path) as (server, table):
        table["before"] = b"value"
        assert table.call("SAVE") == b"OK"
        table["after"] = b"value"
        server.kill()
    with served(tmp_path) as (_, table):
        assert dict(table) == {b"before": b"value"}


def test_save_has_all_that_was_written_before(ringtable_dir: Path, tmp_path: Path) -> None:
    """Also if another snapshot is under way, which may have passed by."""
    with served(tmp_path, "--snapshots-kept", "100") as (server, table):
        table.set_many((b"key %d" % number, b"value" * 100) for number in range(100_000))
        before = table.stats()["snapshots"]

        def save(number: int) -> int:
            with ringtable.connect(timeout=DEADLINE_S) as own:
                own[f"mine {number}"] = b"value"
                own.call("SAVE")
                return number

        with Child(save, 1) as one, Child(save, 2) as other, Child(save, 3) as third:
            # Others go on meanwhile.
            while not (one.has_ended() and other.has_ended() and third.has_ended()):
                table["other"] = b"value"
            assert [child.result() for child in (one, other, third)] == [1, 2, 3]
        assert 1 <= table.stats()["snapshots"] - before <= 3
        server.kill()
    with served(tmp_path) as (_, table):
        assert {f"mine {number}".encode() for number in (1, 2, 3)} <= set(table)


def test_the_socket_has_redis_commands(ringtable_dir: Path, tmp_path: Path) -> None:
    with (
        served(tmp_path, "--snapshot-every", "0") as (_, table),
        redis.Redis(unix_socket_path=table.address) as client,
    ):
        client.set("key", "value")
        started = client.lastsave()
        assert client.save() is True
        assert client.lastsave() >= started
        assert client.bgsave() is True
        wait_until(lambda: table.stats()["snapshots"] == 2, "it is whole")
        assert client.bgsave(schedule=True) is True
        wait_until(lambda: table.stats()["snapshots"] == 3, "it is whole")
        info: Any = client.info("persistence")
        assert info["rdb_last_bgsave_status"] == "ok"
        assert info["rdb_saves"] == 3
        assert info["ringtable_rdb_last_entries"] == 1
        assert client.info("server") == {}
        figures = table.stats()
        assert figures["snapshot_last_entries"] == 1
        assert figures["snapshot_last_bytes"] == snapshots(tmp_path)[0].stat().st_size
        with pytest.raises(redis.ResponseError, match="syntax error"):
            client.execute_command("BGSAVE", "NEVER")


def test_a_server_without_a_folder(table: Table) -> None:
    for command in ("SAVE", "BGSAVE"):
        with pytest.raises(ringtable.CommandError, match="has no folder for snapshots: start it with --data DIR"):
            table.call(command)
    assert table.call("LASTSAVE") == 0


def test_snapshots_come_by_themselves_if_something_was_written(ringtable_dir: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--snapshot-every", "0.05", "--snapshots-kept", "3") as (server, table):
        for number in range(6):
            table["key"] = b"%d" % number
            wait_until(partial(has_others, tmp_path, snapshots(tmp_path)), "there is another one")
        wait_until(lambda: len(snapshots(tmp_path)) == 3, "the older ones are removed")
        with table.watch(timeout=0.5) as watch, pytest.raises(ringtable.Timeout):
            next(watch)
        newest = snapshots(tmp_path)[0]
        # Nobody writes: over ten times that span there is no other one.
        with table.watch(timeout=0.5) as watch, pytest.raises(ringtable.Timeout):
            next(watch)
        assert snapshots(tmp_path)[0] == newest
        server.kill()
    with served(tmp_path) as (_, table):
        assert table["key"] == b"5"


def test_a_keeper_goes_on_with_the_table_and_the_folder(ringtable_dir: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--keeper", "--max-deaths", "10") as (server, table):
        table["key"] = b"1"
        for number in range(3):
            os.kill(table.stats()["process_id"], signal.SIGKILL)
            # What a snapshot does not have.
            table[f"key {number}"] = b"value"
            assert table.stats()["restarts"] == number + 1
        assert table.call("SAVE") == b"OK"
        before = dict(table)
        assert server.stop() == 0
    with served(tmp_path, "--keeper") as (_, table):
        assert dict(table) == before


def test_an_upgrade_hands_the_folder_over(ringtable_dir: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--keeper") as (server, table):
        table["key"] = b"value"
        done = run_cli("upgrade")
        assert done.returncode == 0, done.stderr
        assert table.stats()["upgrades"] == 1
        table["more"] = b"value"
        assert table.call("SAVE") == b"OK"
        assert server.stop() == 0
    with served(tmp_path) as (_, table):
        assert set(table) == {b"key", b"more"}


# What is not as one would like it


def test_one_server_has_a_folder_at_a_time(ringtable_dir: Path, tmp_path: Path) -> None:
    with Server("one", data=tmp_path):
        began = len(snapshots(tmp_path))
        with pytest.raises(ServerExists, match=f"another server has the folder {tmp_path}"):
            Server("other", data=tmp_path)
        assert len(snapshots(tmp_path)) == began


def test_a_damaged_snapshot_is_passed_over_for_an_older_one(ringtable_dir: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--snapshots-kept", "5") as (server, table):
        for number in range(3):
            table["key"] = b"%d" % number
            table.call("SAVE")
        server.kill()
    newest, middle, oldest = snapshots(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1])
    damaged = bytearray(middle.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    middle.write_bytes(damaged)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as said, ServerProcess("--data", str(tmp_path), errors=write_end) as server:
        os.close(write_end)
        with ringtable.connect() as table:
            assert table["key"] == b"0"
        server.kill()
        words = said.read()
    assert f"{newest}: at byte" in words
    assert f"{middle}: at byte" in words
    oldest.write_bytes(b"")
    with pytest.raises(DamagedFile):
        Server(data=tmp_path)
    # Nothing was removed, and nothing written over it.
    assert snapshots(tmp_path) == [newest, middle, oldest]


def test_a_table_that_is_smaller_than_its_snapshot(ringtable_dir: Path, tmp_path: Path) -> None:
    with Server(data=tmp_path, max_memory="64MiB"), ringtable.connect() as table:
        table.set_many((b"key %d" % number, b"value" * 1_000) for number in range(4_000))
    kept = snapshots(tmp_path)
    with pytest.raises(OutOfMemory, match=r"does not fit the table: behind \d+ entries, no room .*--max-memory"):
        Server(data=tmp_path, max_memory="8MiB")
    assert snapshots(tmp_path) == kept
    with Server(data=tmp_path, max_memory="8MiB", cache=True), ringtable.connect() as table:
        assert 0 < len(table) < 4_000


def test_files_of_a_server_that_was_killed_are_removed(ringtable_dir: Path, tmp_path: Path) -> None:
    (tmp_path / ".ringtable-0123456789abcdef").write_bytes(b"half")
    (tmp_path / "mine.txt").write_bytes(b"stays")
    with served(tmp_path) as (server, _):
        server.stop()
    assert sorted(path.name for path in tmp_path.iterdir() if path not in snapshots(tmp_path)) == [
        "mine.txt",
        "ringtable.lock",
    ]


@pytest.mark.parametrize("kills", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_in_the_middle_of_a_snapshot(kills: int, ringtable_dir: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--max-memory", "512MiB") as (server, table):
        table["first"] = b"value"
        table.call("SAVE")
        table.set_many((b"key %d" % number, b"value" * 200) for number in range(100_000))
        table.call("BGSAVE")
        wait_until(lambda: list(tmp_path.glob(".ringtable-*")) or len(snapshots(tmp_path)) > 1, "it has begun")
        server.signal(kills)
        server.wait()
    with served(tmp_path, "--max-memory", "512MiB") as (_, table):
        assert not list(tmp_path.glob(".ringtable-*"))
        assert table["first"] == b"value"
        # An order to end is followed by a snapshot of all; a kill may have come before the one that was under way.
        assert len(table) == 100_001 or (kills == signal.SIGKILL and len(table) == 1)


def test_a_folder_that_cannot_be_written(ringtable_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match=r"making .*file: "):
        Server(data=tmp_path / "file")
    with served(tmp_path / "data") as (_, table):
        table["key"] = b"value"
        (tmp_path / "data").rename(tmp_path / "moved")
        with pytest.raises(ringtable.CommandError, match="No such file"):
            table.call("SAVE")
        assert table.stats()["snapshots_failed"] == 1
        info: Any = table.call("INFO", "persistence")
        assert b"rdb_last_bgsave_status:err" in info
        (tmp_path / "moved").rename(tmp_path / "data")
        assert table.call("SAVE") == b"OK"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"snapshots_kept": 0}, "snapshots_kept is 0; allowed are 1 to 10000 snapshots"),
        ({"snapshot_every": -1}, "snapshot_every is -1; allowed are 0 to"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], words: str, ringtable_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=words):
        Server(data=tmp_path, **options)


def test_a_full_disk(ringtable_dir: Path, tmp_path: Path) -> None:
    """The old snapshot stays, and the server goes on."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount anything here")
    try:
        with served(folder) as (server, table):
            table["key"] = b"value"
            assert table.call("SAVE") == b"OK"
            table.set_many((b"key %d" % number, b"value" * 1_000) for number in range(1_000))
            with pytest.raises(ringtable.CommandError, match="no space left on the device"):
                table.call("SAVE")
            assert len(table) == 1_001
            assert len(snapshots(folder)) == 1
            server.kill()
        with served(folder) as (server, table):
            assert dict(table) == {b"key": b"value"}
            server.kill()
    finally:
        subprocess.run(["umount", folder], check=True)


def test_valkey_starts_from_the_folder(ringtable_dir: Path, tmp_path: Path) -> None:
    with Server(data=tmp_path), ringtable.connect() as table:
        table["key"] = b"value"
    [snapshot] = snapshots(tmp_path)
    with ForeignServer(programs()[0], tmp_path, "--dbfilename", snapshot.name) as server:
        assert server.client.get("key") == b"value"


def test_the_command_line(ringtable_dir: Path, tmp_path: Path) -> None:
    done = run_cli("server", "--data", str(tmp_path), "--snapshot-every", "60", "--print-config")
    assert f'data = "{tmp_path}"' in done.stdout
    assert "snapshot_every = 60" in done.stdout
    config = tmp_path / "server.toml"
    config.write_text(f'data = "{tmp_path}/data"\nsnapshot-every = 0\nsnapshots_kept = 1\n')
    for number in range(3):
        with ServerProcess("--config", str(config)) as server, ringtable.connect() as table:
            assert len(table) == number
            table[f"key {number}"] = b"value"
            server.stop()
        assert len(snapshots(tmp_path / "data")) == 1
