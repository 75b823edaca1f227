"""Client processes of one rival that stand by and make the same call together.

Each client is a process with a connection of its own. The parent sends a function of `workload` over a pipe;
the client calls it with its `Client` and sends back the result or the traceback. A client whose pipe closes
ends itself, so no client outlives the parent, however that one ends.
"""

import gc
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

from benches.rivals import CONTEXT, RIVALS, Rival
from benches.workload import Client, connect

REPLY_S_MAX = 180.0
"""A client silent for so long is taken for hung."""

JOIN_S_MAX = 5.0

Args = TypeVarTuple("Args")
T = TypeVar("T")


class ClientError(Exception):
    """A client process failed, died or hung."""


class Crew:
    """`size` client processes of one rival, connected unless told otherwise. They end with the block."""

    def __init__(self, rival: Rival, size: int, *, connected: bool = True) -> None:
        self.rival = rival
        self._pipes: list[Connection] = []
        self._processes = []
        for index in range(size):
            ours, theirs = CONTEXT.Pipe()
            arguments = (rival.name, rival.address, index, theirs)
            process = CONTEXT.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        if connected:
            try:
                self.call(connect)
            except BaseException:
                self.kill()
                raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def call(self, function: Callable[[Client, *Args], T], *args: *Args) -> list[T]:
        """Has every client call `function`; gives back the results, in the order of the clients."""
        self.start(function, *args)
        return self.results()

    def start(self, function: Callable[[Client, *Args], T], *args: *Args) -> None:
        """Has every client call `function`, and does not wait."""
        for pipe in self._pipes:
            pipe.send((function, args))

    def results(self) -> list[Any]:
        """The results of the last `start`. Raises the first failure."""
        deadline = time.monotonic() + REPLY_S_MAX
        results = []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                raise ClientError(f"a client of {self.rival.name} is silent for {REPLY_S_MAX} s")
            try:
                result, failure = pipe.recv()
            except (EOFError, ConnectionError):
                process.join(JOIN_S_MAX)
                raise ClientError(f"a client of {self.rival.name} died with {process.exitcode}") from None
            if failure:
                raise ClientError(f"a client of {self.rival.name} failed:\n{failure}")
            results.append(result)
        return results

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


def work(rival: str, address: object, index: int, pipe: Connection) -> None:
    """The life of a client process. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.disable()
    client = Client(partial(RIVALS[rival].connect, address), index)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        result = failure = None
        try:
            result = function(client, *args)
        except Exception:
            failure = traceback.format_exc()
        try:
            pipe.send((result, failure))
        except BrokenPipeError:
            return
