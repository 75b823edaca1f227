"""Descriptors: no forked child has any of its parent's, and none is taken for standard input, output or error."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import ringtable
from support import DEADLINE_S, ServerProcess, run_script

FORKS = 400

# Forks again and again, and prints what the children have of ringtable's that this process made after its beginning.
FORKING = f"""
    import os, subprocess, sys, threading
    import ringtable

    def look():
        found = {{}}
        for number in os.listdir("/proc/self/fd"):
            try:
                found[number] = os.readlink(f"/proc/self/fd/{{number}}")
            except FileNotFoundError:
                pass # the folder's own
        return found

    def forks(known):
        inherited = {{}}
        for _ in range({FORKS}):
            read_end, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                kinds = {{
                    "descriptor " + what.split(":")[0] + what[-12:] * what.startswith("anon")
                    for number, what in look().items()
                    if known.get(number) != what and not what.startswith(("pipe", "/proc"))
                }}
                with open("/proc/self/maps") as lines:
                    kinds |= {{"mapping " + line.split()[-2] for line in lines if "memfd:ringtable" in line}}
                os.write(write_end, "|".join(kinds).encode())
                os._exit(0)
            os.close(write_end)
            with os.fdopen(read_end) as pipe:
                for kind in filter(None, pipe.read().split("|")):
                    inherited[kind] = inherited.get(kind, 0) + 1
            os.waitpid(pid, 0)
        print(inherited, flush=True)
    """


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_no_child_has_what_a_thread_is_making(server_process: ServerProcess) -> None:
    script = f"""
    {FORKING}
    def connect():
        while True:
            ringtable.connect().close()
            ringtable.Table(transport="socket").close()
            with ringtable.connect() as table:
                table.watch().close()

    known = look()
    for _ in range(2):
        threading.Thread(target=connect, daemon=True).start()
    forks(known)
    os._exit(0)
    """
    assert run_script(script)[0] == "{}\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_no_child_has_what_its_parents_server_is_making(ringtable_dir: Path) -> None:
    """Above all no lane of another client, which it could write to."""
    script = f"""
    {FORKING}
    connect = "import ringtable\\nwhile True: ringtable.connect().close()"
    known = look()
    with ringtable.Server(max_memory="16MiB"):
        clients = [subprocess.Popen([sys.executable, "-c", connect]) for _ in range(2)]
        try:
            forks(known)
        finally:
            for client in clients:
                client.kill()
                client.wait()
    """
    assert run_script(script)[0] == "{}\n"


STANDARD = {0: "<&-", 1: ">&-", 2: "2>&-"}
CLOSED = [closed for count in (1, 2, 3) for closed in itertools.combinations(STANDARD, count)]

# Writes to what it takes for its output and its errors, and says what became of that.
WRITING = """
import json, os, sys
import ringtable

closed = json.loads(sys.argv[2])
with ringtable.Server(max_memory="16MiB") as server, ringtable.connect() as table, table.watch() as watch:
    table["key"] = b"value"
    for number in closed:
        try:
            os.write(number, b"a line of a log\\n" * 1_000)
        except OSError:
            pass
    found = {"numbers": [number for number in closed if os.path.exists(f"/proc/self/fd/{number}")]}
    table["other"] = b"value"
    with ringtable.connect() as another, ringtable.Table(transport="socket") as plain:
        found["values"] = [each["key"].decode() for each in (table, another, plain)]
        found["bytes"] = len(another)
    found["changes"] = [next(watch).key.decode() for _ in range(2)]
with open(sys.argv[1], "w") as report:
    json.dump(found, report)
"""


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_a_program_without_standard_descriptors(ringtable_dir: Path, closed: tuple[int, ...]) -> None:
    """What it writes to them lands nowhere, and not in the table."""
    program, report = ringtable_dir / "program.py", ringtable_dir / "report.json"
    program.write_text(WRITING)
    redirections = " ".join(STANDARD[number] for number in closed)
    command = f'exec "$0" "$@" {redirections}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, program, report, json.dumps(closed)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done
    expected = {"numbers": [], "values": ["value"] * 3, "bytes": 2, "changes": ["key", "other"]}
    assert json.loads(report.read_text()) == expected


def test_a_server_without_standard_descriptors(ringtable_dir: Path) -> None:
    """`ringtable server`, as a careless init starts it."""
    script = f"""
        import os, subprocess, sys, time, ringtable

        command = [sys.executable, "-m", "ringtable", "server", "--max-memory", "16MiB"]
        server = subprocess.Popen(["/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command])
        try:
            deadline = time.monotonic() + {DEADLINE_S}
            while True:
                try:
                    table = ringtable.connect()
                    break
                except ringtable.TableNotFound:
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.01)
            with table:
                table["key"] = b"value"
                assert not {{"0", "1", "2"}} & set(os.listdir(f"/proc/{{server.pid}}/fd"))
        finally:
            server.terminate()
            assert server.wait() == 0
        """
    assert run_script(script) == ("", "")
    with pytest.raises(ringtable.TableNotFound):
        ringtable.connect()
