"""`ringtable demo`: what many processes do with one table, checked and measured, beside what people use otherwise.

Eight processes, which stand for the workers of a web server, share a cache, a rate limiter and arrays, and count the
words of Python's standard library. A Manager's dict does the same beside them, for a while.
"""

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
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.managers import SyncManager
from pathlib import Path
from pickle import PickleBuffer
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

MANAGER_S = 1.0
"""For so long words are counted in a Manager's dict; all of them would take many minutes."""

WORKER_PAGE_SIZE = 10 << 10
RENDER_S = 0.2
READ_S = 0.5
"""For so long each worker reads the page."""
READS_PER_CLOCK = 10

CACHE_SIZE = 16 << 20
CACHE_PAGES = 100
PAGE_SIZE = 1 << 20

CALLS_ALLOWED = 100
CALLS_TRIED = 50
"""By each worker."""

ARRAYS = 4
ARRAY_SIZE = 4 << 20
LOADS = 20
LOADS_BY_MANAGER = 2
TOUCHED_STRIDE = 4 << 10
"""Bytes between two that are looked at: each page of memory is read."""

CLASSIC_OUTER = 100
CLASSIC_INNER = 10
CLASSIC_ROUNDS = 3
BACKGROUND_CLIENTS = 16
BACKGROUND_START_S_MAX = 30.0
# A client ends within one round of its loop; this is for a machine that is busy with other things.
CLIENT_END_S_MAX = 10.0

WIDTH_MAX = 80
"""Columns of a note; all else is narrower."""

NEXT_COMMANDS = (
    ("server -s 10000 -n 2", "until Ctrl-C; elsewhere:"),
    ("client 100 10", "the classic client"),
    ("set greeting hello", "`get greeting` reads it"),
    ("stats", "what the server has done"),
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
    """Cache, limit, load, count and measure; `ringtable._cli` says more."""
    console = Console()
    interrupt_on_termination()
    # A folder of its own: no server of the user's is in the way, and nothing is left behind.
    with tempfile.TemporaryDirectory(prefix="ringtable-") as folder, Server(f"{folder}/demo.sock") as server:
        # The workers end first: what they are in the middle of may need the Manager.
        with _manager(f"{folder}/manager.sock") as manager, _workers(console, server.path) as pool:
            _report(console, _cache(console, pool, manager, folder))
            _report(console, _limiter(pool))
            _report(console, _arrays(console, pool, manager, server.path))
            _report(console, _words(console, pool, manager, server.path))
        _report(console, _classic(console, server))
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


@contextmanager
def _manager(path: str) -> Iterator[SyncManager]:
    """A Manager, whose process is there before it is used."""
    manager = SyncManager(path, ctx=get_context("spawn"))
    with interrupts_held_back():
        manager.start(end_with_parent)
    try:
        yield manager
    finally:
        manager.shutdown()


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


# A cache


def _cache(console: Console, pool: ProcessPoolExecutor, manager: SyncManager, folder: str) -> Part:
    """A page that all processes want at once, and read again and again; and more pages than there is room for."""
    waits = _everywhere(pool, _worker_page)()
    made = sum(made for made, _ in waits)
    if made != 1:
        raise Error(f"{made} processes made the same page")
    with console.status("reading it"):
        rate = _rate(_everywhere(pool, _worker_reads, None)())
    with console.status("the same with a Manager's dict"):
        pages = manager.dict({"the page": _render()})
        manager_rate = _rate(_everywhere(pool, _worker_reads, pages)())
    with console.status("a full cache"):
        evicted = _fill_cache(f"{folder}/cache.sock")
    return Part(
        f"{WORKERS} web workers share a cache",
        [
            Row(
                f"all want a page that takes {RENDER_S:g} s to make",
                f"made {made} time",
                f"last after {max(took for _, took in waits):.2f} s",
            ),
            Row("then they read it: ringtable", f"{rate:,.0f}/s"),
            Row("Manager().dict()", f"{manager_rate:,.0f}/s", f"1/{rate / manager_rate:,.0f} of it"),
            Row(
                f"{CACHE_PAGES} pages of 1 MiB into {CACHE_SIZE >> 20} MiB", f"{evicted} evicted", "none that was read"
            ),
        ],
        "get_or_set: one worker makes the page, the others wait. If it dies, the next one does.",
    )


def _render() -> bytes:
    return b"<html>".ljust(WORKER_PAGE_SIZE)


def _worker_page() -> tuple[int, float]:
    """How often this worker had to make the page, and after how long it had it."""
    made = 0

    def make() -> bytes:
        nonlocal made
        made += 1
        time.sleep(RENDER_S)
        return _render()

    took = _timed(lambda: _worker_table.get_or_set("the page", make))
    return made, took


def _worker_reads(pages: Mapping[str, bytes] | None) -> tuple[int, float]:
    """How often this worker reads the page, and in how many seconds; out of the table, or out of a Manager's dict."""
    get: Callable[[str], bytes | None] = _worker_table.get if pages is None else pages.get
    reads, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < READ_S:
        for _ in range(READS_PER_CLOCK):
            if len(get("the page") or b"") != WORKER_PAGE_SIZE:
                raise Error("the page is another one")
        reads += READS_PER_CLOCK
    return reads, seconds


def _rate(reads: list[tuple[int, float]]) -> float:
    """Reads a second of all workers together."""
    return sum(number / seconds for number, seconds in reads)


def _fill_cache(path: str) -> int:
    """How many pages a full cache has evicted, while one was read all the time."""
    with Server(path, max_memory=CACHE_SIZE, cache=True) as server, connect(server.path) as cache:
        cache["front page"] = bytes(PAGE_SIZE)
        for number in range(CACHE_PAGES):
            cache[f"page {number}"] = bytes(PAGE_SIZE)
            if len(cache.get("front page") or b"") != PAGE_SIZE:
                raise Error("the page that was read all the time was evicted")
        figures = cache.stats()
    resident, evicted = int(figures["memory_resident"]), int(figures["evicted_keys"])
    if resident > CACHE_SIZE or not evicted:
        raise Error(f"the cache has {resident} bytes of {CACHE_SIZE}, and has evicted {evicted} pages")
    return evicted


# A rate limiter


def _limiter(pool: ProcessPoolExecutor) -> Part:
    counts = _everywhere(pool, _worker_calls)()
    allowed = sum(allowed for allowed, _ in counts)
    if allowed != CALLS_ALLOWED:
        raise Error(f"{allowed} calls were allowed, of {CALLS_ALLOWED}")
    call_s = statistics.median(seconds for _, seconds in counts) / CALLS_TRIED
    return Part(
        f'They share a rate limiter: table.rate_limiter("{CALLS_ALLOWED}/minute")',
        [Row(f"{WORKERS} workers try {WORKERS * CALLS_TRIED} calls", f"{allowed} allowed", f"{_us(call_s)} a call")],
    )


def _worker_calls() -> tuple[int, float]:
    """How many of its calls this worker was allowed, and how long all of them took."""
    limit = _worker_table.rate_limiter(f"{CALLS_ALLOWED}/minute")
    begun = time.perf_counter()
    allowed = sum(bool(limit("the caller")) for _ in range(CALLS_TRIED))
    return allowed, time.perf_counter() - begun


# Arrays


def _arrays(console: Console, pool: ProcessPoolExecutor, manager: SyncManager, address: str) -> Part:
    """Load a dict of arrays in all processes, which hold it then; and see how much memory that takes."""
    kind, batch = _batch()
    with console.status("loading arrays"), connect(address, codec="pickle") as table:
        table["batch"] = batch
        shared_s, shared = _loaded(_everywhere(pool, _worker_loads, None)())
        del table["batch"]
    with console.status("the same with a Manager's dict"):
        # A buffer of Python's own goes through a Manager as bytes.
        batches = manager.dict(
            {"batch": {name: bytes(one) if isinstance(one, PickleBuffer) else one for name, one in batch.items()}}
        )
        manager_s, copied = _loaded(_everywhere(pool, _worker_loads, batches)())
    return Part(
        f"They load a dict of {ARRAYS} {kind} of {ARRAY_SIZE >> 20} MiB",
        [
            Row('ringtable, codec="pickle"', f"{_us(shared_s)} a load", f"all hold {shared >> 20:,} MiB more"),
            Row("Manager().dict()", f"{manager_s * 1e3:,.0f} ms a load", f"all hold {copied >> 20:,} MiB more"),
        ],
        "Nothing is copied: arrays are read-only views of the memory that all processes share.",
    )


def _batch() -> tuple[str, dict[str, Any]]:
    """What the arrays are, and some of them: numpy's, or buffers of Python's own where numpy is not installed."""
    try:
        import numpy
    except ImportError:
        return "buffers (no numpy here)", {f"{name}": PickleBuffer(b"\1" * ARRAY_SIZE) for name in range(ARRAYS)}
    return "numpy arrays", {f"{name}": numpy.ones(ARRAY_SIZE, "uint8") for name in range(ARRAYS)}


def _worker_loads(batches: Mapping[str, dict[str, Any]] | None) -> tuple[float, int]:
    """Seconds that a load takes, and by how many bytes this worker's own memory has grown while it holds one.

    Out of the table, or out of a Manager's dict.
    """
    if batches is not None:
        return _load_and_hold(batches, LOADS_BY_MANAGER)
    with connect(_worker_table.address, codec="pickle") as table:
        return _load_and_hold(table, LOADS)


def _load_and_hold(batches: Mapping[str, dict[str, Any]], loads: int) -> tuple[float, int]:
    # The first one imports what the arrays need, and is let go of.
    if len(batches["batch"]) != ARRAYS:
        raise Error("there are not all of the arrays")
    before, times = _own_memory(), list[float]()
    for _ in range(loads):
        begun = time.perf_counter()
        batch = batches["batch"]
        times.append(time.perf_counter() - begun)
    for array in batch.values():
        if sum(memoryview(array).cast("B")[::TOUCHED_STRIDE]) != ARRAY_SIZE // TOUCHED_STRIDE:
            raise Error("an array is another one")
    return statistics.median(times), max(0, _own_memory() - before)


def _own_memory() -> int:
    """Bytes of memory that this process shares with nobody, as the kernel counts them."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _loaded(loads: list[tuple[float, int]]) -> tuple[float, int]:
    """The median of the times, and the memory of all workers together."""
    return statistics.median(seconds for seconds, _ in loads), sum(grown for _, grown in loads)


# Counting words


def _words(console: Console, pool: ProcessPoolExecutor, manager: SyncManager, address: str) -> Part:
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
        sample, sample_s = _count_by_manager(pool, files, manager)
    manager_s = sample_s / sample * words
    return Part(
        f"They count words, those of Python's standard library: {words:,}",
        [
            Row("one process, a Counter of its own", f"{own_s:.2f} s", "nobody else sees them"),
            Row(f"{WORKERS} processes, ringtable", f"{shared_s:.2f} s", f"{_us(shared_s / words)} a word"),
            Row("Manager().dict() and Lock()", f"~{manager_s:,.0f} s", f"{manager_s / shared_s:,.0f}x, extrapolated"),
            Row("the table, word by word", "equal", f"{len(expected):,} words"),
        ],
        f"The Manager's dict counted {sample:,} words in {sample_s:.1f} s. A count that others see costs more than one"
        " that nobody sees: if counts are wanted only at the end, let each process have a Counter, and add them up.",
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
        bar = progress.add_task(f"{WORKERS} processes count words", total=len(files))
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
    """The Python files of the running Python's standard library, but its tests, and what was installed beside it."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests"} & set(file.parts):
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


def _count_by_manager(pool: ProcessPoolExecutor, files: list[Path], manager: SyncManager) -> tuple[int, float]:
    """How many words all workers count into a Manager's dict within `MANAGER_S`, and how long that took."""
    counts, lock = manager.dict(), manager.Lock()
    begun = time.perf_counter()
    done = sum(_everywhere(pool, _worker_count_by_manager, files, counts, lock)())
    seconds = time.perf_counter() - begun
    if sum(counts.values()) != done:
        raise Error(f"{sum(counts.values())} words are in the Manager's dict, of {done} that were counted")
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


# The classic client


def _classic(console: Console, server: Server) -> Part:
    name = f"client {CLASSIC_OUTER} {CLASSIC_INNER}"
    with console.status(f"{name}, alone"):
        alone = _classic_median_ms(server.path)
    with console.status(f"{name}, with {BACKGROUND_CLIENTS} others"), _background_clients(server):
        crowded = _classic_median_ms(server.path)
    return Part(
        f"The classic client: {CLASSIC_OUTER} times insert {CLASSIC_INNER} keys, read, check, delete them",
        [
            Row(f"{name}, alone", f"{alone:.2f} ms", "was 18.9 ms"),
            Row(f"{name}, with {BACKGROUND_CLIENTS} others", f"{crowded:.2f} ms", "was 183.7 ms"),
        ],
        "'was' is what this program's predecessor took, on its author's machine.",
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
    grid.add_column(min_width=36)
    grid.add_column(justify="right", no_wrap=True, min_width=14)
    grid.add_column(style="dim")
    for row in part.rows:
        grid.add_row(row.what, row.figure, row.remark)
    console.print(Padding(grid, (0, 0, 0, 2)), highlight=False)
    if part.note:
        console.print(
            Padding(part.note, (0, 0, 0, 2)), style="dim", highlight=False, width=min(console.width, WIDTH_MAX)
        )


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
