"""Client processes that stand by and do the same together.

The parent sends a function over a pipe; the client calls it with its `Client` and sends back the result or the failure.
No client outlives the parent, however that one ends.
"""

import gc
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

from ringtable._bench.errors import ClientError
from ringtable._bench.processes import CONTEXT
from ringtable._bench.session import Session
from ringtable._bench.subject import Subject
from ringtable._cli.children import end_with_parent
from ringtable._cli.signals import interrupts_held_back

REPLY_S_MAX = 180.0
"""A client silent for so long is taken for hung."""

JOIN_S_MAX = 5.0

Args = TypeVarTuple("Args")
T = TypeVar("T")


@dataclass
class Client:
    """One client process, inside that process."""

    index: int
    """Its number among the crew."""

    pipe: Connection
    memory: dict[str, Any] = field(default_factory=dict)
    """What its functions keep from one call to the next."""

    connected: Session | None = None

    @property
    def session(self) -> Session:
        assert self.connected is not None, "the client is not connected"
        return self.connected

    def remember(self, name: str, make: Callable[[], T]) -> T:
        """What was made under this name, made now if it was not."""
        if name not in self.memory:
            self.memory[name] = make()
        value: T = self.memory[name]
        return value


def open_session(client: Client, connect: Callable[[Any], Session], address: Any) -> None:
    client.connected = connect(address)


def close_session(client: Client) -> None:
    client.session.close()
    client.connected = None
    # A prepared loop holds on to what the session named.
    client.memory.pop("loop", None)


def pause(client: Client) -> None:
    """Does nothing: what is sent to end a call that has no end of its own."""


def until_called(client: Client, endless: Callable[[], T]) -> T | None:
    """Calls what goes on until `KeyboardInterrupt`, and interrupts it at the next call from the parent, or its end."""
    main = threading.main_thread().ident
    assert main is not None

    def watch() -> None:
        select.select([client.pipe], [], [])
        signal.pthread_kill(main, signal.SIGUSR1)

    try:
        signal.signal(signal.SIGUSR1, signal.default_int_handler)
        threading.Thread(target=watch, daemon=True).start()
        return endless()
    except KeyboardInterrupt:
        return None
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class Crew:
    """`size` client processes. They end with the block."""

    def __init__(self, size: int, name: str = "the crew") -> None:
        self.name = name
        self._pipes: list[Connection] = []
        self._processes: list[ForkServerProcess] = []
        self._pending = [0] * size
        try:
            with interrupts_held_back():
                for index in range(size):
                    ours, theirs = CONTEXT.Pipe()
                    process = CONTEXT.Process(target=work, args=(index, theirs), daemon=True)
                    process.start()
                    theirs.close()
                    self._pipes.append(ours)
                    self._processes.append(process)
        except BaseException:
            self.kill()
            raise

    @property
    def size(self) -> int:
        return len(self._pipes)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def connect(self, subject: Subject, of: Sequence[int] | None = None) -> None:
        """Connects every client, or those `of` these indexes."""
        self.call(open_session, type(subject).connect, subject.address, of=of)

    def disconnect(self, of: Sequence[int] | None = None) -> None:
        """Ends these connections."""
        self.call(close_session, of=of)

    def call(self, function: Callable[..., T], *args: Any, of: Sequence[int] | None = None) -> list[T]:
        """Has every client, or those `of` these indexes, call `function`; gives back the results in their order."""
        self.start(function, *args, of=of)
        return self.results(of)

    def start(self, function: Callable[..., object], *args: Any, of: Sequence[int] | None = None) -> None:
        """The same, and does not wait."""
        for index in self._indexes(of):
            try:
                self._pipes[index].send((function, args))
            except (BrokenPipeError, ConnectionError):
                raise self._death(index) from None
            self._pending[index] += 1

    def results(self, of: Sequence[int] | None = None) -> list[Any]:
        """The results of the last `start`.

        Raises:
            ClientError: A client failed, died or is silent; also one that was not asked.
        """
        deadline = time.monotonic() + REPLY_S_MAX
        indexes = self._indexes(of)
        results = dict.fromkeys(indexes)
        silent = {self._pipes[index]: index for index in indexes if self._pending[index]}
        deaths = {process.sentinel: index for index, process in enumerate(self._processes)}
        while silent:
            ready = wait([*silent, *deaths], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ClientError(f"a client of {self.name} is silent for {REPLY_S_MAX} s")
            for source in ready:
                # What a client has still said comes before its death.
                if isinstance(source, Connection):
                    index = silent[source]
                    results[index] = self._receive(index)
                    if not self._pending[index]:
                        del silent[source]
                elif isinstance(source, int) and not any(isinstance(other, Connection) for other in ready):
                    raise self._death(deaths[source])
        return [results[index] for index in indexes]

    def _receive(self, index: int) -> Any:
        try:
            result, failure = self._pipes[index].recv()
        except (EOFError, ConnectionError):
            raise self._death(index) from None
        self._pending[index] -= 1
        if failure:
            raise ClientError(f"a client of {self.name} failed: {failure}")
        return result

    def _death(self, index: int) -> ClientError:
        process = self._processes[index]
        process.join(JOIN_S_MAX)
        return ClientError(f"a client of {self.name} died with {process.exitcode}")

    def _indexes(self, of: Sequence[int] | None) -> Sequence[int]:
        return range(self.size) if of is None else of

    def kill(self) -> None:
        """Ends all clients at once, whatever they are doing."""
        for process in self._processes:
            process.kill()
        self.close()

    def close(self) -> None:
        """Lets the clients finish what they do, and end."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(JOIN_S_MAX)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


@contextmanager
def connected(subject: Subject, size: int) -> Iterator[Crew]:
    """A crew of one subject's clients."""
    with Crew(size, subject.name) as crew:
        crew.connect(subject)
        yield crew


def work(index: int, pipe: Connection) -> None:
    """The life of a client process. Ctrl-C is the parent's to handle."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.disable()
    client = Client(index, pipe)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        result = failure = None
        try:
            result = function(client, *args)
        except Exception as error:
            failure = "".join(traceback.format_exception_only(error)).strip()
        try:
            pipe.send((result, failure))
        except BrokenPipeError:
            return
