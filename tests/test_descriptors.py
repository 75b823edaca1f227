"""Descriptors: no forked child has any of its parent's, none is taken for standard input, output or error; and what
comes of it when there are no more of them, or no more threads."""

import itertools
import json
import os
import resource
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import ringtable
from ringtable import Server, Table
from support import DEADLINE_S, Child, ServerProcess, run_script, wait_until

FORKS = 250

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
                # The command line puts there what nobody can write to, or nothing.
                there = {{"0", "1", "2"}} & set(os.listdir(f"/proc/{{server.pid}}/fd"))
                assert {{os.readlink(f"/proc/{{server.pid}}/fd/{{number}}") for number in there}} <= {{os.devnull}}
        finally:
            server.terminate()
            assert server.wait() == 0
        """
    assert run_script(script) == ("", "")
    with pytest.raises(ringtable.TableNotFound):
        ringtable.connect()


# When there are no more


@pytest.mark.parametrize("embedded", [True, False])
def test_only_a_program_of_ours_raises_its_limit(ringtable_dir: Path, embedded: bool) -> None:
    """A program that has a server in it counts on the limit that it was given."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 256 if embedded else hard

    def limits() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        if embedded:
            with Server(max_memory="4MiB"):
                return resource.getrlimit(resource.RLIMIT_NOFILE)
        # One that is started here, and has this limit from its start.
        command = [sys.executable, "-m", "ringtable", "server", "--max-memory", "4MiB"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            seen = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            server.terminate()
        return seen

    with Child(limits) as child:
        assert child.result() == (soft, hard)


# Has at most so many descriptors, and gives all but some of them away.
SHORT = """
    import os, resource, sys
    import ringtable

    def limit(count):
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    def leave(count):
        "Opens descriptors until only so many are left."
        kept = []
        try:
            while True:
                kept.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            for _ in range(count):
                os.close(kept.pop())
        return kept

    def outcome(call):
        try:
            call().close()
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        return "done"
    """
WAYS = {
    "lane": "ringtable.connect",
    "socket": "lambda: ringtable.Table(transport='socket')",
    "watch": "lambda: table.watch()",
}


@pytest.mark.parametrize("topology", ["lanes", "shared"])
@pytest.mark.parametrize("way", WAYS)
def test_a_client_without_descriptors(ringtable_dir: Path, way: str, topology: str) -> None:
    """It says what is short, and where; as soon as there are enough it connects, and nothing is left of what failed."""
    script = f"""
    {SHORT}
    limit(64)
    table = ringtable.connect()
    connect = {WAYS[way]}
    before = len(os.listdir("/proc/self/fd"))
    for count in range(10):
        kept = leave(count)
        said = outcome(connect)
        for descriptor in kept:
            os.close(descriptor)
        if said == "done":
            break
        assert said.startswith("OutOfResources: ") and said.endswith("too many open files (the limit is 64)"), said
        assert len(os.listdir("/proc/self/fd")) == before
    assert 1 < count < 9, count
    table["key"] = b"value"
    """
    with ServerProcess("--max-memory", "16MiB", "--topology", topology):
        assert run_script(script) == ("", "")
        with ringtable.connect() as table:
            assert table["key"] == b"value"
            wait_until(lambda: table.stats()["clients"] == 1, "nothing is left of the others")


# What is loaded when it is first asked for, by what asks for it.
PARTS = [
    "ringtable.Server",
    "ringtable.open",
    "table.watch()",
    "table.namespace(b'of')",
    "table.lock('lock')",
    "table.semaphore('semaphore', 2)",
    "table.event('event')",
    "table.barrier('barrier', 2)",
    "table.once('once')",
    "table.rate_limiter('10/s')",
    "table.memoize()(len)",
    "table.snapshot('file')",
    *(f"ringtable.connect(codec={name!r})" for name in ["text", "json", "pickle", "msgpack", "array"]),
]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_cannot_be_loaded_for_want_of_a_descriptor(ringtable_dir: Path, tmp_path: Path, part: str) -> None:
    """It is said as everywhere else, and another try succeeds."""
    script = f"""
    {SHORT}
    os.chdir({str(tmp_path)!r})
    limit(64)
    with ringtable.connect() as table:
        kept = leave(0)
        try:
            {part}
        except ringtable.OutOfResources as error:
            assert str(error).endswith(": too many open files (the limit is 64)"), error
        else:
            print("nothing was short")
        for descriptor in kept:
            os.close(descriptor)
        {part}
    """
    with ServerProcess("--max-memory", "16MiB"):
        assert run_script(script) == ("", "")


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def count_bells(pid: int) -> int:
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += "eventfd" in os.readlink(descriptor)
    return found


def has_descriptors(pid: int, count: int, bells: int) -> bool:
    """Whether it has so many, of which so many are bells: one is what it has in reserve, unless it gave that up."""
    return (count_descriptors(pid), count_bells(pid)) == (count, bells)


@pytest.mark.parametrize("topology", ["lanes", "shared"])
def test_a_server_without_descriptors(ringtable_dir: Path, topology: str) -> None:
    """Each client is told at once, in the server's words, whatever it was that could not be made."""
    script = f"""
    {SHORT}
    limit(48)
    with ringtable.Server(max_memory="16MiB", topology={topology!r}, workers=1):
        kept = []
        print("ready", flush=True)
        for line in sys.stdin:
            count = int(line)
            for descriptor in kept:
                os.close(descriptor)
            kept = leave(count) if count >= 0 else []
            print("left", count, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        refused: set[str] = set()
        table = ringtable.connect()
        # Its answer comes when all of the join is over.
        table["key"] = b"value"
        bells = count_bells(server.pid)
        for count in range(8):
            server.stdin.write(f"{count}\n")
            server.stdin.flush()
            assert server.stdout.readline() == f"left {count}\n"
            before = count_descriptors(server.pid)
            for connect in ringtable.connect, partial(Table[bytes], transport="socket"), table.watch:
                start = time.monotonic()
                try:
                    connect().close()
                except ringtable.OutOfResources as error:
                    words = str(error)
                    assert words.startswith("the server cannot ")
                    assert words.endswith(": too many open files (the limit is 48)")
                    refused.add(words.split(":")[0].removeprefix("the server cannot "))
                assert time.monotonic() - start < 5.0
                wait_until(
                    partial(has_descriptors, server.pid, before, bells), "the server has closed what it had for that"
                )
        joining = "make a lane" if topology == "lanes" else "let another client join its rings"
        assert refused == {"take another connection", "make a watch", joining}
        server.stdin.write("-1\n")
        server.stdin.flush()
        server.stdout.readline()
        # The accepting thread has its reserve again, too.
        with table, ringtable.connect() as another:
            another["key"] = b"value"
            assert table["key"] == b"value"
            wait_until(lambda: table.stats()["clients"] == 2, "nothing is left of the others")
        server.stdin.close()
        assert server.wait(DEADLINE_S) == 0


def test_a_server_has_a_descriptor_in_reserve_again(ringtable_dir: Path) -> None:
    """Also if another thread took the one that it gave up: as soon as there is one, whether anybody comes or not."""
    script = f"""
    {SHORT}
    import threading, time

    def take():
        while not ends:
            try:
                kept.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass

    def bells():
        found = 0
        for number in range(48):
            try:
                found += "eventfd" in os.readlink(f"/proc/self/fd/{{number}}")
            except FileNotFoundError:
                pass
        return found

    limit(48)
    with ringtable.Server(max_memory="16MiB", workers=1):
        before = bells()
        for line in sys.stdin:
            kept, ends = leave(0), []
            taking = threading.Thread(target=take)
            taking.start()
            print("all are taken", flush=True)
            sys.stdin.readline()
            # The client that was refused is gone, and what it had is the server's again or somebody else's.
            deadline = time.monotonic() + {DEADLINE_S}
            while not all(os.path.exists(f"/proc/self/fd/{{number}}") for number in range(48)):
                assert time.monotonic() < deadline
            ends.append(True)
            taking.join()
            is_taken = bells() < before
            for descriptor in kept:
                os.close(descriptor)
            while bells() != before:
                assert time.monotonic() < deadline, "the server has no descriptor in reserve"
            print("it was taken" if is_taken else "it was not taken", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        was_taken = False
        while not was_taken:
            server.stdin.write("\n")
            server.stdin.flush()
            assert server.stdout.readline() == "all are taken\n"
            # To refuse somebody it gives the reserve up for a moment; if it is gone too soon, it cannot even do that,
            # and that is not what is meant here.
            is_refused = False
            with suppress(ringtable.Timeout):
                with pytest.raises(ringtable.OutOfResources):
                    ringtable.connect(timeout=0.2)
                is_refused = True
            server.stdin.write("\n")
            server.stdin.flush()
            said = server.stdout.readline()
            assert said in ("it was taken\n", "it was not taken\n")
            was_taken = is_refused and said == "it was taken\n"
        server.communicate("", DEADLINE_S)
        assert server.returncode == 0


def test_the_largest_size_of_files_is_named(ringtable_dir: Path) -> None:
    run_script(
        """
        import resource
        import ringtable

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            ringtable.Server(max_memory="16MiB", workers=1)
        except ringtable.OutOfResources as error:
            assert "RLIMIT_FSIZE" in str(error), error
        else:
            raise AssertionError("there is a larger segment")
        """
    )


def test_a_server_that_could_serve_nobody_does_not_start(ringtable_dir: Path) -> None:
    """Whatever it runs out of first: nothing is left behind, and "ready" is said only if a client can connect."""
    script = f"""
    {SHORT}
    limit(64)
    before = set(os.listdir("/proc/self/fd"))
    for count in range(64):
        kept = leave(count)
        try:
            server = ringtable.Server(max_memory="16MiB", workers=2)
        except ringtable.OutOfResources as error:
            assert str(error).endswith("too many open files (the limit is 64)"), error
            server = None
        if server:
            print("ready", flush=True)
            sys.stdin.readline()
            server.stop()
        for descriptor in kept:
            os.close(descriptor)
        assert set(os.listdir("/proc/self/fd")) == before
        assert os.listdir(os.environ["RINGTABLE_DIR"]) == []
        assert len(os.listdir("/proc/self/task")) == 1
        if server:
            break
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with ringtable.connect() as table:
            table["key"] = b"value"
        server.communicate("", DEADLINE_S)
        assert server.returncode == 0


def test_the_command_says_what_is_short(ringtable_dir: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 16; exec "$0" -m ringtable server --max-memory 16MiB', sys.executable],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ringtable: ")
    assert done.stderr.endswith("too many open files (the limit is 16)\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user that has no thread yet")
@pytest.mark.parametrize("threads", range(4))
def test_no_room_for_a_thread(ringtable_dir: Path, threads: int) -> None:
    """Whichever thread it is for: an error of the family, and nothing is left behind."""
    script = f"""
    import os, resource, sys
    import ringtable

    # Imported before this is a user who may not read where it is installed.
    ringtable.Server
    os.chown(os.environ["RINGTABLE_DIR"], 54321, 54321)
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
    resource.setrlimit(resource.RLIMIT_NPROC, (1 + {threads}, 1 + {threads}))
    try:
        ringtable.Server(max_memory="16MiB", workers=3)
    except ringtable.OutOfResources as error:
        assert "no room for another" in str(error), error
    else:
        sys.exit("it has started")
    assert os.listdir(os.environ["RINGTABLE_DIR"]) == []
    assert len(os.listdir("/proc/self/task")) == 1
    """
    assert run_script(script) == ("", "")
