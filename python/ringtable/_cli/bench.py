"""The work of `ringtable bench`: the classic topology against its successors, on this machine."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ringtable._bench import machine, page, payloads, peers, scaling, scenarios, table, terminal
from ringtable._bench.bench import Bench
from ringtable._bench.crew import Crew
from ringtable._bench.peers import PEERS
from ringtable._bench.processes import start_forkserver, stop_all, temporary_folder
from ringtable._bench.results import Results
from ringtable._bench.settings import FULL, QUICK, Settings
from ringtable._bench.ways import WAYS
from ringtable._cli.built import require_bench
from ringtable._cli.signals import interrupt_on_termination
from ringtable._errors import Error, InvalidOption
from ringtable._range import check_range

PARTS = ("scenarios", "scaling", "payloads")
RUNS_MAX = 1_000
INTERRUPTED_STATUS = 130
REPORT_WIDTH = 120
"""Characters a line where the output is no terminal, and $COLUMNS does not say."""


def bench(
    *,
    quick: bool,
    only: Sequence[str],
    way: Sequence[str],
    peer: Sequence[str],
    runs: int | None,
    json: Path | None,
    csv: Path | None,
    html: Path | None,
    from_json: Path | None,
) -> None:
    """Measure all three parts, or some: `commands/bench.py` says what each argument means."""
    ways = known("--way", way, list(WAYS)) or list(WAYS)
    others = known("--peer", peer, list(PEERS))
    settings = QUICK if quick else FULL
    if runs is not None:
        check_range("--runs", runs, 1, RUNS_MAX, "runs")
        settings = settings.with_runs(runs)
    for file in (json, csv, html):
        if file is not None and not file.absolute().parent.is_dir():
            raise Error(f"{file} cannot be written: there is no folder {file.absolute().parent}")
    if from_json is None:
        require_bench("ringtable bench")
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else REPORT_WIDTH)
    interrupt_on_termination()
    try:
        if from_json is None:
            results = measure(console, settings, [part for part in PARTS if part in only or not only], ways, others)
        else:
            results = load(from_json)
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(INTERRUPTED_STATUS)
    finally:
        stop_all()
    reports = {file: text for file, text in ((json, Results.to_json), (csv, table.render), (html, page.render)) if file}
    # Before anything is shown: whoever reads that may go away in the middle of it.
    for file, text in reports.items():
        file.write_text(text(results), encoding="utf-8")
    terminal.show(console, results)
    for file in reports:
        console.print(f"written: {file}", highlight=False, markup=False)


def known(option: str, wanted: Sequence[str], names: list[str]) -> list[str]:
    """What is wanted, in the order in which it is known."""
    for name in wanted:
        if name not in names:
            raise InvalidOption(f"{option} is {name!r}; known are {', '.join(names)}")
    return [name for name in names if name in wanted]


def load(file: Path) -> Results:
    try:
        return Results.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Error(f"{file} is not what --json wrote: {error}") from None


def measure(console: Console, settings: Settings, parts: list[str], ways: list[str], others: list[str]) -> Results:
    for name in others:
        peers.check_installed(name)
    started, place = time.monotonic(), machine.describe() | {"load before": machine.load()}
    about = {name: WAYS[name].about for name in ways} | {name: PEERS[name].version() for name in others}
    start_forkserver(["ringtable._bench.loops"])
    with temporary_folder() as folder, progress_bar(console) as bar:
        task = bar.add_task("starting", total=None)

        def advance(what: str, share_s: float) -> None:
            bar.update(task, advance=share_s, description=what or bar.tasks[task].description)

        with Crew(max(scenarios.CLIENTS, *scaling.CLIENTS, *payloads.CLIENTS)) as crew:
            bench = Bench(settings, ways, others, crew, Path(folder), advance)
            modules = {"scenarios": scenarios, "scaling": scaling, "payloads": payloads}
            bar.update(task, total=sum(modules[part].planned_s(bench) for part in parts))
            measured = {part: modules[part].measure(bench) for part in parts}
        bar.update(task, visible=False)
    seconds = time.monotonic() - started
    return Results(place, machine.cores_usable(), about, **measured, seconds=seconds)


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    columns = (
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar
