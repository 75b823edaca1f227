"""Disks of machines that died, made out of what a server has written down of its steps; and disks that fail."""

from __future__ import annotations

import errno
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import ringtable
from failpoints import needs_failpoints
from ringtable import _ringtable
from support import DEADLINE_S, Child, Flag, figure, wait_until

from proof.images import FAILURES, POLICIES, Failing, Found, live, live_and_die
from proof.recording import Disk

pytestmark = needs_failpoints

IMAGES = 12
SLOW_MS = 2_000


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


@pytest.mark.parametrize(("kind", "number"), FAILURES, ids=lambda value: errno.errorcode.get(value, value))
def test_a_machine_that_dies_whose_disk_has_failed(ringtable_dir: Path, kind: str, number: int) -> None:
    """A sync, a write or a new name failed before, now and then: nothing was acknowledged that is not there."""
    found = Found(0)
    is_frequent = kind in ("sync", "write")
    live_and_die("always", Failing(kind, number, 20 if is_frequent else 0, 3), random.Random(kind), found, IMAGES)
    assert found.writes_refused > 0 or not is_frequent
