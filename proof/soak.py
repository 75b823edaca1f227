"""All loads at once against one server, for as long as you like: `python -m proof.soak --help`.

The server is watched all the while: memory, descriptors, threads, CPU time, what it says of itself, and how long calls
take. At the end all clients leave, and the server has to be as it was before them. Then it is judged whether each
promise was held, and the curves show how: `--html soak.html`. The exit status is 0 only if all were held.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import cyclopts
import ringtable
from ringtable import Table
from ringtable._bench import machine
from ringtable._cli.signals import interrupt_on_termination, interrupts_held_back
from support import processes_of

from proof import program, vitals
from proof.curves import LoadReport, Report, render
from proof.loads import LOADS, Load
from proof.verdict import BOUNDS, Promise, does_not_rise, is_as_before
from proof.vitals import Sample

MAX_MEMORY = "256MiB"
WORKERS = 2
START_S_MAX = 30.0
LEAVE_S_MAX = 120.0
"""How long a load may take to end when it is told to, or beyond its time: it checks what it has done."""

SETTLE_S_MAX = 20.0
"""How long the server may take to give up what it kept for clients."""

SHORT_S = 300.0
"""A soak that is shorter than this is sampled each second, and not every ten."""

WORDS_KEPT = 4_000


class Unsound(Exception):
    """The soak cannot be made."""


@dataclass
class Running:
    """A load at work."""

    load: Load
    folder: Path
    generator: random.Random
    runs: int = 0
    failures: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    output: IO[bytes] | None = None

    def start(self, address: str, seconds: float) -> None:
        self.runs += 1
        self.output = open(self.folder / f"{self.load.name}.log", "wb")  # noqa: SIM115  # closed by `look`
        command = self.load.command(address, seconds, self.generator.getrandbits(31))
        with interrupts_held_back():
            # A group of its own, so that all of it can be ended, should it not end what it has started.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, process_group=0
            )

    def is_running(self) -> bool:
        """Whether it still works; what it came to is noted."""
        if self.process is None:
            return False
        status = self.process.poll()
        if status is None:
            return True
        self.note(status)
        return False

    def note(self, status: int, interrupted: bool = False) -> None:
        assert self.output is not None
        self.output.close()
        words = Path(self.output.name).read_text(errors="replace")[-WORDS_KEPT:]
        self.process = None
        # One that is told to end before it listens for that just ends.
        if status not in ((0, 130, -signal.SIGTERM) if interrupted else (0,)) or "forbidden:" in words:
            self.failures.append(f"run {self.runs} ended with status {status}: {words.strip()}")

    def tell_to_end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, deadline: float, interrupted: bool) -> None:
        """Wait until it has ended; force it, and what it has started, when its time is over."""
        if self.process is None:
            return
        try:
            status = self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            status = self.process.wait()
            self.failures.append(f"run {self.runs} did not end within {LEAVE_S_MAX:.0f} s")
        self.note(status, interrupted)


@contextmanager
def server(address: str) -> Iterator[subprocess.Popen[str]]:
    """`ringtable server` as a process of its own."""
    arguments = ["--name", address, "--workers", str(WORKERS), "--max-memory", MAX_MEMORY]
    with interrupts_held_back():
        process = subprocess.Popen(
            [sys.executable, "-m", "ringtable", "server", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    assert process.stdout is not None
    try:
        if "ready" not in process.stdout.readline():
            raise Unsound("the server does not start")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(START_S_MAX)
        process.stdout.close()


class Soak:
    """One soak, from its start to its report."""

    def __init__(self, names: Sequence[str], seconds: float, every: float, seed: int, folder: Path) -> None:
        generator = random.Random(seed)
        self.seconds, self.every, self.folder = seconds, every, folder
        self.address = str(folder / "soak.sock")
        self.loads = [Running(LOADS[name], folder, random.Random(generator.getrandbits(31))) for name in names]
        self.probe = Running(
            Load("probe", "measures how long calls take", "proof.probe",
                 ("--every", str(every), "--lines", str(folder / "latencies"))),
            folder, generator,
        )  # fmt: skip
        self.samples: list[Sample] = []
        self.after: Sample | None = None
        self.promises: list[Promise] = []
        self.started = time.monotonic()
        self.interrupted = False

    def run(self) -> None:
        left_over = processes_of(None)
        with server(self.address) as process:
            # Over its own connection, opened before anything is measured, so that it is in all samples alike.
            with Table(self.address, transport="socket", timeout=START_S_MAX) as table:
                self.started = time.monotonic()
                before = vitals.look(process.pid, table, 0.0)
                lived = True
                try:
                    self.watch(process, table)
                except KeyboardInterrupt:
                    self.interrupted = True
                except (ringtable.Error, OSError) as error:
                    lived = False
                    self.promise("The server lives, and answers", False, f"{type(error).__name__}: {error}")
                finally:
                    self.end_loads()
                if lived:
                    self.promise("The server lives, and answers", True, f"{len(self.samples)} times asked")
                    self.after = self.settled(process.pid, table, before)
                    self.promises += is_as_before(before, self.after)
            if process.poll() is None:
                process.terminate()
            status = process.wait(START_S_MAX)
            self.promise("The server ends in order", status == 0, f"exit status {status}")
        program.sleep_unless(lambda: not processes_of(str(self.folder)) - left_over, SETTLE_S_MAX)
        left = processes_of(str(self.folder)) - left_over
        self.promise("No process is left", not left, f"{sorted(left) or 'none'}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.promises += [does_not_rise(bound, self.samples) for bound in BOUNDS]

    def watch(self, process: subprocess.Popen[str], table: Table) -> None:
        """Keep the loads at work, and look at the server, until the time is over."""
        finish = self.started + self.seconds
        next_look = self.started
        while (now := time.monotonic()) < finish:
            for running in (*self.loads, self.probe):
                if not running.is_running() and not running.failures:
                    running.start(self.address, finish - now)
            if now >= next_look:
                next_look += self.every
                self.samples.append(vitals.look(process.pid, table, now - self.started))
            time.sleep(min(max(0.0, next_look - time.monotonic()), 0.5))

    def end_loads(self) -> None:
        everyone = (*self.loads, self.probe)
        # What has not ended by itself has a moment left, if its time was not cut short.
        if not self.interrupted:
            program.sleep_unless(lambda: not any(running.is_running() for running in everyone), LEAVE_S_MAX / 4)
        for running in everyone:
            running.tell_to_end()
        deadline = time.monotonic() + LEAVE_S_MAX
        for running in everyone:
            running.end(deadline, interrupted=True)
            words = "; ".join(running.failures) or f"{running.runs} {'run' if running.runs == 1 else 'runs'}"
            self.promise(f"{running.load.name}: no wrong answer, no failed call", not running.failures, words)

    def settled(self, pid: int, table: Table, before: Sample) -> Sample:
        """The server when all clients have left, and it has given up what it kept for them."""
        deadline = time.monotonic() + SETTLE_S_MAX
        while True:
            sample = vitals.look(pid, table, time.monotonic() - self.started)
            if all(promise.held for promise in is_as_before(before, sample)) or time.monotonic() > deadline:
                return sample
            time.sleep(0.1)

    def promise(self, name: str, held: bool, words: str) -> None:
        self.promises.append(Promise(name, held, words))

    def report(self, facts: Mapping[str, str]) -> Report:
        outcome = {True: "broken", False: "held"}
        return Report(
            seconds=time.monotonic() - self.started,
            facts=facts,
            promises=self.promises,
            loads=[
                LoadReport(of.load.name, of.load.about, of.runs, outcome[bool(of.failures)])
                for of in (*self.loads, self.probe)
            ],
            samples=self.samples,
            after=self.after,
            latencies=self.latencies(),
            notes=["It was interrupted: what it has seen until then is judged."] if self.interrupted else [],
        )

    def latencies(self) -> list[tuple[float, Mapping[str, Sequence[float]]]]:
        file = self.folder / "latencies"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [(row.pop("at") - self.started, row) for row in rows]


app = cyclopts.App(name="proof.soak", help=__doc__, version_flags=[])


@app.default
def soak(
    *,
    minutes: float = 1.0,
    seconds: float | None = None,
    load: tuple[str, ...] = (),
    every: float | None = None,
    seed: int | None = None,
    html: Path | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Let all loads work on one server, and judge.

    Args:
        minutes: For how long.
        seconds: The same in seconds.
        load: A load by name, instead of all; may be repeated.
        every: Seconds from one sample to the next; 10, or 1 in a short soak, unless given.
        seed: Repeat the random choices of another run, as far as they can be.
        html: A file for the report.
        json_: A file for all samples and the verdict.
    """
    interrupt_on_termination()
    names = load or tuple(LOADS)
    if unknown := [name for name in names if name not in LOADS]:
        print(f"there is no load {', '.join(unknown)}: there are {', '.join(LOADS)}", file=sys.stderr)
        return 2
    if missing := [LOADS[name].module for name in names if not LOADS[name].is_there()]:
        print(f"there is no module {', '.join(missing)}: leave it out by naming the others (--load)", file=sys.stderr)
        return 2
    seconds = 60.0 * minutes if seconds is None else seconds
    seed = program.begin(seed)
    facts = {**machine.describe(), "load before": machine.load(), "seed": str(seed)}
    with tempfile.TemporaryDirectory(prefix="ringtable-soak-") as folder:
        os.environ["RINGTABLE_DIR"] = folder
        run = Soak(names, seconds, every or (1.0 if seconds <= SHORT_S else 10.0), seed, Path(folder))
        try:
            run.run()
        except Unsound as error:
            print(error, file=sys.stderr)
            return 2
        facts["duration"] = f"{run.samples[-1].at_s if run.samples else 0.0:.0f} s"
        report = run.report(facts)
    for promise in report.promises:
        print(f"{'held:     ' if promise.held else 'forbidden:'} {promise.name}: {promise.words}")
    if html:
        html.write_text(render(report))
        print(f"report in {html}")
    if json_:
        json_.write_text(json.dumps(asdict(report), indent=1))
    print(f"after {facts['duration']}: {'everything held' if report.held else 'not everything held'}")
    if run.interrupted:
        return 130
    return 0 if report.held else 1


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
