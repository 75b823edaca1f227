"""`ringtable demo`: the main job on real input, checked and measured, beside what people use otherwise."""

import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from ringtable._cli.children import bound, end_with_parent
from ringtable._cli.signals import interrupt_on_termination, interrupts_held_back
from ringtable._connect import connect
from ringtable._errors import Error, Timeout
from ringtable._server import Server
from ringtable._table import Table

WORD = re.compile(rb"\w+")

# Few files a task, so that the bar moves and Ctrl-C is heard soon; few increments a round trip bound a worker's memory.
WORKERS = 8
FILES_PER_TASK = 8
INCREMENTS_PER_ROUND_TRIP = 10_000
START_S_MAX = 60.0

MANAGER_S = 2.0
"""For so long a Manager's dict is measured; all of the words would take many minutes."""

CACHE_SIZE = 16 << 20
CACHE_PAGES = 100
PAGE_SIZE = 1 << 20
RENDER_S = 0.2
CALLS_ALLOWED = 100
CALLS_TRIED = 50
"""By each worker."""

CLASSIC_OUTER = 100
CLASSIC_INNER = 10
CLASSIC_ROUNDS = 5
BACKGROUND_CLIENTS = 16
BACKGROUND_START_S_MAX = 30.0
# A client ends within one round of its loop; this is for a machine that is busy with other things.
CLIENT_END_S_MAX = 10.0

NEXT_COMMANDS = (
    ("server -s 10000 -n 2", "a server of your own, until Ctrl-C; then, in another terminal:"),
    ("client 100 10", "the classic client"),
    ("set greeting hello", "one key; `get greeting` reads it"),
    ("stats", "what the server has counted meanwhile"),
)


@dataclass(frozen=True)
class Row:
    what: str
    figure: str
    remark: str = ""


@dataclass(frozen=True)
class Part:
    """What was shown, and what came of it."""

    title: str
    rows: list[Row]
    note: str = ""


def demo() -> None:
    """Count words, cache, limit and measure; `ringtable._cli` says more."""
    console = Console()
    interrupt_on_termination()
    # A folder of its own: no server of the user's is in the way, and nothing is left behind.
    with tempfile.TemporaryDirectory(prefix="ringtable-") as folder, Server(f"{folder}/demo.sock") as server:
        with _workers(console, server.path) as pool:
            parts = [_words(console, pool, server.path, folder), _cache(console, pool, folder), _limiter(pool)]
        parts.append(_classic(console, server))
    for part in parts:
        _report(console, part)
    _report_commands(console)


# The workers


@contextmanager
def _workers(console: Console, address: str) -> Iterator[ProcessPoolExecutor]:
    """Eight processes that are connected to the table."""
    # Spawned: a worker needs nothing of what this process holds, and Python 3.12 warns of forks of one with threads.
    with ProcessPoolExecutor(
        WORKERS, mp_context=get_context("spawn"), initializer=_worker_start, initargs=(address,)
    ) as pool:
        try:
            with console.status(f"starting {WORKERS} processes"):
                with interrupts_held_back():
                    started = _everywhere(pool, os.getpid)
                started()
            yield pool
        except BaseException:
            # At once, even those that are still starting: they would go on to look for a server that is gone.
            for worker in active_children():
                worker.terminate()
            raise


def _everywhere(pool: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Callable[[], list[Any]]:
    """Have every worker call a function at the same time; what is returned waits for the results."""
    meeting = f"meeting {time.monotonic_ns()}"
    futures = [pool.submit(_worker_together, meeting, function, arguments) for _ in range(WORKERS)]
    return lambda: [future.result() for future in futures]


_worker_table: Table


def _worker_start(address: str) -> None:
    """Connect once for all tasks of this worker."""
    global _worker_table
    end_with_parent()
    _worker_table = connect(address)


def _worker_together(meeting: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Wait for the other workers, so that each has one task, and then call the function."""
    here, deadline = _worker_table.incr(meeting, ttl_if_new=2 * START_S_MAX), time.monotonic() + START_S_MAX
    while here < WORKERS:
        if time.monotonic() > deadline:
            raise Timeout(f"{WORKERS} processes did not start within {START_S_MAX:g} s")
        time.sleep(0.001)
        here = int(_worker_table[meeting])
    return function(*arguments)


# Counting words


def _words(console: Console, pool: ProcessPoolExecutor, address: str, folder: str) -> Part:
    """Count in many processes and in one, compare; and count with a Manager's dict, for a while."""
    files = list(_standard_library())
    with connect(address) as table:
        table.clear()
        shared_s = _timed(lambda: _count_together(console, pool, files))
        expected = Counter[bytes]()
        own_s = _timed(lambda: [expected.update(WORD.findall(file.read_bytes())) for file in files])
        _compare(table, expected)
        table.clear()
    words = expected.total()
    with console.status("the same with a Manager's dict, for a while"):
        sample, sample_s = _count_by_manager(pool, files, folder)
    manager_s = sample_s / sample * words
    return Part(
        f"{WORKERS} processes count the words of Python's standard library:"
        f" {words:,} in {len(files):,} files, {len(expected):,} different ones",
        [
            Row(
                "one process, a Counter of its own", f"{own_s:.2f} s", f"{_us(own_s / words)} a word; nobody sees them"
            ),
            Row(
                f"{WORKERS} processes, ringtable",
                f"{shared_s:.2f} s",
                f"{_us(shared_s / words)} a word, {INCREMENTS_PER_ROUND_TRIP:,} in a pipeline; all see each count",
            ),
            Row(
                f"{WORKERS} processes, Manager().dict() and Lock()",
                f"~{manager_s:,.0f} s",
                f"{_us(sample_s / sample)} a word, {manager_s / shared_s:,.0f}x as long: extrapolated from {sample:,}"
                f" words in {sample_s:.1f} s",
            ),
            Row("the table beside the Counter, word by word", "equal"),
        ],
        "A count that others see costs more than one that nobody sees: if counts are wanted only at the end, let each"
        " process have a Counter, and add them up. A table is for numbers that others need meanwhile.",
    )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _count_together(console: Console, pool: ProcessPoolExecutor, files: list[Path]) -> None:
    tasks = [files[first : first + FILES_PER_TASK] for first in range(0, len(files), FILES_PER_TASK)]
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        bar = progress.add_task(f"{WORKERS} processes count the words of the standard library", total=len(files))
        for count in as_completed([pool.submit(_worker_count, task) for task in tasks]):
            progress.advance(bar, count.result())


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


def _count_by_manager(pool: ProcessPoolExecutor, files: list[Path], folder: str) -> tuple[int, float]:
    """How many words all workers count into a Manager's dict within `MANAGER_S`, and how long that took."""
    manager = SyncManager(f"{folder}/manager.sock", ctx=get_context("spawn"))
    with interrupts_held_back():
        manager.start(end_with_parent)
    try:
        counts, lock = manager.dict(), manager.Lock()
        start = time.perf_counter()
        done = sum(_everywhere(pool, _worker_count_by_manager, files, counts, lock)())
        seconds = time.perf_counter() - start
        if sum(counts.values()) != done:
            raise Error(f"{sum(counts.values())} words are in the Manager's dict, of {done} that were counted")
    finally:
        manager.shutdown()
    return done, seconds


def _worker_count_by_manager(
    files: list[Path], counts: MutableMapping[bytes, int], lock: AbstractContextManager[Any]
) -> int:
    end, done = time.monotonic() + MANAGER_S, 0
    for file in files:
        for word in WORD.findall(file.read_bytes()):
            # Without the lock, of two processes that count the same word at once one would be forgotten.
            with lock:
                counts[word] = counts.get(word, 0) + 1
            done += 1
            if time.monotonic() > end:
                return done
    return done


# A cache


def _cache(console: Console, pool: ProcessPoolExecutor, folder: str) -> Part:
    """More pages than there is room for; and a page that all processes want at once."""
    size = f"{CACHE_SIZE >> 20} MiB"
    with (
        console.status("a cache"),
        Server(f"{folder}/cache.sock", max_memory=CACHE_SIZE, cache=True) as server,
        connect(server.path) as cache,
    ):
        cache["front page"] = bytes(PAGE_SIZE)
        for number in range(CACHE_PAGES):
            cache[f"page {number}"] = bytes(PAGE_SIZE)
            if len(cache.get("front page") or b"") != PAGE_SIZE:
                raise Error("the page that was read all the time was evicted")
        figures = cache.stats()
        resident, evicted = int(figures["memory_resident"]), int(figures["evicted_keys"])
        if resident > CACHE_SIZE or not evicted:
            raise Error(f"the cache has {resident} bytes of {CACHE_SIZE}, and has evicted {evicted} pages")
    waits = _everywhere(pool, _worker_page)()
    made = sum(made for made, _ in waits)
    if made != 1:
        raise Error(f"{made} processes made the same page")
    return Part(
        "A cache",
        [
            Row(
                f"{CACHE_PAGES} pages of 1 MiB into {size}",
                f"{evicted} evicted",
                f"{resident / (1 << 20):.1f} MiB in use; the page that was read all the while is there",
            ),
            Row(
                f"{WORKERS} processes want one page, which takes {RENDER_S:g} s to make",
                f"made {made} time",
                f"the last one has it after {max(took for _, took in waits):.2f} s (get_or_set)",
            ),
        ],
    )


def _worker_page() -> tuple[int, float]:
    """How often this worker had to make the page, and after how long it had it."""
    made = 0

    def make() -> bytes:
        nonlocal made
        made += 1
        time.sleep(RENDER_S)
        return b"<html>"

    took = _timed(lambda: _worker_table.get_or_set("the page", make, ttl=START_S_MAX))
    return made, took


# A rate limiter


def _limiter(pool: ProcessPoolExecutor) -> Part:
    allowed = sum(_everywhere(pool, _worker_calls)())
    if allowed != CALLS_ALLOWED:
        raise Error(f"{allowed} calls were allowed, of {CALLS_ALLOWED}")
    return Part(
        "A rate limiter",
        [
            Row(
                f"{WORKERS} processes try {WORKERS * CALLS_TRIED} calls, of {CALLS_ALLOWED} in a minute",
                f"{allowed} allowed",
                f'incr("calls", ttl_if_new=60, maximum={CALLS_ALLOWED}) is one step, whoever else counts',
            )
        ],
    )


def _worker_calls() -> int:
    """How many of its calls this worker was allowed."""
    tries = (_worker_table.incr("calls", ttl_if_new=60, maximum=CALLS_ALLOWED) for _ in range(CALLS_TRIED))
    return sum(count is not None for count in tries)


# The classic client


def _classic(console: Console, server: Server) -> Part:
    name = f"client {CLASSIC_OUTER} {CLASSIC_INNER}"
    with console.status(f"{name}, alone"):
        alone = _classic_median_ms(server.path)
    with console.status(f"{name}, with {BACKGROUND_CLIENTS} others"), _background_clients(server):
        crowded = _classic_median_ms(server.path)
    return Part(
        f"The classic client: {CLASSIC_OUTER} times insert {CLASSIC_INNER} keys, read and check them, delete them",
        [
            Row(f"{name}, alone", f"{alone:.2f} ms", "the program it descends from: 18.9 ms, on its machine"),
            Row(f"{name}, with {BACKGROUND_CLIENTS} others at it", f"{crowded:.2f} ms", "183.7 ms"),
        ],
    )


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


# The report


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.2f} µs" if us < 10 else f"{us:,.0f} µs"


def _report(console: Console, part: Part) -> None:
    console.print(f"\n[bold]{part.title}[/bold]", highlight=False)
    grid = Grid(box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(ratio=4)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim", ratio=5)
    for row in part.rows:
        grid.add_row(row.what, row.figure, row.remark)
    console.print(Padding(grid, (0, 0, 0, 2)), highlight=False)
    if part.note:
        console.print(Padding(part.note, (0, 0, 0, 2)), highlight=False)


def _report_commands(console: Console) -> None:
    console.print("\n[bold]Next[/bold]")
    width = max(len(command) for command, _ in NEXT_COMMANDS)
    for command, purpose in NEXT_COMMANDS:
        # Not cut into lines: it is for typing, or for copying.
        line = f"{_program()} {command:{width}}  # {purpose}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _program() -> str:
    """How this very program is called from a shell here."""
    script = Path(sys.executable).with_name("ringtable")
    found = shutil.which("ringtable")
    if found is not None and script.exists() and Path(found).samefile(script):
        return "ringtable"
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m ringtable"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here)) if script.is_relative_to(here) else str(script))
