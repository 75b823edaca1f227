"""Kills servers that have a keeper behind each instruction that changes shared memory, in each kind of change.

    python -m proof.steps --help

A **reference pass** executes the server's thread instruction by instruction (`tracing.py`) while a client makes a call
of one kind (`changes.py`), and takes note of those behind which the table, the lane, the notes or the grants are
others than before, and of system calls that others notice. Then there is a **kill** for each of these points: the same
change again, on the server that there is now; it is stopped behind that very instruction, and killed, with SIGKILL.
What was killed there has done all before the point, and nothing behind it. The next server adopts what there is, and
goes on with the call. At some of the points that one is killed, too, behind each word that it changes as it takes over
(`stage.py`).

What must not be:

- A call without an answer, or with a wrong one. `ServerGone` is an answer where the documentation says so.
- A key that has, in place while no server runs, or in the end, what it had neither before nor is to have; and behind
  an answer, anything but what it is to have.
- Any other key, version, time to live, lock or view that is not as it was.
- Something that is kept of what is over: clients, leases, drafts, memory.
- Words of the next server: they would be of damage that it has found.

Instructions that are executed very often, as those that copy a value, are points at the first and the last of times,
and at some in between that the seed decides. A change that comes to the same by another way than the reference pass,
and so not to the point, is counted as passed.

Not covered: other threads than the worker, which make room, give memory back and let clients in; several workers; what
a worker does of itself, as sweeping and moving entries; a second death in the first turns of the next worker; upgrades.
"""

import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field

import cyclopts
import ringtable
from ringtable._cli.signals import interrupt_on_termination
from support import Child

from proof import program
from proof.changes import HANG_S, changes
from proof.kills import own_folder
from proof.stage import Point, Stage
from proof.tracing import Ended, why_not

OFTEN = 8
"""Changes by one instruction beyond which some are left out: so many at the beginning, the end, and in between each."""

AGAIN_MAX = 4
"""Stores to a word behind which a server is killed that takes over."""

WRONG_MAX = 3
"""Wrong things of a kind after which it is left alone."""


@dataclass
class Row:
    """What was done in changes of one kind."""

    kind: str
    instructions: int = 0
    points: int = 0
    kills: int = 0
    again: int = 0
    """Of these, kills of the next server as well, as it took over."""

    answered: int = 0
    gone: int = 0
    """Calls that have raised `ServerGone`, as they may."""

    passed: int = 0
    """Changes that were made without coming to the point: another way led to the same."""

    seconds: float = 0.0


@dataclass
class Found:
    """What a process has done and seen."""

    rows: list[Row] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)


def chosen(points: list[Point], generator: random.Random) -> list[Point]:
    """Those at which servers are killed: all, but for some of those by one instruction."""
    by_address: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        by_address[point.address].append(point)
    left_out: set[Point] = set()
    for same in by_address.values():
        if len(same) > 3 * OFTEN:
            inner = same[OFTEN:-OFTEN]
            left_out.update(generator.sample(inner, len(inner) - OFTEN))
    return [point for point in points if point not in left_out]


@dataclass(frozen=True)
class Plan:
    """What a process has to do."""

    seed: int
    kinds: tuple[str, ...]
    rounds: int
    sample: int | None
    again: int
    deadline: float
    part: int
    parts: int

    def tasks(self) -> Iterator[tuple[str, int]]:
        """Seeds of rounds, and the numbers of changes in them."""
        for number in range(self.rounds):
            seed = f"{self.seed} {number}"
            every = [index for index, change in enumerate(changes(seed)) if not self.kinds or change.name in self.kinds]
            # So that a run that ends early has made others than the last one.
            random.Random(seed).shuffle(every)
            yield from ((seed, index) for index in every[self.part :: self.parts])

    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline


class Task:
    """All of one kind, in one round."""

    def __init__(self, plan: Plan, seed: str, index: int) -> None:
        self._plan, self._seed, self._index = plan, seed, index
        self._generator = random.Random(f"{seed} {index}")
        # What is left to do, once that is known.
        self._points: list[Point] | None = None
        self._firsts: list[Point] = []
        self._at: Point | None = None
        self.row = Row(changes(seed)[index].name)
        self.forbidden: list[str] = []

    def run(self) -> None:
        """Do it, with another server behind each thing that is wrong, since that may last."""
        begin = time.monotonic()
        while len(self.forbidden) < WRONG_MAX and (self._points is None or self._points or self._firsts):
            with Stage(self._seed, self._index) as stage:
                try:
                    self._go_on(stage)
                except (AssertionError, ringtable.Error, Ended) as error:
                    self._note(stage, error)
                    if self._points is None:
                        break
        self.row.seconds = round(time.monotonic() - begin, 1)
        print(told(self.row), flush=True)

    def _note(self, stage: Stage, error: Exception) -> None:
        where = "not killed"
        if self._at is not None:
            with suppress(AssertionError):
                where = f"killed behind change {self._at.nth} by {stage.place_of(self._at.address)}"
        words = f"{self.row.kind}: {where}: {type(error).__name__}: {error}"
        self.forbidden.append(words)
        print(f"forbidden: {words}", flush=True)

    def _go_on(self, stage: Stage) -> None:
        self._at = None
        stage.try_out()
        if self._points is None:
            stage.try_out()
            self.row.instructions, points = stage.step_through()
            self.row.points = len(points)
            self._firsts = self._generator.sample(points, min(self._plan.again, len(points)))
            points = chosen(points, self._generator)
            if self._plan.sample is not None:
                points = self._generator.sample(points, min(self._plan.sample, len(points)))
            self._points = points
        while self._points and not self._plan.is_over():
            self._at = self._points.pop()
            self._count(stage.kill_at(self._at))
        while self._firsts and not self._plan.is_over():
            self._at = self._firsts.pop()
            for word in stage.take_over(self._at):
                for nth in range(1, AGAIN_MAX + 1):
                    how = stage.kill_next_at(self._at, word, nth)
                    if how is None or self._plan.is_over():
                        break
                    self._count(how)
                    self.row.again += 1
        if stage.change.counts:
            stage.see_memory()
        if self._plan.is_over():
            self._points, self._firsts = [], []

    def _count(self, how: str | None) -> None:
        self.row.kills += how is not None
        self.row.passed += how is None
        self.row.answered += how == "answered"
        self.row.gone += how == "gone"


def work(plan: Plan) -> Found:
    """Do a process's part."""
    found = Found()
    for seed, index in plan.tasks():
        if plan.is_over():
            break
        task = Task(plan, seed, index)
        task.run()
        found.rows.append(task.row)
        found.forbidden += task.forbidden
    return found


HEAD = f"{'kind':26}{'steps':>9}{'points':>8}{'kills':>7}{'again':>7}{'answered':>10}{'gone':>6}{'passed':>8}{'s':>8}"


def told(row: Row) -> str:
    """A row of the table."""
    numbers = f"{row.instructions:9}{row.points:8}{row.kills:7}{row.again:7}{row.answered:10}{row.gone:6}{row.passed:8}"
    return f"{row.kind:26}{numbers}{row.seconds:8.1f}"


app = cyclopts.App(name="python -m proof.steps", help=__doc__, version_flags=[])


@app.default
def main(
    *kinds: str,
    rounds: int = 1,
    sample: int | None = None,
    again: int = 2,
    seconds: float = 3_600.0,
    processes: int = 2,
    seed: int | None = None,
    list_: bool = False,
    json_: program.JsonFile = None,
) -> int:
    """Kill servers behind each instruction that changes shared memory, and see that nothing is lost or done twice.

    Args:
        kinds: Of changes; all unless given.
        rounds: So many times all kinds, with other keys and values.
        sample: So many points of each kind, by chance.
        again: At so many points of each kind the next server is killed, too, behind each word that it changes.
        seconds: Stop after so long.
        processes: So many at a time, each with servers of its own.
        seed: Repeat the choices of another run.
        list_: Say which kinds there are.
        json_: A file for the figures.
    """
    if list_:
        print("\n".join(change.name for change in changes("")))
        return 0
    interrupt_on_termination()
    seed = program.begin(seed)
    if reason := why_not():
        print(f"skipped: servers cannot be stepped here: {reason}")
        return 0
    begin = time.monotonic()
    print(HEAD, flush=True)
    plans = [Plan(seed, kinds, rounds, sample, again, begin + seconds, part, processes) for part in range(processes)]
    with own_folder() as folder, ExitStack() as stack:
        children = [stack.enter_context(Child(_work_apart, folder, plan)) for plan in plans]
        try:
            parts: list[Found] = [child.result(seconds + 2 * HANG_S) for child in children]
        except BaseException:
            # They end what they have started; whoever is killed does not.
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGINT)
            for child in children:
                # One of them has said already what is wrong.
                with suppress(AssertionError, OSError):
                    child.result()
            raise
    rows = [row for part in parts for row in part.rows]
    sums = Row("all", *(sum(getattr(row, name) for row in rows) for name in list(asdict(Row("")))[1:]))
    sums.seconds = round(time.monotonic() - begin, 1)
    print(told(sums))
    forbidden = [words for part in parts for words in part.forbidden]
    figures = {"seed": seed, **{name: value for name, value in asdict(sums).items() if name != "kind"}}
    status = program.end(figures, forbidden, json_)
    if not forbidden:
        print("nothing lost, nothing doubled")
    return status


def _work_apart(folder: str, plan: Plan) -> Found:
    """Do a process's part, with a folder of its own for the sockets."""
    with own_folder():
        return work(plan)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
