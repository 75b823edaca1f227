"""Tables in files of the format of Redis: written, loaded, given to real servers and taken from them, damaged."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
import ringtable
from foreign import ForeignServer, check, programs
from ringtable import DamagedFile, FileError, OutOfMemory, Server, ServerGone, Table
from support import CONNECTIONS, DEADLINE_S, Child, ServerProcess, Way, run_cli, wait_until

PROGRAMS = programs()
HOUR_MS = 3_600_000

# Values that no datagram has room for.
over_connections = pytest.mark.parametrize("way", CONNECTIONS, indirect=True)
by_each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


def contents_of(table: Table[Any]) -> dict[Any, Any]:
    """The entries of a table: the value, when it will be gone, whether it is never evicted."""
    return {key: table.call("RING.ENTRY", key) for key in table}


def fill(table: Table, seed: int) -> None:
    """Write entries of all kinds and sizes."""
    choose = random.Random(seed)
    for number in range(2_000):
        size = choose.choice([0, 1, 10, 63, 64, 300, 16_383, 16_384])
        ttl = choose.choice([None, None, 1_000.5])
        table.set(b"key %d" % number, choose.randbytes(size), ttl=ttl, evictable=choose.choice([None, False]))
    table.set(b"", b"the key without a byte")
    table.set(b"\xff" * 65_535, b"the longest key")
    for number, size in enumerate([16 << 10, (16 << 10) + 1, 64 << 10, 300_000, 5 << 20]):
        table.set(b"large %d" % number, choose.randbytes(size), ttl=choose.choice([None, 500]))


def test_smoke(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server("one"), Server("other"), ringtable.connect("one") as table, ringtable.connect("other") as back:
        table["key"] = b"value"
        assert table.snapshot(file) == 1
        assert back.load(file) == ringtable.Loaded(entries=1, expired=0, skipped={}, damage=None)
        assert dict(back) == {b"key": b"value"}


@over_connections
def test_a_file_brings_a_table_back(way: Way, ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    file = tmp_path / "table.rdb"
    with way.connect() as table, Server("other", max_memory="64MiB"), ringtable.connect("other") as back:
        fill(table, seed)
        count = len(table)
        assert table.snapshot(file) == count
        assert file.stat().st_mode & 0o777 == 0o600
        back["other"] = b"stays"
        back["key 1"] = b"is replaced"
        assert back.load(file).entries == count
        assert back.get_and_delete("other") == b"stays"
        before = contents_of(table)
        assert contents_of(back) == before
        # The way back, over the same transport.
        table.clear()
        assert table.load(file).entries == count
        assert contents_of(table) == before


def test_a_file_over_datagrams(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server(udp="127.0.0.1:0") as server, ringtable.connect(server.udp or "") as table:
        table.set_many({f"key {number}": b"value" * number for number in range(2_000)})
        assert table.snapshot(file) == 2_000
        before = contents_of(table)
        table.clear()
        assert table.load(file).entries == 2_000
        assert contents_of(table) == before


def test_objects_come_back_as_they_were(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server(), ringtable.connect(codec="pickle") as table:
        table["array"] = numpy.arange(100_000)
        table["both"] = {"name": "Ada", "array": numpy.ones(3)}
        table["count"] = 7
        assert table.snapshot(file) == 3
        table.clear()
        assert table.load(file).entries == 3
        assert (table["array"] == numpy.arange(100_000)).all()
        assert table["both"]["name"] == "Ada"
        assert table.incr("count") == 8


def test_a_part_of_a_table(ringtable_dir: Path, tmp_path: Path) -> None:
    with Server(), ringtable.connect() as table:
        table.set_many({"user:1": b"Ada", "user:2": b"Grace", "page": b"<html>"})
        users = table.namespace("user:")
        assert table.snapshot(tmp_path / "0.rdb", prefix="user:") == users.snapshot(tmp_path / "1.rdb") == 2
        for number in range(2):
            table.clear()
            # Keys are whole in a file: a namespace finds its own.
            assert users.load(tmp_path / f"{number}.rdb").entries == 2
            assert dict(users) == {b"1": b"Ada", b"2": b"Grace"}
        assert users.snapshot(tmp_path / "one.rdb", prefix="1") == 1


# Real servers


@by_each_program
def test_another_server_loads_a_file(program: Path, ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    with Server(), ringtable.connect() as table:
        fill(table, seed)
        table.snapshot(tmp_path / "dump.rdb")
        done = check(program, "rdb", tmp_path / "dump.rdb")
        assert (done.returncode, "Checksum OK" in done.stdout) == (0, True), done.stdout
        with ForeignServer(program, tmp_path) as server:
            assert server.client.dbsize() == len(table)
            for key, (value, at_ms, _) in contents_of(table).items():
                assert server.client.get(key) == value
                assert server.client.pexpiretime(key) == at_ms
            # And back.
            server.client.set("new", b"value")
            server.client.save()
        before = contents_of(table)
        table.clear()
        assert table.load(tmp_path / "dump.rdb").entries == len(before) + 1
        assert table.get_and_delete("new") == b"value"
        # What is never evicted is known to nobody else.
        assert {key: entry[:2] for key, entry in contents_of(table).items()} == {
            key: entry[:2] for key, entry in before.items()
        }


@pytest.mark.parametrize("compression", ["yes", "no"])
@pytest.mark.parametrize("checksum", ["yes", "no"])
@by_each_program
def test_a_file_of_another_server(
    program: Path, compression: str, checksum: str, ringtable_dir: Path, tmp_path: Path, seed: int
) -> None:
    choose = random.Random(seed)
    strings: dict[bytes, bytes] = {
        b"text": b"value",
        b"": b"",
        **{b"int %d" % number: b"%d" % number for number in (0, -1, 127, -129, 32_768, -(2**31), 2**31, 2**63 - 1)},
        **{b"repeated %d" % size: b"abc" * size for size in (1, 7, 100, 5_000, 100_000)},
        **{b"random %d" % size: choose.randbytes(size) for size in (63, 64, 16_383, 16_384, 1 << 20)},
        b"mixed": b"".join(choose.choice([b"a" * 50, b"bc" * 30, choose.randbytes(20)]) for _ in range(500)),
    }
    with ForeignServer(program, tmp_path, "--rdbcompression", compression, "--rdbchecksum", checksum) as server:
        other = server.client
        for key, value in strings.items():
            other.set(key, value)
        other.set("expires", b"later", px=HOUR_MS)
        other.set("gone", b"soon", px=1)
        other.rpush("list", *range(10), *(b"x" * 100 for _ in range(200)))
        other.rpush("small list", "a")
        other.sadd("set", *range(1_000))
        other.sadd("small set", *range(3))
        other.sadd("set of words", "a", "b")
        other.zadd("sorted", {f"member {number}": number / 3 for number in range(1_000)})
        other.zadd("small sorted", {"a": 1, "b": float("inf")})
        other.hset("hash", mapping={f"field {number}": "v" * 100 for number in range(1_000)})
        other.hset("small hash", "field", "value")
        other.xadd("stream", {"field": "value"})
        other.xgroup_create("stream", "group")
        other.xreadgroup("group", "consumer", {"stream": ">"})
        other.pfadd("hyperloglog", "a", "b")
        other.function_load("#!lua name=lib\nredis.register_function('f', function() return 1 end)")
        other.execute_command("SELECT", 1)
        other.set("elsewhere", b"value")
        other.save()
        expires_ms = other.execute_command("SELECT", 0) and other.pexpiretime("expires")
        loglog = other.get("hyperloglog")
    with Server(), ringtable.connect() as table:
        with pytest.raises(DamagedFile, match=r"it has .*2 lists.*which a table cannot have: nothing was loaded"):
            table.load(tmp_path / "dump.rdb", strict=True)
        assert len(table) == 0
        loaded = table.load(tmp_path / "dump.rdb")
        assert loaded.damage is None
        assert loaded.skipped == {
            "lists": 2,
            "sets": 3,
            "sorted sets": 2,
            "hashes": 2,
            "streams": 1,
            "entries of other databases": 1,
            "libraries of functions": 1,
        }
        assert loaded.entries == len(strings) + 2
        assert contents_of(table).pop(b"expires") == [b"later", expires_ms, 0]
        del table["expires"]
        assert dict(table) == {**strings, b"hyperloglog": loglog}


# Others at work


def test_others_change_the_table_meanwhile(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    """Keys that stay are there once, with a value that they had; of those that come and go nothing is made up."""
    with ServerProcess("--max-memory", "256MiB"), ringtable.connect() as table:
        stay = [b"stays %d" % number for number in range(20_000)]
        table.set_many((key, b"0" * 50) for key in stay)
        table.set_many((b"large %d" % number, b"0" * 100_000) for number in range(20))

        def change(seed: int) -> None:
            choose = random.Random(seed)
            with ringtable.connect() as own:
                while True:
                    digit = b"%d" % choose.randrange(10)
                    own[choose.choice(stay)] = digit * choose.choice([50, 51])
                    own[b"comes %d" % choose.randrange(1_000)] = b"value"
                    own.delete_many([b"comes %d" % choose.randrange(1_000)])
                    own[b"large %d" % choose.randrange(20)] = digit * choose.choice([100_000, 1_000])

        with Child(change, seed) as one, Child(change, seed + 1) as other, Server("back", max_memory="256MiB"):
            for number in range(5):
                file = tmp_path / f"{number}.rdb"
                count = table.snapshot(file)
                one.check()
                other.check()
                with ringtable.connect("back") as back:
                    # Had a key been there twice, fewer would be left.
                    assert back.load(file).entries == count == len(back)
                    assert set(stay) <= set(back)
                    for key, value in back.items():
                        assert value == b"value" if key.startswith(b"comes") else len(set(value)) == 1
                    back.clear()


def test_a_snapshot_goes_on_over_the_death_of_a_server_with_a_keeper(ringtable_dir: Path, tmp_path: Path) -> None:
    with ServerProcess("--keeper", "--max-deaths", "10"), ringtable.connect() as table:
        table.set_many((b"key %d" % number, b"value" * 100) for number in range(20_000))
        kills = 0

        def kill(done: int, of: int, size: int) -> None:
            nonlocal kills
            if kills < 3:
                kills += 1
                server = table.stats()["process_id"]
                os.kill(server, signal.SIGKILL)
                wait_until(lambda: table.stats()["process_id"] != server, "another one serves")

        assert table.snapshot(tmp_path / "table.rdb", progress=kill) == 20_000
        assert kills == 3
        before = dict(table)
        table.clear()
        assert table.load(tmp_path / "table.rdb").entries == 20_000
        assert dict(table) == before


def test_the_server_dies_meanwhile(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with ServerProcess() as server, ringtable.connect() as table:
        table.set_many((b"key %d" % number, b"value" * 100) for number in range(20_000))
        file.write_bytes(b"old")
        deaths: list[int] = []

        def kill(done: int, of: int, size: int) -> None:
            if not deaths:
                deaths.append(server.pid)
                server.kill()
                # A client need not notice before it asks for something.
                with pytest.raises(ServerGone):
                    table.call("PING")

        with pytest.raises(ServerGone):
            table.snapshot(file, progress=kill)
    assert [path.name for path in tmp_path.iterdir()] == ["table.rdb"]
    assert file.read_bytes() == b"old"


# Files that are not as one would like them


def test_the_old_file_stays_until_the_new_one_is_whole(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server(), ringtable.connect() as table:
        table.set_many((b"key %d" % number, b"value" * 100) for number in range(20_000))
        table.snapshot(file)
        before = file.read_bytes()

        def stop(done: int, of: int, size: int) -> None:
            assert file.read_bytes() == before
            raise LookupError(f"{done} of {of}, {size}")

        with pytest.raises(LookupError):
            table.snapshot(file, progress=stop)
        assert [path.name for path in tmp_path.iterdir()] == ["table.rdb"]
        assert file.read_bytes() == before
        with pytest.raises(LookupError):
            table.load(file, progress=stop)


def test_progress_is_told(ringtable_dir: Path, tmp_path: Path) -> None:
    file, told = tmp_path / "table.rdb", []
    with Server(), ringtable.connect() as table:
        table.set_many((b"key %d" % number, b"value" * 100) for number in range(20_000))
        table.snapshot(file, progress=lambda *progress: told.append(progress))
        entries, of, size = told[-1]
        assert (entries, of) == (20_000, 20_000)
        assert 0 < size <= file.stat().st_size
        assert len(told) > 10
        assert told == sorted(told)
        told.clear()
        table.load(file, progress=lambda *progress: told.append(progress))
        assert len(told) > 10
        assert told == sorted(told)
        assert all(of == 20_000 for _, of, _ in told)


def test_damage_is_found_and_nothing_loaded(ringtable_dir: Path, tmp_path: Path, seed: int) -> None:
    choose, file = random.Random(seed), tmp_path / "table.rdb"
    with Server(max_memory="256MiB"), ringtable.connect() as table:
        table.set_many((b"key %d" % number, choose.randbytes(1_000)) for number in range(12_000))
        table.snapshot(file)
        before, whole = dict(table), file.read_bytes()
        table.clear()
        for _ in range(20):
            place = choose.randrange(len(whole))
            damaged = whole[:place] + bytes([whole[place] ^ 1 << choose.randrange(8)]) + whole[place + 1 :]
            file.write_bytes(choose.choice([damaged, whole[:place]]))
            with pytest.raises(DamagedFile, match=rf"^{file}: at byte \d+ there is .*; there (are|is) .* before it$"):
                table.load(file)
            assert len(table) == 0
            loaded = table.load(file, salvage=True)
            assert loaded.damage is not None
            assert f"{file}: at byte " in loaded.damage
            # All of the blocks before that of the damage: each has some 4 MiB.
            assert loaded.entries == len(table) >= max(0, place // 1_100 - 5_000)
            assert all(before[key] == value for key, value in table.items())
            table.clear()


def test_what_is_no_such_file(ringtable_dir: Path, tmp_path: Path) -> None:
    with Server(), ringtable.connect() as table:
        for name, words in [("none", "No such file"), (".", "Is a directory")]:
            with pytest.raises(FileError, match=words) as raised:
                table.load(tmp_path / name)
            assert not isinstance(raised.value, DamagedFile)
        for content in (b"", b"*3\r\n$3\r\nSET\r\n", b"REDIS"):
            (tmp_path / "file").write_bytes(content)
            with pytest.raises(DamagedFile, match='at byte 0 there is neither "REDIS"'):
                table.load(tmp_path / "file")
        for path in (tmp_path, tmp_path / "none" / "file", Path("/dev/null")):
            with pytest.raises(FileError, match=f"^writing {path}: "):
                table.snapshot(path)
        with pytest.raises(TypeError):
            table.snapshot(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            table.snapshot("file", prefix=7)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_table_without_room_for_a_file(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server("large", max_memory="64MiB"), ringtable.connect("large") as table:
        table.set_many((b"key %d" % number, b"value" * 1_000) for number in range(4_000))
        assert table.snapshot(file) == 4_000
    with Server("small", max_memory="8MiB"), ringtable.connect("small") as table:
        with pytest.raises(OutOfMemory):
            table.load(file)
        assert 0 < len(table) < 4_000
    with Server("cache", max_memory="8MiB", eviction="allkeys-sieve"), ringtable.connect("cache") as table:
        assert table.load(file).entries == 4_000
        assert 0 < len(table) < 4_000


def test_what_has_expired_is_left_out(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server(), ringtable.connect() as table:
        table.set("soon", b"value", ttl=0.05)
        table.set("later", b"value", ttl=1_000)
        assert table.snapshot(file) == 2
        wait_until(lambda: "soon" not in table, "it expires")
        table.clear()
        assert table.load(file)[:2] == (1, 1)
        assert list(table) == [b"later"]


# The command line


def test_the_command_line(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server("one"), Server("other"), ringtable.connect("one") as table, ringtable.connect("other") as back:
        table.set_many({"user:1": b"Ada", "user:2": b"Grace", "page": b"<html>"})
        done = run_cli("snapshot", str(file), "--name", "one")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"3 entries written to {file}\n")
        done = run_cli("load", str(file), "--name", "other", "--strict")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "3 entries loaded\n")
        assert dict(back) == dict(table)
        done = run_cli("snapshot", str(file), "--name", "one", "--prefix", "user:")
        assert (done.returncode, done.stderr) == (0, f"2 entries written to {file}\n")
        # Through a pipe.
        back.clear()
        command = [sys.executable, "-m", "ringtable", "load", "--name", "other"]
        with file.open("rb") as source, subprocess.Popen(["cat"], stdin=source, stdout=subprocess.PIPE) as cat:
            piped = subprocess.run(command, stdin=cat.stdout, capture_output=True, text=True, timeout=DEADLINE_S)
        assert (piped.returncode, piped.stderr) == (0, "2 entries loaded\n")
        assert set(back) == {b"user:1", b"user:2"}
        file.write_bytes(file.read_bytes()[:-3])
        done = run_cli("load", str(file), "--name", "other")
        assert done.returncode == 1
        assert done.stderr.startswith(f"ringtable: {file}: at byte ")
        done = run_cli("load", str(file), "--name", "other", "--salvage")
        assert done.returncode == 0
        first, second = done.stderr.splitlines()
        assert first.startswith(f"{file}: at byte ")
        assert second == "2 entries loaded"
        done = run_cli("snapshot", str(tmp_path / "none" / "file"), "--name", "one")
        words = f"ringtable: writing {tmp_path}/none/file: No such file or directory (os error 2)\n"
        assert (done.returncode, done.stderr) == (1, words)


def test_a_snapshot_that_is_interrupted_or_killed_leaves_the_old_file(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.rdb"
    with Server(max_memory="512MiB"), ringtable.connect() as table:
        table.set_many((b"key %d" % number, b"value" * 1_000) for number in range(40_000))
        for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]:
            file.write_bytes(b"old")
            command = [sys.executable, "-m", "ringtable", "snapshot", str(file)]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
                wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "it has begun")
                process.send_signal(number)
                _, errors = process.communicate(timeout=DEADLINE_S)
            assert file.read_bytes() == b"old" or process.returncode == 0
            if process.returncode != 0:
                assert process.returncode == status
                assert "as it was" in errors or number == signal.SIGKILL
            for left in tmp_path.glob(".ringtable-*"):
                assert number == signal.SIGKILL
                left.unlink()


def test_threads_go_on_while_a_snapshot_is_written(ringtable_dir: Path, tmp_path: Path) -> None:
    """The interpreter is free meanwhile."""
    with Server(max_memory="256MiB"), ringtable.connect() as table:
        table.set_many((b"key %d" % number, b"value" * 1_000) for number in range(20_000))
        counts = [0]
        ended = threading.Event()

        def count() -> None:
            while not ended.is_set():
                counts[0] += 1
                time.sleep(0)

        thread = threading.Thread(target=count)
        thread.start()
        try:
            before = counts[0]
            table.snapshot(tmp_path / "table.rdb")
            assert counts[0] > before
        finally:
            ended.set()
            thread.join()
        with suppress(FileNotFoundError):
            (tmp_path / "table.rdb").unlink()
