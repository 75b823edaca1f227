"""What all scripts here have in common: arguments, a time limit, the report.

Each says in a `Script` what it measures, how, and how to show it. It ends everything it has started, also after
Ctrl-C and when its time is over. The exit status is 1 if something could not be measured; a goal that is not met is
reported, no failure.
"""

import argparse
import json
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from ringtable._bench import machine, processes
from ringtable._bench.errors import BenchError
from ringtable._bench.subject import Started, running
from ringtable._bench.tabular import Section
from ringtable._cli.signals import interrupt_on_termination

from benches import goals
from benches.figures import Figures
from benches.goals import Goal

REPORT_WIDTH = 110
"""Characters a line where the output is no terminal."""


@dataclass(frozen=True)
class Run:
    """What a script is given to measure with, and what it has measured."""

    options: argparse.Namespace
    folder: Path
    """On tmpfs; removed at the end."""

    say: Callable[[str], None]
    """Shows progress."""

    figures: Figures = field(default_factory=Figures)
    notes: list[str] = field(default_factory=list)
    """What is to be known besides: who is left out."""

    failures: list[str] = field(default_factory=list)
    """What could not be measured; the rest is measured all the same."""

    versions: dict[str, str] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        return bool(self.options.quick)

    @property
    def seed(self) -> int:
        return int(self.options.seed)

    def running(self, start: Callable[[Path], Started]) -> AbstractContextManager[Started]:
        """A fresh and empty server, ended with the block."""
        return running(start, self.folder)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A part that may fail without the others."""
        try:
            yield
        except (BenchError, OSError, ImportError) as error:
            self.failures.append(f"{what} failed: {error}")


@dataclass(frozen=True)
class Script:
    """One thing to measure."""

    name: str
    """Of the module, as in `python -m benches.NAME`."""

    about: str
    limit_s: float
    """Whatever is not measured after this time is given up; a tenth of it for the quick form."""

    measure: Callable[[Run], None]
    sections: Callable[[Run], list[Section]]
    goals: Callable[[Run], Sequence[Goal]]
    """Those that such a run can be judged by."""

    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None
    """Adds those that no other script has."""

    seed: int | None = None
    """Of all runs; else each has its own."""

    def main(self) -> int:
        options = self.parse_arguments()
        console = Console(width=None if sys.stdout.isatty() else REPORT_WIDTH)
        replay = "" if self.seed else " (--seed replays it)"
        console.print(f"{self.about} Seed {options.seed}{replay}.", highlight=False)
        console.print(f"load at the start: {machine.load()}", style="dim", highlight=False)
        interrupt_on_termination()
        limit_s = self.limit_s / 10 if options.quick else self.limit_s
        try:
            with processes.temporary_folder() as folder, console.status("") as status:
                processes.start_forkserver(["benches.rivals"])
                run = Run(options, Path(folder), status.update)
                try:
                    with run.attempt(self.name), time_limit(limit_s):
                        self.measure(run)
                except TimeOver:
                    run.failures.append(f"{self.name} was not done within {limit_s:.0f} s")
        except KeyboardInterrupt:
            console.print("stopped")
            return 130
        finally:
            processes.stop_all()
        self.report(run, console, options)
        return 1 if run.failures else 0

    def report(self, run: Run, console: Console, options: argparse.Namespace) -> None:
        verdicts = [goal.judge(run.figures) for goal in self.goals(run)]
        sections = [*self.sections(run), goals.section(verdicts)]
        sections = [section for section in sections if section.rows]
        for section in sections:
            section.show(console)
        for note in [*run.notes, *run.failures]:
            console.print(f"Note: {note}", style="yellow", markup=False)
        if options.json:
            options.json.write_text(
                json.dumps(
                    {
                        "script": self.name,
                        "machine": machine.describe(),
                        "versions": run.versions,
                        "seed": run.seed,
                        "quick": run.quick,
                        "notes": run.notes,
                        "failures": run.failures,
                        "goals": goals.to_json(verdicts),
                        "figures": [
                            {"scenario": scenario, "rival": rival, "metric": metric, "rounds": rounds}
                            for (scenario, rival, metric), rounds in run.figures.values.items()
                        ],
                    },
                    indent=1,
                    ensure_ascii=False,
                )
            )
        if options.markdown:
            lines = [f"- {name}: {value}" for name, value in {**machine.describe(), **run.versions}.items()]
            lines += [f"- note: {note}" for note in [*run.notes, *run.failures]]
            lines.append(f"- seed {run.seed}{', quick form' if run.quick else ''}")
            lines += [line for section in sections for line in section.markdown()]
            options.markdown.write_text("\n".join(lines) + "\n")

    def parse_arguments(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog=f"benches.{self.name}", description=self.about)
        parser.add_argument("--quick", action="store_true", help="smaller, shorter, unsteadier")
        if self.seed is None:
            seed = random.SystemRandom().getrandbits(31)
            parser.add_argument("--seed", type=int, default=seed, help="repeat the random choices of another run")
        parser.add_argument("--json", metavar="FILE", type=Path, help="every value of every round")
        parser.add_argument("--markdown", metavar="FILE", type=Path, help="the tables, to be pasted into a page")
        self.add_arguments(parser)
        if self.seed is not None:
            parser.set_defaults(seed=self.seed)
        return parser.parse_args()


class TimeOver(Exception):
    """The script has run for so long as it may. Nothing but the script itself handles it."""


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Breaks off what is not done in time, by raising `TimeOver`."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeOver

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
