"""Training processes that share their data: arrays lie in one table, and no process holds a copy of its own.

    python examples/data_loader.py

Four workers go over batches of numpy arrays, each in an order of its own, and hold on to all of them. A batch that is
missing is decoded by one worker, while the others that need it wait for that one. What a worker reads is in place: it
lies in the memory that all share. The example prints how much memory all processes together take, the server's among
them, beyond what they took before they had data; and the same where each worker decodes everything for itself. It does
so with workers that are spawned, and with workers that are forked by a server of `multiprocessing`.

A server that is killed takes the data along. Whoever notices first starts the next one, and decodes what is missing;
arrays that a worker holds stay as they were. `--name` is the name of the server: some program may run it already.
"""

import argparse
import multiprocessing
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy
import ringtable

WORKERS = 4
BATCHES = 24
EPOCHS = 3
# 4 MiB of floats, and their labels.
SAMPLES, FLOATS = 64, 16_384
DECODE_S = 0.02
# The server ends so long after the last process that uses it.
LINGER_S = 1.0

Batch = dict[str, Any]
Table = ringtable.Table[Any]


def decode(number: int) -> Batch:
    """The slow part: reading a file, decompressing, and what real decoders do besides."""
    time.sleep(DECODE_S)
    return {
        "images": numpy.full((SAMPLES, FLOATS), number, dtype="f4"),
        "labels": numpy.arange(SAMPLES) + number,
    }


class Shared:
    """Batches that lie in the table; whoever needs one first decodes it, for all."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._table = self._open()
        self.decoded = 0

    def __getitem__(self, number: int) -> Batch:
        return self._call(partial(self._load, number))

    def server_pid(self) -> int:
        return self._call(lambda table: table.stats()["process_id"])

    def _load(self, number: int, table: Table) -> Batch:
        # Only `get` reads in place; what `get_or_set` returns is a copy.
        while (found := table.get(f"batch {number}")) is None:
            table.get_or_set(f"batch {number}", partial(self._decode, number))
        return found

    def _decode(self, number: int) -> Batch:
        self.decoded += 1
        return decode(number)

    def _call(self, call: Callable[[Table], Any]) -> Any:
        """Call with the table, or else with that of the next server, which this starts unless another process has."""
        while True:
            try:
                return call(self._table)
            except ringtable.ServerGone:
                # What is held of the old table stays as it was.
                self._table = self._open()

    def _open(self) -> Table:
        return ringtable.open(self._name, codec="pickle", linger=LINGER_S)


class Own:
    """Batches that a worker decodes for itself."""

    def __init__(self) -> None:
        self._batches: dict[int, Batch] = {}

    @property
    def decoded(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        if number not in self._batches:
            self._batches[number] = decode(number)
        return self._batches[number]


def work(source: Callable[[], Shared | Own], seed: int, parent: Connection) -> None:
    """What a worker does: it says when it is there, loads when it is told to, and holds the data until it may end."""
    batches = source()
    parent.send(None)
    parent.recv()
    generator = random.Random(seed)
    held: dict[int, Batch] = {}
    for _ in range(EPOCHS):
        for number in generator.sample(range(BATCHES), BATCHES):
            batch = held[number] = batches[number]
            images, labels = batch["images"], batch["labels"]
            # All of it is looked at.
            if not images.min() == images.max() == labels[0] == number:
                raise SystemExit(f"batch {number} is wrong")
        # Later epochs read what is there by then.
        held.clear()
    held.update((number, batches[number]) for number in range(BATCHES))
    parent.send((batches.decoded, sum(array.nbytes for batch in held.values() for array in batch.values())))
    parent.recv()


def memory_bytes(pids: Iterable[int]) -> int:
    """What these processes take together: of pages that several have, each counts its part (PSS)."""
    found = 0
    for pid in pids:
        # A server may be killed at any time.
        with suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found += sum(int(size) << 10 for size in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE))
    return found


@contextmanager
def workers_of(method: str, source: Callable[[], Shared | Own]) -> Iterator[tuple[list[int], list[Connection]]]:
    context = multiprocessing.get_context(method)
    pipes = [context.Pipe() for _ in range(WORKERS)]
    workers = [context.Process(target=work, args=(source, seed, pipe)) for seed, (_, pipe) in enumerate(pipes)]
    for worker, (_, pipe) in zip(workers, pipes, strict=True):
        worker.start()
        # A worker that ends is seen at its pipe, which nobody else may have then.
        pipe.close()
    try:
        yield [worker.pid or 0 for worker in workers], [pipe for pipe, _ in pipes]
    finally:
        for pipe, _ in pipes:
            pipe.close()
        for worker in workers:
            worker.join()


def answers(pipes: list[Connection]) -> list[Any]:
    try:
        return [pipe.recv() for pipe in pipes]
    except EOFError:
        raise SystemExit("a worker has failed") from None


def measure(method: str, name: str | None) -> None:
    """Let workers load everything, and print the memory that this has taken; without a name each for itself."""
    shared = None if name is None else Shared(name)
    source = Own if name is None else partial(Shared, name)

    def memory() -> int:
        return memory_bytes([os.getpid(), *pids, *([shared.server_pid()] if shared else [])])

    with workers_of(method, source) as (pids, pipes):
        answers(pipes)
        before = memory()
        for pipe in pipes:
            pipe.send(None)
        done = answers(pipes)
        taken = memory() - before
        for pipe in pipes:
            pipe.send(None)
    size = done[0][1]
    decoded = sum(count for count, _ in done)
    whose = "the table's" if shared else "each worker's own"
    print(f"{method:11} {whose:18} {taken / 2**20:8.1f} {taken / size:7.2f}x {decoded:8}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", help="of the table's server; without it, one of this program's own")
    parser.add_argument("--methods", nargs="+", choices=("spawn", "forkserver"), default=("spawn", "forkserver"))
    options = parser.parse_args()
    multiprocessing.set_forkserver_preload(["numpy", "ringtable"])
    print(f"{WORKERS} workers, {BATCHES} batches of {SAMPLES * FLOATS >> 18} MiB. Memory of all processes together:")
    print("workers     arrays are              MiB  of data  decoded")
    for method in options.methods:
        with tempfile.TemporaryDirectory() as folder:
            measure(method, options.name or f"{folder}/batches.sock")
        measure(method, None)


if __name__ == "__main__":
    main()
