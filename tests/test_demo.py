"""`ringtable demo`, whole and interrupted. That it leaves nothing behind is checked after every test."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import ringtable
from ringtable._cli.demo import BACKGROUND_CLIENTS, WORKERS, _program
from support import DEADLINE_S, processes_of, run_cli, state_of, wait_until

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
        env=os.environ | {"TMPDIR": str(temporary_files), "COLUMNS": "80"},
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


# What Python runs at its start, in the demo and in all that it starts. One of a crowd stands still, once all are there,
# so that the demo waits for it, and cannot be over before it is killed.
ONE_STANDS_STILL = """
import os, signal
from contextlib import suppress
from pathlib import Path

def is_of_them(process):
    try:
        parent = int(Path(process, "stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getppid() and {word!r} in Path(process, "cmdline").read_bytes()
    except OSError:
        return False

if is_of_them("/proc/self") and sum(map(is_of_them, Path("/proc").glob("[0-9]*"))) >= {crowd}:
    with suppress(FileExistsError):
        Path(__file__).with_name("one").touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.parametrize(
    ("word", "crowd"),
    [
        pytest.param(b"multiprocessing.spawn", WORKERS, id="workers"),
        pytest.param(b"client\x000\x00", BACKGROUND_CLIENTS, id="clients", marks=pytest.mark.slow),
    ],
)
def test_killed_it_leaves_no_process_behind(
    ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch, word: bytes, crowd: int
) -> None:
    """While its workers wait for each other, and while the clients in the background are at work."""
    # What a killed one leaves among the temporary files goes with the folder of the test.
    Path(ringtable_dir, "sitecustomize.py").write_text(ONE_STANDS_STILL.format(word=word, crowd=crowd))
    monkeypatch.setenv("PYTHONPATH", str(ringtable_dir), prepend=os.pathsep)
    before = processes_of(None)
    demo = start(ringtable_dir)

    def standing() -> set[int]:
        found = set()
        for process in processes_of(str(ringtable_dir)) - before:
            with suppress(FileNotFoundError, ProcessLookupError):
                if state_of(process) == "T":
                    found.add(process)
        return found

    try:
        wait_until(lambda: standing() or demo.poll() is not None, "one stands still", DEMO_S_MAX)
        assert demo.poll() is None
        with ringtable.connect(next(ringtable_dir.glob("*/demo.sock"))) as table:
            wait_until(lambda: table.stats()["clients"] >= crowd, "all others are at work")
    finally:
        demo.kill()
        demo.wait()
        for process in standing():
            os.kill(process, signal.SIGCONT)
        output, _ = demo.communicate(timeout=DEADLINE_S)
        print(output)
    wait_until(lambda: processes_of(str(ringtable_dir)) <= before, "what it started has ended")
    for socket in ringtable_dir.rglob("*.sock"):
        socket.unlink()


@pytest.mark.slow
def test_the_whole_demo(temporary_files: Path) -> None:
    demo = start(temporary_files)
    output, _ = demo.communicate(timeout=DEMO_S_MAX)
    assert demo.returncode == 0, output
    shown = " ".join(output.split())
    report, _, next_ = output.partition("\nNext\n")
    assert not [line for line in report.splitlines() if len(line) > 80]
    for words in (
        "made 1 time",
        "100 allowed",
        "100 pages of 1 MiB into 16 MiB",
        "4 numpy arrays of 4 MiB",
        'ringtable, codec="pickle"',
        "one process, a Counter of its own",
        "8 processes, ringtable",
        "Manager().dict() and Lock()",
        "extrapolated",
        "word by word equal",
        # Why many processes take longer than one does.
        "A count that others see costs more than one that nobody sees",
        "client 100 10, alone",
        "client 100 10, with 16 others",
    ):
        assert words in shown
    wait_until(lambda: not members(demo.pid), "all its processes have ended")
    server, *others = next_.splitlines()
    assert len(others) == 3
    # Typed as they stand, where the demo was run.
    with subprocess.Popen(["sh", "-c", f"exec {server}"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert "ready" in running.stdout.readline()
        for command in others:
            subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, timeout=DEADLINE_S, check=True)
        assert run_cli("get", "greeting").stdout == "hello\n"
        running.terminate()


def test_commands_are_told_as_they_can_be_typed(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(sys.executable).with_name("ringtable")
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.chdir(ringtable_dir)
    assert _program() == str(script)
    monkeypatch.chdir(script.parent.parent.parent)
    assert _program() == str(Path(script.parent.parent.name, script.parent.name, script.name))
    monkeypatch.setenv("PATH", f"{os.defpath}:{script.parent}")
    assert _program() == "ringtable"
    # Another one, which would run something else.
    other = ringtable_dir / "ringtable"
    other.write_text("#!/bin/sh")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ringtable_dir}:{script.parent}")
    assert _program() != "ringtable"
    monkeypatch.setattr(sys, "executable", "/nowhere/my python")
    assert _program() == "'/nowhere/my python' -m ringtable"


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
