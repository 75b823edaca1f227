"""`ringtable demo`: the main job on real input, checked and measured."""

import json
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from ringtable._cli.children import bound, end_with_parent
from ringtable._cli.signals import interrupt_on_termination, interrupts_held_back
from ringtable._errors import Error, Timeout
from ringtable._server import Server
from ringtable._table import Table, connect

WORD = re.compile(rb"\w+")

# Few files a task, so that the bar moves and Ctrl-C is heard soon; few increments a round trip bound a worker's memory.
WORKERS = 8
FILES_PER_TASK = 8
INCREMENTS_PER_ROUND_TRIP = 10_000

CLASSIC_OUTER = 100
CLASSIC_INNER = 10
CLASSIC_ROUNDS = 5
BACKGROUND_CLIENTS = 16
BACKGROUND_START_S_MAX = 30.0
# A client ends within one round of its loop; this is for a machine that is busy with other things.
CLIENT_END_S_MAX = 10.0

NEXT_COMMANDS = (
    ("ringtable server -s 10000 -n 2", "a server of your own, until Ctrl-C"),
    ("ringtable client 100 10", "the classic client, in another terminal"),
    ("ringtable stats", "what the server has counted meanwhile"),
)


def demo() -> None:
    """Count the words of Python's standard library with eight processes and check every count, then measure."""
    console = Console()
    interrupt_on_termination()
    # A folder of its own: no server of the user's is in the way, and nothing is left behind.
    with tempfile.TemporaryDirectory(prefix="ringtable-") as folder, Server(f"{folder}/demo.sock") as server:
        measured = [*_count_words(console, server.path), *_classic_scenario(console, server)]
    _report(console, measured)


def _count_words(console: Console, address: str) -> Iterator[tuple[str, str]]:
    """Count in many processes and in one, compare, and yield what was measured."""
    files = list(_standard_library())
    start = time.perf_counter()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        bar = progress.add_task(f"{WORKERS} processes count the words of the standard library", total=len(files))
        for count in _count_in_processes(files, address):
            progress.advance(bar, count)
    seconds = time.perf_counter() - start

    start = time.perf_counter()
    expected = Counter[bytes]()
    for file in files:
        expected.update(WORD.findall(file.read_bytes()))
    seconds_single = time.perf_counter() - start

    with connect(address) as table:
        _compare(table, expected)
        table.clear()
    words = expected.total()
    yield "files, words, distinct words", f"{len(files):,}, {words:,}, {len(expected):,}"
    yield "compared with one process's Counter, word by word", "equal"
    yield f"{WORKERS} processes, shared table", f"{seconds:.2f} s, {words / seconds:,.0f} increments/s"
    yield "1 process, its own Counter", f"{seconds_single:.2f} s"


def _count_in_processes(files: list[Path], address: str) -> Iterator[int]:
    """Let the workers count, and yield how many files were finished, task by task."""
    tasks = [files[first : first + FILES_PER_TASK] for first in range(0, len(files), FILES_PER_TASK)]
    # Spawned: a worker needs nothing of what this process holds, and Python 3.12 warns of forks of one with threads.
    with ProcessPoolExecutor(
        WORKERS, mp_context=get_context("spawn"), initializer=_worker_start, initargs=(address,)
    ) as pool:
        try:
            with interrupts_held_back():
                counts = [pool.submit(_worker_count, task) for task in tasks]
            for count in as_completed(counts):
                yield count.result()
        except BaseException:
            # At once, even those that are still starting: they would go on to look for a server that is gone.
            for worker in active_children():
                worker.terminate()
            raise


_worker_table: Table


def _worker_start(address: str) -> None:
    """Connect once for all tasks of this worker."""
    global _worker_table
    end_with_parent()
    _worker_table = connect(address)


def _worker_count(files: list[Path]) -> int:
    pipeline = _worker_table.pipeline()
    for file in files:
        for word in WORD.findall(file.read_bytes()):
            pipeline.incr(word)
            if len(pipeline) == INCREMENTS_PER_ROUND_TRIP:
                pipeline.execute()
    pipeline.execute()
    return len(files)


def _standard_library() -> Iterator[Path]:
    """Every Python file of the running Python's standard library, without what was installed beside it."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if not {"site-packages", "dist-packages"} & set(file.parts):
            yield file


def _compare(table: Table, expected: Counter[bytes]) -> None:
    """Compare every word and count.

    Raises:
        Error: The table has other words or counts than the Counter.
    """
    counted = {word: int(count) for word, count in table.items()}
    wrong = [word for word in counted.keys() | expected.keys() if counted.get(word, 0) != expected[word]]
    if wrong:
        word = min(wrong)
        raise Error(
            f"{len(wrong)} of {len(expected)} words were counted wrong, for one {word!r}:"
            f" {counted.get(word, 0)} in the table, {expected[word]} in the Counter"
        )


def _classic_scenario(console: Console, server: Server) -> Iterator[tuple[str, str]]:
    """Measure the classic client alone and beside others, and yield what was measured."""
    name = f"client {CLASSIC_OUTER} {CLASSIC_INNER}"
    with console.status(f"{name}, alone"):
        yield f"{name}, alone", f"{_classic_median_ms(server.path):.2f} ms"
    with console.status(f"{name}, with {BACKGROUND_CLIENTS} others"), _background_clients(server):
        yield f"{name}, with {BACKGROUND_CLIENTS} others in the background", f"{_classic_median_ms(server.path):.2f} ms"


def _classic_median_ms(address: str) -> float:
    """The median of some runs of the classic client, in milliseconds."""
    seconds: list[float] = []
    for _ in range(CLASSIC_ROUNDS):
        command = _client_command(address, CLASSIC_OUTER)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, process_group=0)
        seconds.append(json.loads(done.stdout)["seconds"])
    return statistics.median(seconds) * 1e3


@contextmanager
def _background_clients(server: Server) -> Iterator[None]:
    """Clients that insert, read, check and delete until the end of the block.

    Raises:
        Error: One of them found a mismatch, or could not go on.
    """
    clients_before = int(server.stats()["clients"])
    deadline = time.monotonic() + BACKGROUND_START_S_MAX
    clients: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(BACKGROUND_CLIENTS):
            # In a group of its own: Ctrl-C shall reach this process alone, which ends the clients then.
            command = _client_command(server.path, 0)
            clients.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0))
        while int(server.stats()["clients"]) < clients_before + BACKGROUND_CLIENTS:
            if time.monotonic() > deadline:
                raise Timeout(f"{BACKGROUND_CLIENTS} clients did not connect within {BACKGROUND_START_S_MAX} s")
            server.wait(0.05)
        yield
    finally:
        for client in clients:
            client.terminate()
        statuses = [_end(client) for client in clients]
    if any(statuses):
        raise Error(f"a client in the background failed: exit statuses {statuses}")


def _end(client: subprocess.Popen[bytes]) -> int:
    """Wait until a client that was told to end has ended, kill it if it does not, and return its exit status."""
    try:
        return client.wait(CLIENT_END_S_MAX)
    except subprocess.TimeoutExpired:
        client.kill()
        return client.wait()


def _client_command(address: str, outer: int) -> list[str]:
    client = [sys.executable, "-m", "ringtable", "client", str(outer), str(CLASSIC_INNER)]
    return bound([*client, "--name", address, "--json"])


def _report(console: Console, measured: list[tuple[str, str]]) -> None:
    grid = Grid(box=None, show_header=False, pad_edge=False)
    for what, figure in measured:
        grid.add_row(what, figure)
    console.print(grid)
    console.print("\nNext:")
    commands = Grid(box=None, show_header=False)
    for command, purpose in NEXT_COMMANDS:
        commands.add_row(command, f"[dim]{purpose}[/dim]")
    console.print(commands)
