"""What the tests share: servers and children as processes, raw connections and lanes, deadlines."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import gc
import importlib
import mmap
import os
import pickle
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import unittest
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from ringtable import Server, ServerGone, Table, TableNotFound, Timeout
from ringtable._cli.signals import interrupts_held_back
from ringtable._ringtable import lane_request, rings_request, socket_path
from warm import ColdProgram, Program, fork_server

if TYPE_CHECKING:
    from ringtable._types import Topology

Result = TypeVar("Result")

# Generous: it is reached only when something is broken, also on a machine with ten times as much to do as it can.
DEADLINE_S = 60.0
# The most that a call takes that has nothing to wait for, with room for a machine with ten times as much to do:
# one that takes longer has waited for an event that did not come.
CALL_S_MAX = 15.0
# For a whole program, which does many things: just before pytest's own.
PROGRAM_S_MAX = 110.0

_STDERR = 2


def wait_until(condition: Callable[[], object], what: str, timeout: float = DEADLINE_S) -> None:
    """Wait until a condition holds, by looking again and again; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.005)


def run_cli(*arguments: str, timeout: float = PROGRAM_S_MAX) -> subprocess.CompletedProcess[str]:
    """Run `ringtable` with these arguments to its end; its exit status is the caller's to check."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        program = Program(arguments, output.fileno(), errors.fileno())
        try:
            status = program.wait(timeout)
        except TimeoutError:
            os.kill(program.pid, signal.SIGKILL)
            program.wait(DEADLINE_S)
            raise
        finally:
            program.close()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(["ringtable", *arguments], status, output.read(), errors.read())


def run_script(script: str) -> tuple[str, str]:
    """Run a script as a program of its own to its good end, and return what it has written to output and errors."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout, done.stderr


def connect_in(seconds: float, address: str = "default", **options: Any) -> Table:
    """Connect with a time-out that calls are to come to, and that connecting itself may come to on a busy machine."""
    while True:
        with suppress(Timeout):
            return Table(address, timeout=seconds, **options)


def is_there() -> bool:
    """Whether there is a server "default"."""
    with suppress(TableNotFound), Table("default", timeout=DEADLINE_S):
        return True
    return False


def patiently(call: Callable[[], Result]) -> Result:
    """The result of a call that changes nothing if it is made twice, and may come to its short time-out meanwhile."""
    while True:
        with suppress(Timeout):
            return call()


def raises_server_gone(call: Callable[[], object]) -> bool:
    """Make a call, and return whether that finds that its server has gone."""
    try:
        call()
    except ServerGone:
        return True
    return False


def figures_of(table: Table) -> dict[str, int]:
    """The server's figures, for those who choose among them by names that they compute."""
    return cast("dict[str, int]", table.stats())


def figure(name: str) -> int:
    """A figure of the server named "default"."""
    with Table() as table:
        return figures_of(table)[name]


class Closing:
    """What is closed at the end of a block."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ServerProcess(Closing):
    """`ringtable server` as a process of its own, ready when the constructor returns."""

    def __init__(self, *arguments: str, errors: int = _STDERR, path: Path | None = None) -> None:
        """Start it; where a `path` is given, from the package that lies there."""
        read_end, write_end = os.pipe()
        self._output = open(read_end)  # noqa: SIM115 `close` closes it
        if path is None:
            self._program: Program | ColdProgram = Program(("server", *arguments), write_end, errors)
        else:
            self._program = ColdProgram(("server", *arguments), write_end, errors, path)
        os.close(write_end)
        self.pid: int = self._program.pid
        self.ready_line = self._output.readline()
        assert "ready" in self.ready_line, self.wait()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop all its threads until it gets SIGCONT, and wait until they stand: it answers nothing from then on."""
        freeze(self.pid)

    def kill(self) -> None:
        """End the server at once, and wait until it has ended; the kernel has closed its sockets then."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """End the server in order, and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait until the server has ended by itself, and return its exit status."""
        return self._program.wait(DEADLINE_S)

    def lanes(self) -> int:
        """The number of lanes that the server holds, as the kernel sees it: it keeps mappings, and no descriptors."""
        return len(mappings(self.pid, "ringtable-lane")) + len(memfds(self.pid, "ringtable-lane"))

    def cpu_s(self) -> float:
        """The CPU time of all its threads, in seconds, from the scheduler's own clock in nanoseconds."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def resident_bytes(self) -> int:
        """Its resident memory, shared memory included."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def table_bytes(self) -> int:
        """The memory that its table takes, as the kernel counts it."""
        # One descriptor for the server's own mapping, one to give to clients: both are of the same file.
        segment, *_ = memfds(self.pid, "ringtable-table")
        return os.stat(segment).st_blocks * 512

    def close(self) -> None:
        if not self._program.has_ended():
            # A test may have stopped it, and a stopped process hears no other signal.
            self.signal(signal.SIGCONT)
            self.stop()
        # A killed server cannot remove its socket.
        if self._program.wait(DEADLINE_S) == -signal.SIGKILL:
            for path in Path(os.environ["RINGTABLE_DIR"]).glob("*.sock"):
                path.unlink()
        self._program.close()
        self._output.close()


class KeptServer(ServerProcess):
    """`ringtable server --keeper` as two processes, of which `pid` is the keeper; what both say is in `words`."""

    def __init__(
        self,
        *arguments: str,
        workers: int = 2,
        max_memory: str = "256MiB",
        max_deaths: int = 1_000,
        path: Path | None = None,
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 `close` closes it
        # What servers have said that followed others, and how many of them were waited for.
        self.said, self._met = "", 0
        given = {"workers": workers, "max-memory": max_memory, "max-deaths": max_deaths}
        options = ("--keeper", *(word for name, value in given.items() for word in (f"--{name}", str(value))))
        super().__init__(*options, *arguments, errors=self._errors.fileno(), path=path)

    @property
    def server_pid(self) -> int:
        """The process of the server that there is now, or in a moment: the last one that was started."""
        found: list[int] = []

        def is_found() -> bool:
            found.extend(self.processes())
            return bool(found)

        wait_until(is_found, "there is a server")
        return found[-1]

    def processes(self) -> list[int]:
        """All processes that the keeper has started: the server, and its successor if there is one."""
        return children_of(self.pid)

    def kill_server(self, *, wait: bool = True) -> None:
        """Kill the server at whatever it does, and wait until the next one serves."""
        pid = self.server_pid
        os.kill(pid, signal.SIGKILL)
        # Else the next one to be killed might be this one.
        wait_until(lambda: is_dead(pid), f"server {pid} has died")
        if wait:
            self.wait_for_successor()

    def kill(self) -> None:
        """End keeper and server at once, while the keeper stands.

        It would start another server, and so would a server that outlives it.
        """
        self.freeze()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until(partial(is_dead, pid), f"process {pid} has ended")
        super().kill()

    def kill_keeper(self, *, wait: bool = True) -> None:
        """Kill the keeper, and wait until the server's process is the next one, and another server serves under it."""
        server = self.server_pid
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: is_dead(self.pid), f"keeper {self.pid} has died")
        self.pid = server
        if wait:
            self.wait_for_successor()

    def wait_for_successor(self) -> None:
        """Wait until a server serves that has not been waited for, and that followed another one."""
        while (followed := self.said.count("ready again")) == self._met:
            assert select.select([self._output], [], [], DEADLINE_S)[0], f"no server has followed: {self.words}"
            said = os.read(self._output.fileno(), 1 << 16)
            assert said, self.words
            self.said += said.decode()
        self._met = followed

    def upgrade(self) -> None:
        """Have the program that lies on the disk take over, and wait until it has said that it serves."""
        done = run_cli("upgrade")
        assert done.returncode == 0, (done, self.words)
        self.wait_for_successor()

    @property
    def words(self) -> str:
        """What keeper and servers have said of what went wrong."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode()

    def close(self) -> None:
        if self._is_another() and not is_dead(self.pid):
            self.signal(signal.SIGCONT)
            self.stop()
        super().close()
        self._errors.close()

    def _is_another(self) -> bool:
        """Whether the keeper is one that has followed another one, and nobody's child here."""
        return self.pid != self._program.pid

    def wait(self) -> int:
        """Wait until the keeper has ended, and return its exit status; 0 for one that has followed another one."""
        if not self._is_another():
            return super().wait()
        wait_until(lambda: is_dead(self.pid), f"keeper {self.pid} has ended")
        return 0


def children_of(pid: int) -> list[int]:
    """The children of a process with one thread, without those that have ended."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if not is_dead(child)]


def freeze(pid: int) -> None:
    """Stop a process, and wait until all its threads stand; the signal alone lets them run on for a moment."""
    os.kill(pid, signal.SIGSTOP)

    def stand() -> bool:
        # One that was about to end may do so yet.
        with suppress(FileNotFoundError, ProcessLookupError):
            return all(state_of(int(task.name)) == "T" for task in Path(f"/proc/{pid}/task").iterdir())
        return False

    wait_until(stand, f"the threads of process {pid} stand")


def time_to_notice_death(server: ServerProcess, table: Table) -> float:
    """How long a call that is blocked takes to raise `ServerGone` once its server is killed, in seconds."""
    raised: list[float] = []

    def block() -> None:
        with suppress(ServerGone):
            table["key"] = b"value"
            raise AssertionError("a frozen server has answered")
        raised.append(time.monotonic())

    # A stopped server answers nothing, so that the call is blocked for sure.
    server.freeze()
    blocked = threading.Thread(target=block)
    blocked.start()
    wait_until(lambda: blocked.native_id and state_of(blocked.native_id) == "S", "the call is blocked")
    killed = time.monotonic()
    server.kill()
    blocked.join(DEADLINE_S)
    return raised[0] - killed


def state_of(task: int) -> str:
    """The state of a process or thread: "S" when it sleeps, "T" when it is stopped."""
    return Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[0]


def is_dead(pid: int) -> bool:
    """Whether a process has ended, with all its threads, whoever is to hear of it."""
    try:
        # The first thread may be the first one to go: until the last one has, all is open that was.
        return state_of(pid) in ("Z", "X") and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def fork() -> int:
    """`os.fork` that loses no interrupt: one that is raised among what Python calls back after a fork is swallowed."""
    if threading.current_thread() is not threading.main_thread():
        return os.fork()
    with interrupts_held_back() as held:
        pid = os.fork()
        if pid == 0:
            # They are the parent's.
            held.clear()
    return pid


class Child(Closing):
    """A forked child that runs a function and ends; what the function returns or raises comes back from `result`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._read_end, write_end = os.pipe()
        self._reaped = False
        sys.stdout.flush()
        self.pid = fork()
        if self.pid == 0:
            os.close(self._read_end)
            _child_main(write_end, function, arguments)
        os.close(write_end)

    def kill(self) -> None:
        """End the child at once, and wait until it has ended."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def has_ended(self) -> bool:
        """Whether the child has ended, or is about to; without waiting."""
        return self._reaped or bool(select.select([self._read_end], [], [], 0)[0])

    def check(self) -> None:
        """Raise what the function has raised, if it has; wait for nothing.

        Raises:
            AssertionError: The function raised.
        """
        if select.select([self._read_end], [], [], 0)[0]:
            self.result()

    def result(self, timeout: float = DEADLINE_S) -> Any:
        """Wait until the child has ended, and return what its function returned.

        Raises:
            AssertionError: The function raised, or the child did not end in time; it is killed then.
        """
        deadline = time.monotonic() + timeout
        chunks: list[bytes] = []
        while select.select([self._read_end], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(self._read_end, 1 << 16)
            if not chunk:
                break
            chunks.append(chunk)
        else:
            self.tell_where()
            self.kill()
            raise AssertionError(f"the child {self.pid} did not end within {timeout} s; see above where it was")
        self._reap()
        assert chunks, f"the child {self.pid} ended without a result"
        error, value = pickle.loads(b"".join(chunks))
        assert error is None, f"the child {self.pid} failed:\n{error}"
        return value

    def tell_where(self) -> None:
        """Let the child write to its standard error where each of its threads is."""
        os.kill(self.pid, signal.SIGUSR1)
        # Nobody says when it has done so.
        time.sleep(0.2)

    def _reap(self) -> None:
        if not self._reaped:
            self._reaped = True
            os.waitpid(self.pid, 0)
            os.close(self._read_end)

    def close(self) -> None:
        if not self._reaped:
            self.kill()


def _child_main(write_end: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    error = value = None
    try:
        # The interpreter's own standard error: pytest puts another object in the place of `sys.stderr`.
        faulthandler.register(signal.SIGUSR1, sys.__stderr__ or sys.stderr)
        value = function(*arguments)
    except BaseException:
        error = traceback.format_exc()
    try:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(pickle.dumps((error, value)))
    finally:
        # Neither pytest's clean-up nor that of any fixture may run twice.
        os._exit(0)


class Flag(Closing):
    """Something that has happened, set in one process and waited for in another; made before the fork."""

    def __init__(self) -> None:
        self._read_end, self._write_end = socket.socketpair()

    def set(self) -> None:
        self._write_end.send(b"!")

    def is_set(self) -> bool:
        return bool(select.select([self._read_end], [], [], 0)[0])

    def wait(self, timeout: float = DEADLINE_S) -> None:
        assert select.select([self._read_end], [], [], timeout)[0], (
            f"the other process did not say so within {timeout} s"
        )

    def close(self) -> None:
        self._read_end.close()
        self._write_end.close()


def signal_while_blocked(child: Child, blocking: Flag, handled: Flag, server: ServerProcess) -> None:
    """Signal (SIGUSR1) a child in the middle of a call that a frozen server does not answer; let the server go on."""
    blocking.wait()
    wait_until(lambda: state_of(child.pid) == "S", "the call is blocked")
    os.kill(child.pid, signal.SIGUSR1)
    try:
        handled.wait(10.0)
    finally:
        server.signal(signal.SIGCONT)


class Successors(Closing):
    """Servers named "default", one after the other: forked children, each of which is killed before the next starts.

    A forked server is up in some milliseconds; `ServerProcess` takes as long as an interpreter needs to start.
    """

    def __init__(self, *, tcp: bool = False, udp: bool = False, **options: Any) -> None:
        self._options: dict[str, Any] = {"workers": 2, "max_memory": "64MiB", **options}
        self._child: Child | None = None
        self.address = "default"
        if tcp or udp:
            # The same port for all of them, since clients look for the next one where the last one was.
            protocol, kind = ("tcp", socket.SOCK_STREAM) if tcp else ("udp", socket.SOCK_DGRAM)
            with socket.socket(type=kind) as probe:
                probe.bind(("127.0.0.1", 0))
                self._options[protocol] = f"127.0.0.1:{probe.getsockname()[1]}"
            self.address = f"{protocol}://{self._options[protocol]}"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self, **options: Any) -> None:
        """Start a server with the options of all, or these instead; it is ready when this returns."""
        assert self._child is None
        with Flag() as ready:
            child = self._child = Child(_serve, {**self._options, **options}, ready)
            wait_until(lambda: ready.is_set() or child.has_ended(), "the server is ready")
            if not ready.is_set():
                child.result()

    def kill(self) -> None:
        """End the server at once, and wait until it has ended; the kernel has closed its sockets then."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def stop(self) -> None:
        """End the server in order."""
        if self._child is not None:
            os.kill(self.pid, signal.SIGTERM)
            self._child.result()
            self._child = None

    def replace(self, **options: Any) -> None:
        """Kill the server, and start the next one."""
        self.kill()
        self.start(**options)

    def __enter__(self) -> Self:
        self.start()
        return self

    def close(self) -> None:
        if self._child is None:
            # A killed server cannot remove its socket; another one can.
            self.start()
        # A stopped process hears no other signal.
        os.kill(self.pid, signal.SIGCONT)
        self.stop()


def _serve(options: dict[str, Any], ready: Flag) -> None:
    """Run a server until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), Server(**options) as server:
        ready.set()
        server.wait()


Address = str | tuple[str, int]
"""Where a server listens: the path of its unix socket, or a host and a port."""


def connected(address: Address) -> socket.socket:
    """A socket that is connected to a server."""
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    connection.settimeout(DEADLINE_S)
    connection.connect(address)
    return connection


class RawConnection(Closing):
    """A connection to a server's unix socket, or to a host and port, for bytes that no client would send."""

    def __init__(self, address: Address) -> None:
        self._socket = connected(address)
        self._lines = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def command(self, *arguments: bytes) -> Any:
        """Send a command as RESP and return its reply."""
        self.send(resp(*arguments))
        return self.reply()

    def reply(self) -> Any:
        """Read one reply: a push as a tuple, an error as an `Exception`, an end of the connection as `EOFError`."""
        line = self._lines.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(line)
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest
            case b"-":
                return Exception(rest.decode())
            case b":":
                return int(rest)
            case b"_":
                return None
            case b"$":
                return None if rest == b"-1" else self._lines.read(int(rest) + 2)[:-2]
            case b"*":
                return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
            case b">":
                return tuple(self.reply() for _ in range(int(rest)))
            case b"%":
                return {self.reply(): self.reply() for _ in range(int(rest))}
        raise AssertionError(f"no reply begins with {line!r}")

    def read(self, size: int) -> bytes:
        """Read so many bytes of replies as they come."""
        return self._lines.read(size)

    def is_closed(self) -> bool:
        """Read on, and return whether the server has closed the connection; waits for it."""
        try:
            return self._lines.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Passing(Closing):
    """Passes files over unix sockets for which who lets go of them last has to wait: TCP sockets that linger.

    They do so as long as this is open, since it does not read from their other ends.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._kept: socket.socket | None = None

    def to(self, connection: socket.socket, data: bytes = b"PING\r\n", count: int = 1, depth: int = 0) -> bool:
        """Pass one `count` times, in the queue of a socket that is in the queue of another, `depth` of them.

        Returns whether the kernel let us. From Linux 6.16 on it refuses if the receiver wants that.
        """
        # If the receiver has let go of it before us, we wait. So this is a child's, which is killed then.
        with Child(self._pass, connection, data, count, depth) as child:
            self._ends.append(self._listener.accept()[0])
            deadline = time.monotonic() + 1.0
            while not child.has_ended() and time.monotonic() < deadline:
                time.sleep(0.001)
            return bool(child.result()) if child.has_ended() else True

    def _pass(self, connection: socket.socket, data: bytes, count: int, depth: int) -> bool:
        passed = socket.create_connection(self._listener.getsockname())
        passed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, (1 << 31) - 1))
        passed.setblocking(False)
        with suppress(BlockingIOError):
            while passed.send(bytes(1 << 16)):
                pass
        for _ in range(depth):
            outer, inner = socket.socketpair()
            socket.send_fds(outer, [b"x"], [passed.fileno()])
            passed.close()
            outer.close()
            passed = inner
        try:
            socket.send_fds(connection, [data], [passed.fileno()] * count)
        except PermissionError:
            # Not closed here: when a process ends, nothing lingers.
            self._kept = passed
            return False
        passed.close()
        return True

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            end.close()


class RawMember(Closing):
    """A connection to a server that was upgraded to shared memory by hand, with all that a client gets."""

    def __init__(self, request: Sequence[str], address: str = "default") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(socket_path(address))
        self.socket.sendall(resp(*(word.encode() for word in request)))
        reply, descriptors, _, _ = socket.recv_fds(self.socket, 256, 8)
        if len(descriptors) != 4:
            # A reason why not, as a client would hear it.
            self.socket.close()
            raise ConnectionRefusedError(reply.decode())
        self.status = reply.decode().split()
        self.table, self.segment, self.request_bell, self.listener = self.descriptors = descriptors
        self.memory = mmap.mmap(self.segment, os.fstat(self.segment).st_size)

    def ring(self) -> None:
        """Wake the server, if it sleeps, to look at what was published."""
        os.eventfd_write(self.request_bell, 1)

    def last_words(self) -> bytes:
        """Wait until the server ends the connection, and return what it says to that on the socket."""
        words = b""
        # Bytes of ours that the server did not read make it a reset, after its own words.
        with suppress(ConnectionResetError):
            while chunk := self.socket.recv(4_096):
                words += chunk
        return words

    def close(self) -> None:
        """Leave without a word, as a client that dies. A second call does nothing."""
        if not self.descriptors:
            return
        self.memory.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []
        self.socket.close()


F_SEAL_SEAL, F_SEAL_FUTURE_WRITE = 0x01, 0x10
"""The module `fcntl` of the oldest Python here does not name the second one."""


def seal_strictly(segment: int) -> None:
    """Give up all that can be done to a segment but through the mapping that is there."""
    fcntl.fcntl(segment, fcntl.F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_FUTURE_WRITE)


class RawLane(RawMember):
    """A lane joined by hand, for what no client does with it.

    What each place of a lane holds is told in `ring/lane.rs`; the places are in bytes.
    """

    REQUEST_TAIL = 128
    REQUEST_HEAD = 256
    RESPONSE_TAIL = 384
    RESPONSE_HEAD = 512
    REQUEST_DATA = 4_096
    RING_SIZE = 128 << 10

    def __init__(self, address: str = "default", *, sealed: bool = True) -> None:
        super().__init__(lane_request(), address)
        assert self.status[0] == "+LANE"
        if sealed:
            # The server looks at the lane only then.
            seal_strictly(self.segment)
            self.ring()

    def load(self, place: int) -> int:
        return int.from_bytes(self.memory[place : place + 8], "little")

    def store(self, place: int, word: int) -> None:
        self.memory[place : place + 8] = word.to_bytes(8, "little")


class SlotState(IntEnum):
    """What a slot of the request queue is at."""

    FREE = 0
    CLAIMED = 1
    PUBLISHED = 2
    QUARANTINED = 3
    PASSED = 4


class RawRings(RawMember):
    """A seat at the rings of a classic topology taken by hand, for what no client does with it.

    The places are words of the exchange, and told in `ring/exchange.rs`; `ring/mpmc.rs` tells what a stamp says. Claims
    are made without the atomic operations that real clients use, so nobody else may claim at the same moment.
    """

    QUEUE_TAIL = 16
    RESPONSE_TAIL = 32
    CURSORS = 64
    SILENT = (1 << 64) - 1

    def __init__(self, address: str = "default") -> None:
        super().__init__(rings_request(), address)
        name, number, generation, _ = self.status
        assert name == "+RINGS"
        self.number, self.generation = int(number), int(generation)
        self.sequence = 0
        self.words = memoryview(self.memory).cast("Q")
        self.slot_words, self.slots, members = self.words[2:5]
        self._queue = -(-(self.CURSORS + 32 * members) // 512) * 512

    def slot(self, position: int) -> int:
        """The place of a position's slot; its stamp is the first word."""
        return self._queue + position % self.slots * self.slot_words

    def stamp(self, position: int, state: SlotState, owner: int | None = None, laps: int = 0) -> int:
        """The stamp that a position's slot has in this state, or has had or will have that many laps from there."""
        owner = self.number if owner is None else owner
        return (position // self.slots + laps) << 19 | owner << 3 | state

    def is_quarantined(self, position: int) -> bool:
        """Whether consumers step over a position's slot, or have done so."""
        return SlotState(self.words[self.slot(position)] & 7) in (SlotState.QUARANTINED, SlotState.PASSED)

    def claim(self) -> int:
        """Take the next slot of the queue, and return its position."""
        position = self.words[self.QUEUE_TAIL]
        assert self.words[self.slot(position)] == self.stamp(position, SlotState.FREE, owner=0)
        self.words[self.slot(position)] = self.stamp(position, SlotState.CLAIMED)
        self.words[self.QUEUE_TAIL] = position + 1
        return position

    def fill(
        self,
        position: int,
        piece: Sequence[int],
        *,
        size: int | None = None,
        generation: int | None = None,
        sequence: int | None = None,
    ) -> None:
        """Write a piece of whole words and its head into a claimed slot; the head is right unless told otherwise."""
        size = 8 * len(piece) if size is None else size
        generation = self.generation if generation is None else generation
        sequence = self.sequence if sequence is None else sequence
        place = self.slot(position)
        self.words[place + 1] = size | generation << 16 | sequence << 32
        for index, word in enumerate(piece):
            self.words[place + 2 + index] = word

    def publish(self, position: int) -> bool:
        """Let the server take a claimed slot; `False`, and the slot is given back, if it was quarantined meanwhile."""
        place = self.slot(position)
        if self.words[place] == self.stamp(position, SlotState.CLAIMED):
            self.words[place] = self.stamp(position, SlotState.PUBLISHED)
            self.sequence += 1
            self.ring()
            return True
        found = self.words[place]
        assert (found & 0x7FFFF) >> 3 == self.number
        assert self.is_quarantined(position)
        # Free for the lap behind the last one that somebody has skipped it in.
        self.words[place] = ((found >> 19) + 1) << 19
        return False

    def send(self, piece: Sequence[int], **head: int) -> int:
        """Send a piece, and return the position that it has gone to."""
        while True:
            position = self.claim()
            self.fill(position, piece, **head)
            # On a busy machine the server may have stepped over the slot meanwhile.
            if self.publish(position):
                return position

    def listen(self) -> None:
        """Announce that we read the responses from here on; nothing that comes is overwritten before we say so."""
        self.words[self.CURSORS + 32 * self.number] = self.words[self.RESPONSE_TAIL]

    def close(self) -> None:
        self.words.release()
        super().close()


def resp(*arguments: bytes) -> bytes:
    """A request in RESP."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in arguments)


def processes() -> frozenset[int]:
    """All processes of the machine."""
    return frozenset(int(name) for name in os.listdir("/proc") if name.isdecimal())


def processes_of(folder: str | None, besides: frozenset[int] = frozenset()) -> set[int]:
    """The children of this process, zombies too, and every process that was started with this $RINGTABLE_DIR.

    A program that was forked by `warm.py` counts, and the process that it was forked from does not.

    Those in `besides` are not looked at: on a machine with many processes that takes longer than a small test.
    """
    found: set[int] = set()
    parents = {os.getpid(), fork_server()}
    for pid in processes() - besides - parents:
        try:
            with open(f"/proc/{pid}/stat") as stat_file:
                parent = int(stat_file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{pid}/environ", "rb") as environment_file:
                environment = environment_file.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        inherited = folder is not None and b"RINGTABLE_DIR=" + folder.encode() in environment
        if parent in parents or inherited:
            found.add(pid)
    return found


def words_of(process: int) -> list[bytes]:
    """The command line of a process, if it is there still."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return []


def own_ringtable_memory() -> list[str]:
    """The mappings and descriptors of ringtable's segments in this process."""
    return mappings(os.getpid(), "ringtable") + memfds(os.getpid(), "ringtable")


def address_space() -> int:
    """Bytes that this process has mapped, which is what a limit counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


FILLING_SIZE = 20 << 20


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """The process can allocate so many bytes more, meanwhile."""
    # What refers to itself may hold much, and would make room when it is found.
    gc.collect()
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space(), hard))
    # What was freed and not given back, or set aside for other threads, would be room, too: it is filled.
    blocks = []
    with suppress(MemoryError):
        while True:
            blocks.append(bytearray(FILLING_SIZE))
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + size, hard))
    # Larger holes that came to be meanwhile.
    with suppress(MemoryError):
        while True:
            blocks.append(bytearray(size + FILLING_SIZE))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def own_mapping(name: str) -> tuple[int, int]:
    """The address and the size of this process's first mapping of the memfd of that name.

    It is the client's own: a client closes the descriptors of its segments once they are mapped.
    """
    start, end = (int(part, 16) for part in mappings(os.getpid(), name)[0].split()[0].split("-"))
    return start, end - start


def own_lane() -> memoryview:
    """The memory of the lane that a client of this process has, for writing to it behind the client's back."""
    address, size = own_mapping("ringtable-lane")
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def mappings(pid: int, name: str) -> list[str]:
    """The mappings that a process has of memfds whose names begin so, as lines of its `maps`."""
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if f"memfd:{name}" in line]


def memfds(pid: int, name: str) -> list[str]:
    """The descriptors that a process has of memfds whose names begin so, as paths."""
    found: list[str] = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            # The directory's own descriptor was listed, too, and is closed by now.
            continue
        if f"memfd:{name}" in target:
            found.append(str(path))
    return found


def become(user: int) -> None:
    """Be another user from now on; for root alone."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def lock_of(path: str | Path) -> Path:
    """The lock of the server at a path."""
    return Path(f"{path}.lock")


def contents(folder: Path) -> dict[str, object]:
    """What is in a folder: names with kinds, inodes, and what regular files hold."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_ino, status.st_size, data)
    return found


def bound(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A socket of that kind at a path."""
    found = socket.socket(socket.AF_UNIX, kind)
    found.bind(str(path))
    return found


@dataclass(frozen=True)
class Way:
    """A way to a table, for as many handles as a test wants."""

    address: str
    options: dict[str, Any]

    def connect(self, **options: Any) -> Table:
        return Table(self.address, **self.options, **options)


# The kinds of connections that a server tells apart.
WAYS: dict[str, tuple[Topology, dict[str, Any]]] = {
    "lane": ("lanes", {"transport": "lane"}),
    "shared rings": ("shared", {"transport": "rings"}),
    "sharded rings": ("sharded", {"transport": "rings"}),
    "socket": ("lanes", {"transport": "socket"}),
    "tcp": ("lanes", {}),
    "udp": ("lanes", {}),
}
# Those with connections: a server sees their clients end, and takes and gives what is larger than a datagram.
CONNECTIONS = [name for name in WAYS if name != "udp"]


@contextmanager
def way_to_a_table(name: str) -> Iterator[Way]:
    """A server inside this process, and one of `WAYS` to it."""
    topology, options = WAYS[name]
    ports: dict[str, Any] = {name: "127.0.0.1:0"} if name in ("tcp", "udp") else {}
    with Server(workers=2, max_memory="64MiB", topology=topology, **ports) as server:
        yield Way(server.tcp or server.udp or "default", options)


def pythons_mapping_tests(table: Table[Any]) -> unittest.TestSuite:
    """`BasicTestMappingProtocol` of CPython, which has each test make an empty mapping: here it empties the table.

    Raises:
        ImportError: This Python was installed without its own tests.
    """
    tests: Any = importlib.import_module("test.mapping_tests").BasicTestMappingProtocol

    class Protocol(tests):  # type: ignore[misc]
        def _empty_mapping(self) -> Table[Any]:
            table.clear()
            return table

    return unittest.defaultTestLoader.loadTestsFromTestCase(Protocol)


class HtmlBalance(HTMLParser):
    """Fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
