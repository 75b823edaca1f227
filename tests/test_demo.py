"""`ringtable demo`, whole and interrupted. That it leaves nothing behind is checked after every test."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DEADLINE_S, processes_of, wait_until, words_of

# On two busy cores; on two free ones it is to stay under a minute.
DEMO_S_MAX = 110.0


@pytest.fixture
def temporary_files(ringtable_dir: Path) -> Iterator[Path]:
    """A folder for the demo's temporary files, which is empty again afterwards."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


def start(temporary_files: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ringtable", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary_files), "COLUMNS": "120"},
        # A group of its own, so that Ctrl-C can be sent to all its processes, as a terminal does.
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_smoke_interrupted(temporary_files: Path, number: signal.Signals) -> None:
    demo = start(temporary_files)
    # The demo itself, what multiprocessing needs, and at least some of its workers.
    wait_until(lambda: len(members(demo.pid)) > 5, "the workers are running")
    if number == signal.SIGINT:
        os.killpg(demo.pid, number)
    else:
        demo.send_signal(number)
    output, _ = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode != 0
    assert "Traceback" not in output
    wait_until(lambda: not members(demo.pid), "all its processes have ended")


@pytest.mark.parametrize("kind", [b"multiprocessing.spawn", b"client"])
def test_killed_it_leaves_no_process_behind(ringtable_dir: Path, kind: bytes) -> None:
    """While its workers count, and while the clients in the background are at work."""
    # What a killed one leaves among the temporary files goes with the folder of the test.
    demo = start(ringtable_dir)
    before = processes_of(None) - {demo.pid}

    def started() -> int:
        return sum(kind in b" ".join(words_of(process)) for process in processes_of(str(ringtable_dir)) - before)

    wait_until(lambda: started() >= 8, "they are at work", DEMO_S_MAX)
    demo.kill()
    demo.communicate(timeout=DEADLINE_S)
    wait_until(lambda: processes_of(str(ringtable_dir)) <= before, "what it started has ended")
    for socket in ringtable_dir.rglob("*.sock"):
        socket.unlink()


@pytest.mark.slow
def test_the_whole_demo(temporary_files: Path) -> None:
    demo = start(temporary_files)
    output, _ = demo.communicate(timeout=DEMO_S_MAX)
    assert demo.returncode == 0, output
    assert "equal" in output
    assert "client 100 10, alone" in output
    assert "client 100 10, with 16 others" in output
    assert sum(line.lstrip().startswith("ringtable ") for line in output.splitlines()) == 3
    wait_until(lambda: not members(demo.pid), "all its processes have ended")


def members(group: int) -> set[int]:
    """The processes of a process group."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.add(int(process.name))
    return found
