"""Values that are taken out or kept longer in one step, keys that begin alike, and tables in files."""

import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import InvalidOption, NotAFloat, Server, Table
from ringtable._cli import stream
from ringtable._cli.stream import Entry
from support import CONNECTIONS, DEADLINE_S, Child, Way, run_cli, wait_until

LARGE = bytes(range(256)) * 1_000
ODD_KEYS: list[str | bytes] = ["", "*", "a*b", "a?b", "[a]", "a\\", "a\\*", "ab", b"\xff\xfe", "ü"]

# Values that no datagram has room for.
over_connections = pytest.mark.parametrize("way", CONNECTIONS, indirect=True)


def test_smoke(table: Table) -> None:
    table.set("key", b"value", ttl=100)
    assert table.get_and_expire("key", None) == b"value"
    assert table.ttl("key") is None
    assert table.get_and_delete("key") == b"value"
    assert table.get_and_delete("key") is None
    assert table.incr("sum", 0.5) == 0.5
    table.set_many({"user:1": b"1", "user:2": b"2", "page": b"3"})
    assert sorted(table.keys(prefix="user:")) == [b"user:1", b"user:2"]
    assert table.delete_prefix("user:") == 2
    assert sorted(table) == [b"page", b"sum"]


# Values that are taken, and times to live


def test_what_is_taken_is_gone(table: Table) -> None:
    table["key"] = b""
    assert table.get_and_delete("key", b"other") == b""
    assert table.get_and_delete("key", b"other") == b"other"
    with table.pipeline() as pipeline:
        pipeline.set("key", b"value").get_and_delete("key").get_and_delete("key")
    assert pipeline.results == [True, b"value", None]


@over_connections
def test_large_values_are_taken_whole(table: Table) -> None:
    table["key"] = LARGE
    assert table.get_and_expire("key", 100) == LARGE
    assert table.get_and_delete("key") == LARGE
    assert "key" not in table


def test_what_no_datagram_brings_is_not_lost(ringtable_dir: Path) -> None:
    with Server(udp="127.0.0.1:0") as server, ringtable.connect() as table, Table(server.udp or "") as over_udp:
        table["key"] = LARGE
        takes: list[Callable[[], object]] = [
            lambda: over_udp.get_and_delete("key"),
            lambda: over_udp.call("GETEX", "key", "PXAT", 1),
            lambda: over_udp.call("SET", "key", b"new", "GET"),
        ]
        for take in takes:
            with pytest.raises(ringtable.CommandError, match="256000 bytes, and a reply has room for"):
                take()
        assert table["key"] == LARGE


def test_each_value_is_taken_by_one_process(ringtable_dir: Path) -> None:
    """One writes a number whenever there is none; of several processes that take them, one gets each."""
    count = 300

    def take() -> list[int]:
        taken = []
        with ringtable.connect() as table:
            table.incr("ready")
            while (value := table.get_and_delete("key")) != b"end":
                if value is not None:
                    taken.append(int(value))
            table["key"] = b"end"
        return taken

    with Server(workers=2), ringtable.connect() as table, ExitStack() as stack:
        children = [stack.enter_context(Child(take)) for _ in range(3)]
        wait_until(lambda: table.get("ready") == b"3", "all processes are ready")
        for number in [*map(str, range(count)), "end"]:
            wait_until(partial(table.add, "key", number.encode()), "the one before was taken")
        taken = [number for child in children for number in child.result()]
    assert sorted(taken) == list(range(count))


def test_a_session_is_refreshed_as_it_is_read(table: Table) -> None:
    table["session"] = b"Ada"
    for ttl in (100, timedelta(seconds=100)):
        assert table.get_and_expire("session", ttl) == b"Ada"
        assert 50 < (table.ttl("session") or 0) <= 100
        assert table.get_and_expire("session", None) == b"Ada"
        assert table.ttl("session") is None
    assert table.get_and_expire("absent", 100) is None
    assert table.get_and_expire("absent", None, b"nobody") == b"nobody"
    with pytest.raises(InvalidOption, match="ttl is 0"):
        table.get_and_expire("session", 0)
    with table.pipeline() as pipeline:
        pipeline.get_and_expire("session", 100).persist("session").persist("session").get_and_expire("absent", None)
    assert pipeline.results == [b"Ada", True, False, None]


def test_a_write_keeps_the_time_to_live(table: Table) -> None:
    table.set("key", b"1", ttl=100)
    assert table.set("key", b"2", keepttl=True)
    assert 50 < (table.ttl("key") or 0) <= 100
    assert not table.set("key", b"3", nx=True, keepttl=True)
    found = table.get_with_version("key")
    assert found is not None
    assert table.set("key", b"3", if_version=found[1], keepttl=True)
    assert table.pipeline().set("key", b"4", keepttl=True).execute() == [True]
    assert 50 < (table.ttl("key") or 0) <= 100
    assert table.set("key", b"5")
    assert table.ttl("key") is None
    # Where there is none to keep.
    assert table.set("new", b"1", keepttl=True)
    assert table.ttl("new") is None
    for write in (table.set, table.pipeline().set):
        with pytest.raises(InvalidOption, match="ttl and keepttl exclude each other"):
            write("key", b"6", ttl=1, keepttl=True)


def test_times_to_live_of_many(table: Table) -> None:
    table.set("brief", b"", ttl=100)
    table["lasting"] = b""
    brief, lasting, absent = table.ttl_many(["brief", "lasting", "absent"])
    assert brief is not None
    assert 50 < brief <= 100
    assert (lasting, absent) == (None, 0.0)
    assert table.persist("brief")
    assert not table.persist("brief")
    assert not table.persist("absent")
    assert table.ttl_many(iter(["brief"])) == [None]
    assert table.touch("brief", "absent", "brief") == 2
    assert table.touch() == 0
    with pytest.raises(TypeError, match="several"):
        table.ttl_many("key")


def test_what_is_touched_stays(ringtable_dir: Path) -> None:
    memory, value = 8 << 20, bytes(1_000)
    with Server(max_memory=memory, cache=True), ringtable.connect() as table:
        table["touched"] = value
        for number in range(2 * memory // len(value)):
            table[f"key {number}"] = value
            assert table.touch("touched") == 1


# Numbers with a fraction


def test_floats_are_added(table: Table) -> None:
    table["sum"] = b"10.50"
    assert table.incr("sum", 0.1) == 10.6
    assert table["sum"] == b"10.6"
    total = table.incr("sum", -0.6)
    assert (total, type(total), table["sum"]) == (10.0, float, b"10")
    total = table.incr("sum", 5)
    assert (total, type(total)) == (15, int)
    assert table.incr("large", 1e22) == 1e22
    assert table["large"] == b"10000000000000000000000"
    with table.pipeline() as pipeline:
        pipeline.incr("sum", 0.25).incr("other", 2).incr("sum", by=-0.25)
    assert pipeline.results == [15.25, 2, 15.0]


@pytest.mark.parametrize("method", ["table", "pipeline"])
def test_floats_have_no_bounds(table: Table, method: str) -> None:
    incr: Callable[..., Any] = table.incr if method == "table" else table.pipeline().incr
    for options in ({"minimum": 0}, {"maximum": 1}, {"ttl_if_new": 1}, {"evictable": False}):
        with pytest.raises(InvalidOption, match=f"{next(iter(options))} is for whole numbers alone, and by is a float"):
            incr("sum", 0.5, **options)
    for by in (float("nan"), float("inf")):
        with pytest.raises(InvalidOption, match=f"by is {by}; allowed are finite numbers"):
            incr("sum", by)
    assert "sum" not in table


def test_what_is_no_number_is_not_added_to(table: Table) -> None:
    table["text"] = b"abc"
    table["large"] = b"1.7e308"
    with pytest.raises(NotAFloat, match="value is not a valid float: 'text' holds 'abc'"):
        table.incr("text", 0.5)
    with pytest.raises(NotAFloat, match="would produce NaN or Infinity"):
        table.incr("large", 1.7e308)
    with pytest.raises(ringtable.NotAnInteger):
        table.incr("large")
    assert (table["text"], table["large"]) == (b"abc", b"1.7e308")


# Keys that begin alike


@pytest.mark.parametrize("reads", ["direct", "server"])
@pytest.mark.parametrize("way", ["lane", "socket", "udp"], indirect=True)
def test_a_prefix_means_itself(way: Way, reads: Any) -> None:
    with way.connect(reads=reads) as table:
        table.set_many((key, b"value") for key in ODD_KEYS)
        for prefix in ODD_KEYS:
            begin = prefix.encode() if isinstance(prefix, str) else prefix
            expected = {key for key in table if key.startswith(begin)}
            assert set(table.keys(prefix=prefix)) == expected
            assert set(table.items(prefix=prefix)) == {(key, b"value") for key in expected}
            assert list(table.values(prefix=prefix)) == [b"value"] * len(expected)
            assert len(table.keys(prefix=prefix)) == len(expected)
        assert b"ab" in table.keys(prefix="a")
        assert b"ab" not in table.keys(prefix="b")
        assert (b"ab", b"value") in table.items(prefix="a")
        with pytest.raises(TypeError, match="a prefix is str or bytes, not int"):
            table.keys(prefix=1)  # type: ignore[call-overload]


def test_keys_that_begin_alike_are_deleted(table: Table, seed: int) -> None:
    choose = random.Random(seed)
    keys = {f"{choose.choice(ODD_KEYS)!s}:{number}".encode() for number in range(3_000)}
    table.set_many((key, b"value") for key in keys)
    assert table.delete_prefix("nothing") == 0
    for prefix in sorted(map(str, ODD_KEYS), reverse=True):
        gone = {key for key in keys if key.startswith(prefix.encode())}
        assert table.delete_prefix(prefix) == len(gone)
        keys -= gone
        assert len(table) == len(keys)
    assert len(table) == 0


def test_others_go_on_while_a_prefix_is_deleted(ringtable_dir: Path) -> None:
    """It takes many turns, between which the same worker serves the others."""
    with Server(workers=1) as server, ringtable.connect() as table, Table(server.path) as other:
        for begin in range(0, 200_000, 20_000):
            table.set_many((f"user:{number}", b"") for number in range(begin, begin + 20_000))
        with ExitStack() as stack:
            child = stack.enter_context(Child(lambda: ringtable.connect().delete_prefix("user:")))
            wait_until(lambda: len(other) < 200_000, "it has begun")
            rounds = 0
            while len(other) > 0:
                rounds += 1
                other["page"] = b"%d" % rounds
                del other["page"]
            assert child.result() == 200_000
        # If they had to wait for the end, there were one.
        assert rounds > 2


# Tables in files


def dumped(*entries: Entry) -> bytes:
    target = io.BytesIO()
    for entry in entries:
        stream.write(target, entry)
    return target.getvalue()


def read(data: bytes) -> list[Entry]:
    """The entries of a file, to its end or to what is wrong with it, which comes in the last one's place."""
    entries: list[Any] = []
    try:
        entries.extend(stream.Reader(io.BufferedReader(io.BytesIO(data)), "file"))
    except ringtable.Error as error:
        entries.append(str(error))
    return entries


def contents_of(table: Table) -> dict[bytes, tuple[bytes, int]]:
    """The entries of a table, with the times at which they will be gone."""
    entries: Any = {key: table.call("RING.ENTRY", key) for key in table}
    return {key: (value, at_ms) for key, (value, at_ms, _) in entries.items()}


def test_a_file_brings_a_table_back(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.resp"
    with Server("one") as one, Server("other"), ringtable.connect("one") as table, ringtable.connect("other") as back:
        table.set_many((f"key {number}", b"*1\r\n$4\r\nPING\r\n" * (number % 5)) for number in range(2_500))
        table.set_many(dict.fromkeys(ODD_KEYS, LARGE), ttl=1_000)
        done = run_cli("dump", str(file), "--name", one.path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{2_500 + len(ODD_KEYS)} entries dumped\n")
        # One whose time has passed before the file is loaded.
        with file.open("ab") as more:
            stream.write(more, Entry(b"key 0", b"", 1))
        back["key 0"] = b"old"
        back["other"] = b"stays"
        done = run_cli("load", str(file), "--name", "other")
        words = f"{2_500 + len(ODD_KEYS)} entries loaded, and 1 that have expired were left out\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, "", words)
        assert back.get_and_delete("other") == b"stays"
        assert contents_of(back) == contents_of(table)
        assert file.stat().st_mode & 0o777 == 0o600
        # A part, through a pipe.
        back.clear()
        pipe = 'ringtable="$0 -m ringtable"; $ringtable dump --prefix "key 1" --name one | $ringtable load --name other'
        done = subprocess.run(["sh", "-c", pipe, sys.executable], capture_output=True, text=True, timeout=DEADLINE_S)
        assert sorted(done.stderr.splitlines()) == ["1111 entries dumped", "1111 entries loaded"]
        assert set(back) == set(table.keys(prefix="key 1"))


def test_a_file_reads_as_it_was_written(seed: int) -> None:
    choose = random.Random(seed)
    entries = [
        Entry(choose.randbytes(choose.choice([0, 1, 20])), choose.randbytes(choose.choice([0, 3, 5_000])), at_ms)
        for at_ms in (None, 1, 1_700_000_000_000) * 20
    ]
    data = dumped(*entries)
    assert read(data) == entries
    # Cut off anywhere, or with one byte that is another one, it gives what stands before that.
    ends = {len(dumped(*entries[:count])): count for count in range(len(entries) + 1)}
    for cut in choose.sample(range(len(data)), 300):
        count = max(number for end, number in ends.items() if end <= cut)
        expected = [] if cut in ends else [f"file: at byte {cut} there is the end in the middle of a command"]
        assert read(data[:cut]) == [*entries[:count], *expected]
        damaged = data[:cut] + bytes([data[cut] ^ 1 << choose.randrange(8)]) + data[cut + 1 :]
        assert read(damaged)[:count] == entries[:count]


@pytest.mark.parametrize(
    ("data", "position", "words"),
    [
        (b"REDIS0011", 0, "no number of words behind a '*'"),
        (b"*3\n$3\r\nSET\r\n", 2, "no number of words"),
        (b"*03\r\n", 2, "no number of words"),
        (b"*9\r\n", 1, "9 words, where 1 to 5 may be"),
        (b"*3\r\n$3\r\nSEX\r\n$1\r\nk\r\n$1\r\nv\r\n", 0, "the command 'SEX k v'"),
        (b"*1\r\n$8\r\nFLUSHALL\r\n", 0, "the command 'FLUSHALL'"),
        (b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n", 0, "the command 'SELECT 1'"),
        (b"*3\r\n$3\r\nSET\r\n$65536\r\n", 14, "65536 bytes, where 0 to 65535 may be"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nkk\r\n", 18, "a word that goes on where it should end"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r?", 19, "a word that goes on where it should end"),
        (b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nPX\r\n$1\r\n5\r\n", 27, "another option of SET than PXAT"),
        (b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$4\r\nPXAT\r\n$1\r\n-\r\n", 37, "a time that is no number"),
    ],
)
def test_a_damaged_file_is_refused_at_its_byte(data: bytes, position: int, words: str) -> None:
    good = dumped(Entry(b"key", b"value", None)) + b"*1\r\n$4\r\nPING\r\n*2\r\n$6\r\nselect\r\n$1\r\n0\r\n"
    entry, error = read(good + data)
    assert entry == Entry(b"key", b"value", None)
    assert str(error).startswith(f"file: at byte {len(good) + position} there is {words}")


def test_what_stands_before_the_damage_is_loaded(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "damaged"
    good = dumped(*(Entry(b"%d" % number, b"value", None) for number in range(1_500)))
    file.write_bytes(good + b"FLUSHALL\r\n")
    done = run_cli("load", str(file))
    words = f"ringtable: {file}: at byte {len(good)} there is no number of words behind a '*'; 1500 entries loaded\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", words)
    with ringtable.connect() as table:
        assert len(table) == 1_500


def test_files_that_cannot_be(server: Server, tmp_path: Path) -> None:
    for arguments, words in (
        (("dump", str(tmp_path / "none" / "file")), "No such file or directory"),
        (("dump", "/dev/full"), "No space left on device"),
        (("load", str(tmp_path / "none")), "No such file or directory"),
        (("load", str(tmp_path)), "Is a directory"),
        (("dump", str(tmp_path / "file"), "--name", "none"), "there is no table"),
    ):
        with ringtable.connect() as table:
            table["key"] = b"value"
        done = run_cli(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
        assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_full_says_so(ringtable_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(dumped(*(Entry(b"%d" % number, bytes(100_000), None) for number in range(200))))
    with Server(max_memory="8MiB"), ringtable.connect() as table:
        done = run_cli("load", str(file))
        assert done.returncode == 1
        assert "maxmemory" in done.stderr
        assert done.stderr.endswith(f"{len(table)} entries loaded\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_and_leaves_no_half_a_file(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"the one before")
    with ringtable.connect() as table:
        table.set_many((f"key {number}", b"value") for number in range(1_000))
        command = [sys.executable, "-m", "ringtable"]
        # A reader that reads nothing: the pipe is full, and it waits.
        reader, writer = os.pipe()
        table["large"] = bytes(4 << 20)
        with subprocess.Popen([*command, "dump"], stdout=writer, stderr=subprocess.PIPE, text=True) as dumping:
            os.close(writer)
            wait_until(lambda: len(os.read(reader, 1)) == 1, "it writes")
            dumping.send_signal(number)
            errors = dumping.communicate(timeout=DEADLINE_S)[1]
        os.close(reader)
        assert dumping.returncode == 130
        assert re.fullmatch(r"interrupted after \d+ entries\n", errors)
        # One whose input does not come.
        with subprocess.Popen(
            [*command, "load"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        ) as loading:
            assert loading.stdin is not None
            loading.stdin.write(dumped(Entry(b"loaded", b"value", None)) * 1_000)
            loading.stdin.flush()
            wait_until(lambda: "loaded" in table, "it loads")
            loading.send_signal(number)
            loading.wait(DEADLINE_S)
            assert loading.stderr is not None
            assert re.fullmatch(rb"interrupted: at least (0|1000) entries loaded\n", loading.stderr.read())
        assert loading.returncode == 130
    # A file takes the place of another one only when it is whole.
    with pytest.raises(KeyboardInterrupt):
        break_off(file)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"the one before"}


def break_off(file: Path) -> None:
    from ringtable._cli.commands.dump import _written

    with _written(str(file)) as target:
        stream.write(target, Entry(b"key", b"value", int(time.time() * 1_000)))
        raise KeyboardInterrupt
