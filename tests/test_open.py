"""`ringtable.open`: a server that is started in the background if there is none, by whomever, and ends by itself."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import InvalidOption, Server, ServerFailed, TableNotFound
from support import DEADLINE_S, Child, Flag, ServerProcess, processes_of, run_script, state_of, wait_until

# Where the test ends the server; and where it is to end by itself, while it is awaited.
LONG_S = 300.0
SOON_S = 0.3


@contextmanager
def opened(**options: Any) -> Iterator[ringtable.Table]:
    """A table whose server is told to end at the end."""
    with ringtable.open(**{"linger": LONG_S, "wait": DEADLINE_S, "workers": 1, "max_memory": "16MiB", **options}) as it:
        pid = it.stats()["process_id"]
        try:
            yield it
        finally:
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the server has ended")


def log() -> str:
    return Path(ringtable.log_path()).read_text()


def test_smoke(ringtable_dir: Path) -> None:
    with opened() as table:
        table["key"] = b"value"
        assert table.stats()["process_id"] != os.getpid()
        with ringtable.open() as other, ringtable.connect() as third:
            assert other["key"] == third["key"] == b"value"
    assert [file.name for file in ringtable_dir.iterdir()] == ["default.log"]


def test_with_a_keeper_it_goes_on_when_the_server_has_died(ringtable_dir: Path) -> None:
    with ringtable.open(keeper=True, linger=SOON_S, max_memory="16MiB", workers=1, wait=DEADLINE_S) as table:
        table["key"] = b"value"
        before = table.stats()
        os.kill(before["process_id"], signal.SIGKILL)
        table["other"] = b"value"
        after = table.stats()
        assert table["key"] == b"value"
        assert after["process_id"] != before["process_id"]
        assert after["keeper_process_id"] == before["keeper_process_id"]
        with ringtable.open(keeper=True) as other:
            assert other["key"] == b"value"
    for pid in (after["process_id"], after["keeper_process_id"]):
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "both have ended")  # type: ignore[misc]
    assert [file.name for file in ringtable_dir.iterdir()] == ["default.log"]
    first, died, *_ = log().splitlines()
    assert first.startswith(f"ringtable: process {before['process_id']} serves")
    assert died == "ringtable: the server has died (signal 9): another one takes over what it had"


def test_a_keeper_that_is_wanted_has_to_be_there(server: Server) -> None:
    with pytest.raises(InvalidOption, match=r"keeper is True, but the server at .* has none"):
        ringtable.open(keeper=True)


# What the server is


def test_it_ends_when_nobody_has_been_there_for_a_while(ringtable_dir: Path) -> None:
    with ringtable.open(linger=timedelta(seconds=SOON_S), max_memory="16MiB", wait=DEADLINE_S) as table:
        pid = table.stats()["process_id"]
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the server has ended")
    assert log().splitlines()[-1] == "ringtable: ended since nobody was connected any more"
    assert [file.name for file in ringtable_dir.iterdir()] == ["default.log"]


def test_it_is_detached() -> None:
    """In a session of its own, no child of ours, with no stream of ours, in no folder of ours."""
    before = children()
    with opened() as table:
        process = Path(f"/proc/{table.stats()['process_id']}")
        _, parent, group, session, terminal, *_ = (process / "stat").read_text().rpartition(")")[2].split()
        assert int(parent) != os.getpid()
        assert int(session) not in (os.getsid(0), 0)
        assert int(group) == int(session)
        assert terminal == "0"
        assert [os.readlink(process / "fd" / number) for number in "012"] == ["/dev/null", *[ringtable.log_path()] * 2]
        assert os.readlink(process / "cwd") == "/"
        assert "SigBlk:\t0000000000000000" in (process / "status").read_text()
        # Nor is there another child to wait for.
        assert children() == before


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_ctrl_c_in_the_terminal_does_not_reach_it() -> None:
    """Nor the end of the process that has started it."""
    script = """
        import os, signal, ringtable
        with ringtable.open(linger=300.0, max_memory="16MiB", wait=30) as table:
            table["key"] = b"value"
            print(table.stats()["process_id"], flush=True)
            os.killpg(0, signal.SIGINT)
            signal.pause()
    """
    starter = subprocess.run(
        [sys.executable, "-c", "\n".join(line[8:] for line in script.splitlines())],
        capture_output=True, text=True, process_group=0, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert starter.returncode == -signal.SIGINT, starter
    pid = int(starter.stdout)
    with ringtable.connect() as table:
        assert table["key"] == b"value"
        assert table.stats()["process_id"] == pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the server has ended")
    assert log().splitlines()[-1] == "ringtable: ended since it was told to"


def test_a_program_that_exits_at_once_leaves_nothing(ringtable_dir: Path) -> None:
    out, errors = run_script(f"""
        import ringtable
        ringtable.open(linger={SOON_S}, max_memory="16MiB", wait=30)["key"] = b"value"
    """)
    assert (out, errors) == ("", "")
    wait_until(lambda: not list(ringtable_dir.glob("*.sock*")), "the server has ended")


def test_the_log_is_this_users_alone_and_written_anew() -> None:
    old = os.umask(0)
    try:
        for _ in range(2):
            with opened() as table:
                path = Path(ringtable.log_path())
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert path.read_text().count("serves") == 1
                assert f"process {table.stats()['process_id']} serves" in path.read_text()
    finally:
        os.umask(old)
    assert ringtable.log_path("words").endswith("/words.log")
    assert ringtable.log_path("./words.sock") == f"{Path.cwd()}/words.log"
    assert ringtable.log_path(Path("words")) == f"{Path.cwd()}/words.log"
    with pytest.raises(InvalidOption):
        ringtable.log_path("tcp://localhost:6379")


def test_what_is_no_log_is_left_alone(ringtable_dir: Path) -> None:
    path = Path(ringtable.log_path())
    path.write_text("mine")
    with pytest.raises(ringtable.PathTaken, match=r"default\.log is no log of a server, and is left alone"):
        ringtable.open(linger=SOON_S, wait=DEADLINE_S)
    path.unlink()
    path.symlink_to(ringtable_dir / "elsewhere")
    with pytest.raises(ringtable.PathTaken):
        ringtable.open(linger=SOON_S, wait=DEADLINE_S)
    assert not (ringtable_dir / "elsewhere").exists()


# One of several


def open_and_count(ready: Flag) -> int:
    ready.wait()
    with ringtable.open(linger=LONG_S, wait=DEADLINE_S, max_memory="16MiB", workers=1) as table:
        table.incr("count")
        return table.stats()["process_id"]


def test_of_many_processes_that_open_at_once_one_server_comes_to_be(ringtable_dir: Path) -> None:
    with Flag() as ready:
        children = [Child(open_and_count, ready) for _ in range(20)]
        ready.set()
        servers = {child.result(4 * DEADLINE_S) for child in children}
    assert len(servers) == 1
    with ringtable.connect() as table:
        assert table["count"] == b"20"
    os.kill(servers.pop(), signal.SIGTERM)
    assert log().count("serves") == 1


def test_so_it_is_with_threads() -> None:
    with ThreadPoolExecutor(4) as threads, opened() as table:
        tables = [threads.submit(ringtable.open) for _ in range(4)]
        assert {one.result().stats()["process_id"] for one in tables} == {table.stats()["process_id"]}
        for one in tables:
            one.result().close()


def test_a_thread_may_start_it() -> None:
    """Also one in which signals are blocked."""
    found: list[int] = []

    def open_in_thread() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        with opened() as table:
            found.append(table.stats()["process_id"])

    thread = threading.Thread(target=open_in_thread)
    thread.start()
    thread.join(2 * DEADLINE_S)
    assert len(found) == 1


def test_a_forked_child_uses_it_and_may_open_it() -> None:
    with opened() as table:

        def use() -> bytes:
            with ringtable.open() as own:
                own["child"] = b"value"
            return table["child"]

        with Child(use) as child:
            assert child.result() == b"value"


def test_when_the_server_has_died_the_next_one_is_started(ringtable_dir: Path) -> None:
    with ringtable.open(linger=LONG_S, wait=DEADLINE_S, max_memory="16MiB") as table:
        pid = table.stats()["process_id"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it has died")
    with opened() as table:
        assert table.stats()["process_id"] != pid


def test_who_opens_as_a_server_ends_gets_the_next_one(seed: int) -> None:
    """Again and again, at about that moment."""
    for round_ in range(6):
        with ringtable.open(linger=0.2, wait=DEADLINE_S, max_memory="16MiB", workers=1) as table:
            assert table.incr("count") >= 1
        time.sleep(0.195 + 0.002 * round_)


def test_a_server_in_this_process_is_as_good(server: Server) -> None:
    with ringtable.open() as table:
        assert table.stats()["process_id"] == os.getpid()
    assert not Path(ringtable.log_path()).exists()


def test_what_is_wrong_is_told_whether_or_not_a_server_runs(server: Server) -> None:
    """In the words of the server, which is not asked."""
    for linger in (-1, 0, 0.001, float("nan"), float("inf")):
        with pytest.raises(InvalidOption, match="linger is") as ours:
            ringtable.open(linger=linger)
        with pytest.raises(InvalidOption, match="linger is") as theirs:
            Server("other", linger=linger)
        assert str(ours.value) == str(theirs.value)


def test_a_server_that_is_ending_is_waited_for() -> None:
    """It has the name, and lets nobody in: the next one waits for the name."""
    lock = Path(ringtable.log_path()).with_name("default.sock.lock")
    with Server(max_memory="16MiB"):
        text = lock.read_bytes()
    lock.touch(0o600)
    lock.write_bytes(text)
    with lock.open() as held, ThreadPoolExecutor(1) as threads:
        fcntl.flock(held, fcntl.LOCK_EX)
        opening = threads.submit(ringtable.open, linger=SOON_S, wait=DEADLINE_S, max_memory="16MiB")
        wait_until(lambda: any(b"_background" in words(pid) for pid in background()), "a server waits")
        assert not opening.done()
        lock.unlink()
        held.close()
        opening.result().close()


def background() -> set[int]:
    return processes_of(os.environ["RINGTABLE_DIR"]) - {os.getpid()}


def words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# Options


def test_options_that_are_given_have_to_be_those_of_the_server() -> None:
    with opened(buckets=100, cache=True, spin_us=3, tcp="localhost:0", slow_consumer_timeout=timedelta(seconds=3)):
        same: dict[str, Any] = {
            "buckets": 100.0,
            "workers": 1,
            "max_memory": 16 << 20,
            "cache": True,
            "spin_us": 3.0,
            "tcp": "127.0.0.1:0",
            "slow_consumer_timeout": 3,
            "mode": 0o600,
            "topology": "lanes",
            "strict_seal": False,
        }
        ringtable.open(**same).close()
        for name, value, wanted, found in [
            ("buckets", 7, "7", "100"),
            ("workers", 3, "3", "1"),
            ("max_memory", "1GiB", "1073741824", "16777216"),
            ("eviction", "noeviction", "'noeviction'", "'allkeys-sieve'"),
            ("spin_us", 9, "9.0", "3.0"),
            ("tcp", "localhost:9", "'127.0.0.1:9'", "'127.0.0.1:0'"),
            ("udp", "localhost:9", "'127.0.0.1:9'", "what it chooses itself"),
            ("slow_consumer_timeout", 1, "1.0", "3.0"),
            ("mode", 0o666, "0o666", "0o600"),
            ("topology", "shared", "'shared'", "'lanes'"),
            ("max_unevictable", 1, "1", "what it chooses itself"),
        ]:
            with pytest.raises(InvalidOption) as raised:
                ringtable.open(**{name: value})  # type: ignore[call-overload]
            assert str(raised.value).startswith(f"{name} is {wanted}, but the server at "), raised.value
            assert f" runs with {found}: " in str(raised.value)
        # For how long it lingers, it was told by who has started it.
        ringtable.open(linger=5.0, cache=None).close()


def test_a_server_from_the_command_line_tells_its_options(server_process: ServerProcess) -> None:
    ringtable.open(workers=2, max_memory="256MiB", cache=False).close()
    with pytest.raises(InvalidOption, match="workers is 3, but the server"):
        ringtable.open(workers=3)


def test_what_is_wrong_is_told_before_anything_is_started(ringtable_dir: Path) -> None:
    for options, error, message in [
        ({"max_memory": "1GB"}, InvalidOption, "max_memory is '1GB'"),
        ({"workers": 1.5}, InvalidOption, "workers is 1.5"),
        ({"linger": "60"}, TypeError, "linger is a number, not str"),
        ({"wait": -1}, InvalidOption, "wait is -1"),
        ({"max_mem": 1}, TypeError, "unexpected keyword argument 'max_mem'"),
        ({"mode": 600}, InvalidOption, "write it in octal"),
        ({"tcp": 6379}, TypeError, "tcp is text"),
    ]:
        with pytest.raises(error, match=message):
            ringtable.open(**options)  # type: ignore[arg-type]
    assert list(ringtable_dir.iterdir()) == []


# Failures


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_memory": "1024TiB"}, InvalidOption, "max_memory is .*; allowed are"),
        ({"workers": 10_000}, InvalidOption, "workers is 10000; allowed are 1 to"),
        ({"linger": 0.0}, InvalidOption, "linger is 0; allowed are 0.01 to"),
        ({"tcp": "192.168.0.1:1"}, InvalidOption, "tcp is 192.168.0.1:1; allowed are"),
        ({"eviction": "lru"}, InvalidOption, "eviction is 'lru'; allowed are"),
    ],
)
def test_a_server_that_does_not_start_says_why(
    options: dict[str, Any], error: type[Exception], message: str, ringtable_dir: Path
) -> None:
    with pytest.raises(error, match=message):
        ringtable.open(**options, wait=DEADLINE_S)
    assert list(ringtable_dir.iterdir()) == []


def test_one_that_ends_without_a_word_is_told_of_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ServerFailed, match="has ended: it has said nothing"):
        ringtable.open(wait=DEADLINE_S)
    monkeypatch.setattr(sys, "executable", "/bin/cat")
    with pytest.raises(ServerFailed, match="invalid option"):
        ringtable.open(wait=DEADLINE_S)


@pytest.mark.parametrize(
    ("name", "value"),
    [("executable", ""), ("executable", "/no/such/program"), ("frozen", True)],
)
def test_a_program_without_a_python_says_so(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(ringtable.Error, match="this program cannot start one") as raised:
        ringtable.open(wait=DEADLINE_S)
    assert type(raised.value) is ringtable.Error
    assert str(value) in str(raised.value) or value is True


def test_no_server_is_started_at_a_port(ringtable_dir: Path) -> None:
    with pytest.raises(InvalidOption, match=r"open starts servers at unix sockets alone.*ringtable\.connect"):
        ringtable.open("tcp://localhost:1", wait=DEADLINE_S)
    assert list(ringtable_dir.iterdir()) == []


def test_it_gives_up_after_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 2 &\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    with pytest.raises(TableNotFound, match=r"none that was started within 0\.2 seconds was there"):
        ringtable.open(wait=0.2)


def test_ctrl_c_ends_the_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 2 &\n")
    slow.chmod(0o755)

    def wait_for_it() -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.executable = str(slow)
        try:
            ringtable.open(wait=DEADLINE_S)
        except KeyboardInterrupt:
            return "interrupted"
        return "opened"

    with Child(wait_for_it) as child:
        wait_until(lambda: any(b"sleep" in words(pid) for pid in background()), "it is started")
        wait_until(lambda: state_of(child.pid) == "S", "it waits")
        os.kill(child.pid, signal.SIGINT)
        assert child.result() == "interrupted"


def test_a_damaged_report_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_text(f"#!/bin/sh\necho '{json.dumps({'error': 'NoSuchError', 'message': 'odd'})}'\n")
    odd.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(odd))
    with pytest.raises(ServerFailed, match="odd"):
        ringtable.open(wait=DEADLINE_S)
