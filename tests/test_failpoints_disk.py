"""Disks of machines that died, made out of what a server has written down of its steps; and disks that fail."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from failpoints import Victim, needs_failpoints
from ringtable import Server, _ringtable
from ringtable._cli.signals import admit_termination, interrupt_on_termination
from ringtable._keeper.keeper import Keeper
from support import DEADLINE_S, Child, Flag, figure, freeze, is_dead, is_there, wait_until

from proof.images import FAILURES, POLICIES, Failing, Found, live, live_and_die
from proof.recording import Disk

pytestmark = needs_failpoints

IMAGES = 12
SLOW_MS = 2_000
VALUE_SIZE = 60_000
HELD_MAX = 1 << 20
"""Bytes of values that wait for the log, at most: a sixteenth of the table."""


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file below a folder, but for the lock, which is no data."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "ringtable.lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_written_down_is_what_is_on_the_disk(ringtable_dir: Path, tmp_path: Path, policy: str) -> None:
    folder, image, choose = tmp_path / "data", tmp_path / "image", random.Random(1)
    folder.mkdir()
    disk = Disk(folder)
    life = live(tmp_path, policy, None, choose)
    for step in life.steps:
        disk.take(step)
    # A server that has ended in order has synced all that it needs: no choice is left but for what it has removed.
    disk.image(image, choose)
    written, found = contents(image), contents(folder)
    assert {"sync", "write", "create", "rename"} <= {step.kind for step in life.steps}
    assert found
    assert found.items() <= written.items()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_machine_that_dies(ringtable_dir: Path, policy: str) -> None:
    """What was known to be on the disk is there, at whichever step it was."""
    live_and_die(policy, None, random.Random(policy), Found(0), IMAGES)


def serve_slowly(folder: Path, fsync: Any, ready: Flag, finish: Flag) -> None:
    """Serve from a disk on which each sync takes a while, until told to finish."""
    with ringtable.Server(data=folder, log=True, fsync=fsync, workers=1):
        vars(_ringtable)["slow_disk"]("sync", SLOW_MS)
        ready.set()
        finish.wait()
        vars(_ringtable)["slow_disk"]("sync", 0)


def wait_for_the_disk(key: str, fsync: str, begun: Flag) -> None:
    with ringtable.connect(timeout=DEADLINE_S) as table:
        begun.set()
        table[key] = b"value"
        if fsync != "always":
            table.flush(durable=True)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_slow_disk_holds_up_nobody_but_who_waits_for_it(ringtable_dir: Path, tmp_path: Path, fsync: str) -> None:
    with ExitStack() as stack:
        ready, finish, begun = (stack.enter_context(Flag()) for _ in range(3))
        server = stack.enter_context(Child(serve_slowly, tmp_path, fsync, ready, finish))
        ready.wait()
        with ringtable.connect(timeout=DEADLINE_S) as table:
            before = figure("log_syncs")
            waiting = [stack.enter_context(Child(wait_for_the_disk, f"key {n}", fsync, begun)) for n in range(8)]
            begun.wait()
            wait_until(lambda: len(table) > 0, "something is written, and not on the disk")
            for number in range(1_000):
                assert table.get("another key") is None
                if fsync != "always":
                    table[b"%d" % number] = b"value"
            assert not any(child.has_ended() for child in waiting)
            for child in waiting:
                child.result()
            # One sync for all that had come by then, and not one for each.
            assert fsync != "always" or figure("log_syncs") - before <= 3
            finish.set()
            server.result()


def serve_with_keeper(folder: Path) -> None:
    """Serve until told to end. The first server writes slowly."""
    options: dict[str, Any] = {
        "data": folder,
        "log": True,
        "workers": 1,
        "max_memory": "16MiB",
        "eviction": "allkeys-sieve",
    }
    kept = Keeper(options, deaths_max=10, hang_timeout_s=30).keep()
    interrupt_on_termination()
    with suppress(KeyboardInterrupt), Server(_kept=kept, **options) as server:
        if kept[3] == 0:
            vars(_ringtable)["slow_disk"]("write", SLOW_MS)
        admit_termination()
        server.wait()


def write_on(finish: Flag) -> int:
    """Write until told to finish, and return how often. No call may fail."""
    count = 0
    with ringtable.connect(timeout=DEADLINE_S) as table:
        while not finish.is_set():
            assert table.incr("count") > count
            table.set(b"%d" % (count % 50), bytes(VALUE_SIZE))
            count += 1
    return count


def test_who_waits_for_room_in_the_log_goes_on_with_the_next_server(ringtable_dir: Path, tmp_path: Path) -> None:
    """What has not begun is begun by that one: nothing fails, and nothing is done twice."""
    with ExitStack() as stack:
        finish = stack.enter_context(Flag())
        keeper = stack.enter_context(Victim(serve_with_keeper, tmp_path))
        wait_until(is_there, "the server serves")
        with ringtable.connect(timeout=DEADLINE_S) as table:
            writer = stack.enter_context(Child(write_on, finish))
            wait_until(lambda: int(table.get("count", b"0")) * VALUE_SIZE > HELD_MAX, "more is written than is held")
            wait_until(lambda: is_standing(table), "the writer waits")
            os.kill(int(table.stats()["process_id"]), signal.SIGKILL)
            wait_until(lambda: table.stats()["restarts"] == 1, "another server has followed")
            before = int(table["count"])
            wait_until(lambda: int(table["count"]) > before, "the writer goes on")
            finish.set()
            assert writer.result() == int(table["count"])
        os.kill(keeper.pid, signal.SIGTERM)
        assert keeper.what_became_of_it() == "end"


def is_standing(table: ringtable.Table) -> bool:
    """Whether nothing is counted for a moment."""
    before = table["count"]
    time.sleep(0.1)
    return table["count"] == before


def serve_on_a_disk_that_breaks(folder: Path) -> None:
    """Serve until told to end. The second server can make no file."""
    options: dict[str, Any] = {"data": folder, "log": True, "workers": 1, "max_memory": "16MiB"}
    kept = Keeper(options, deaths_max=3, hang_timeout_s=30).keep()
    interrupt_on_termination()
    if kept[3] == 1:
        vars(_ringtable)["fail_disk"]("create", errno.EPERM, count=1_000)
    with suppress(KeyboardInterrupt, ringtable.ServerFailed), Server(_kept=kept, **options) as server:
        admit_termination()
        server.wait()


def test_a_table_survives_that_the_disk_refuses_the_next_server(ringtable_dir: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        keeper = stack.enter_context(Victim(serve_on_a_disk_that_breaks, tmp_path))
        wait_until(is_there, "the server serves")
        with ringtable.connect(timeout=DEADLINE_S) as table:
            table["key"] = b"value"
            os.kill(int(table.stats()["process_id"]), signal.SIGKILL)
            wait_until(lambda: table.stats()["restarts"] == 1, "another server has followed")
            assert table["key"] == b"value"
            assert table.stats()["log_broken"] == 1
            with pytest.raises(ringtable.FileError):
                table["key"] = b"another value"
        os.kill(keeper.pid, signal.SIGTERM)
        assert keeper.what_became_of_it() == "end"


def serve_before_the_disk(folder: Path, refuses: bool) -> None:
    """Serve until told to end; replies wait for the disk, at the first server for longer than any test.

    The second server can make no file, if the disk `refuses`.
    """
    options: dict[str, Any] = {"data": folder, "log": True, "fsync": "always", "workers": 1, "max_memory": "16MiB"}
    kept = Keeper(options, deaths_max=3, hang_timeout_s=0).keep()
    interrupt_on_termination()
    if kept[3] == 1 and refuses:
        vars(_ringtable)["fail_disk"]("create", errno.EPERM, count=1_000)
    with suppress(KeyboardInterrupt, ringtable.ServerFailed), Server(_kept=kept, **options) as server:
        if kept[3] == 0:
            vars(_ringtable)["slow_disk"]("sync", 600_000)
        admit_termination()
        server.wait()


def increment() -> int:
    with ringtable.connect(timeout=DEADLINE_S) as table:
        return table.incr("count")


@pytest.mark.parametrize("refuses", [False, True], ids=["the disk takes it", "the disk refuses it"])
def test_what_waits_for_the_disk_is_answered_by_the_next_server(
    ringtable_dir: Path, tmp_path: Path, refuses: bool
) -> None:
    with ExitStack() as stack:
        keeper = stack.enter_context(Victim(serve_before_the_disk, tmp_path, refuses))
        wait_until(is_there, "the server serves")
        with ringtable.connect(timeout=DEADLINE_S) as table:
            writer = stack.enter_context(Child(increment))
            wait_until(lambda: table.get("count") == b"1", "it is done")
            os.kill(int(table.stats()["process_id"]), signal.SIGKILL)
            if refuses:
                with pytest.raises(AssertionError, match=r"ServerGone.*may not be on the disk"):
                    writer.result()
            else:
                assert writer.result() == 1
            assert table["count"] == b"1"
            server = int(table.stats()["process_id"])
        if refuses:
            os.kill(keeper.pid, signal.SIGTERM)
            assert keeper.what_became_of_it() == "end"
            return
        # It would start another one; and so would a server that outlives it.
        freeze(keeper.pid)
        for pid in (server, keeper.pid):
            os.kill(pid, signal.SIGKILL)
            wait_until(partial(is_dead, pid), "it has died")
    with Server(data=tmp_path, log=True), ringtable.connect() as table:
        assert table["count"] == b"1"


def test_an_end_that_cannot_save_is_told(ringtable_dir: Path, tmp_path: Path) -> None:
    server = Server(data=tmp_path, workers=1)
    with ringtable.connect() as table:
        table["key"] = b"value"
    vars(_ringtable)["fail_disk"]("create", errno.ENOSPC, count=1_000)
    try:
        with pytest.raises(ringtable.ServerFailed, match="the last snapshot has failed"):
            server.stop()
    finally:
        vars(_ringtable)["fail_disk"]("create", 0, count=0)


@pytest.mark.parametrize(("kind", "number"), FAILURES, ids=lambda value: errno.errorcode.get(value, value))
def test_a_machine_that_dies_whose_disk_has_failed(ringtable_dir: Path, kind: str, number: int) -> None:
    """A sync, a write or a new name failed before, now and then: nothing was acknowledged that is not there."""
    found = Found(0)
    is_frequent = kind in ("sync", "write")
    live_and_die("always", Failing(kind, number, 20 if is_frequent else 0, 3), random.Random(kind), found, IMAGES)
    assert found.writes_refused > 0 or not is_frequent
