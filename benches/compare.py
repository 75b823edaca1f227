"""Measures ringtable beside its rivals: `python -m benches.compare --help`.

Every server is started here and ended by its pid, also after Ctrl-C; all files live in one folder on tmpfs,
which is removed. The exit status is 1 if a scenario failed; a goal that is not met is reported, no failure.
"""

import argparse
from collections.abc import Callable, Sequence

from ringtable._bench.loops import KEY_COUNT, SEED
from ringtable._bench.tabular import Section, cell

from benches import scenarios
from benches.figures import CLIENT_CPU_NS, SERVER_CPU_NS, WALL_NS
from benches.goals import Goal
from benches.promises import PROMISES
from benches.rivals import RIVALS, TAKING_PART
from benches.scenarios import LOOPS, SCENARIOS, settings_of
from benches.script import Run, Script

REFERENCE = "lmdb"
"""The rival that others are compared with."""

LOOPS_NOTE = (
    "Wall time an operation, ns; in a burst, a key. Median of the interleaved rounds, of all clients together."
    f" {KEY_COUNT:,} keys preloaded."
)
CLASSIC_NOTE = "Wall time of the loop in Rust, median; those in the background do the same."
MEMORY_NOTE = "Resident bytes an entry beyond key and value, {:,} entries of 16 + 100 bytes."
IDLE_NOTE = "User and system time of the server, measured for {:g} s."
GROWTH_NOTE = "From 16 buckets; 4 clients insert while 4 read back; insert times are the server's own."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for option, known in (("only", list(SCENARIOS)), ("rivals", list(RIVALS))):
        text = f"of {', '.join(known)}"
        parser.add_argument(f"--{option}", metavar="NAME,...", type=some_of(known), default=known, help=text)


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads names with commas between them, and brings them into the order in which they are known."""

    def read(text: str) -> list[str]:
        wanted = text.split(",")
        if unknown := set(wanted).difference(known):
            raise argparse.ArgumentTypeError(f"no such name: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return [name for name in known if name in wanted]

    return read


def measure(run: Run) -> None:
    for name in run.options.rivals.copy():
        try:
            run.versions[name] = RIVALS[name].version()
        except ImportError as error:
            run.options.rivals.remove(name)
            run.notes.append(f"{name} is left out: {error}")
    scenarios.measure(run)


def goals(run: Run) -> list[Goal]:
    return [goal for goal in PROMISES if goal.scenario in run.options.only]


def sections(run: Run) -> list[Section]:
    settings = settings_of(run)
    return [
        loops_section(run),
        speed_section(run),
        cpu_section(run),
        other_section(run, "classic", "The classic client, 100 10", CLASSIC_NOTE),
        other_section(run, "memory", "Memory", MEMORY_NOTE.format(settings.memory_entries)),
        other_section(run, "idle", "Idle server, 16 clients", IDLE_NOTE.format(settings.idle_s)),
        other_section(run, "growth", "Growth", GROWTH_NOTE),
    ]


def loops_section(run: Run) -> Section:
    return by_loop(run, "Loops", LOOPS_NOTE, lambda name, rival: run.figures.median(name, rival, WALL_NS))


def speed_section(run: Run) -> Section:
    note = "Operations in the same time. More is better."
    return by_loop(
        run, f"Speed beside {REFERENCE}", note, lambda name, rival: run.figures.speed(name, rival, REFERENCE)
    )


def by_loop(run: Run, title: str, note: str, figure: Callable[[str, str], float | None]) -> Section:
    """Builds a table with a row a rival and a column a loop."""
    names = [name for name in LOOPS if run.figures.rivals(name)]
    rivals = [name for name in run.versions if TAKING_PART[RIVALS[name]] & set(names)]
    rows = [(rival, *(cell(figure(name, rival)) for name in names)) for rival in rivals]
    return Section(title, note, ("", *(LOOPS[name].title for name in names)), rows)


def cpu_section(run: Run) -> Section:
    rows = []
    for rival in run.figures.rivals("get"):
        one_ns, many_ns = run.figures.cpu_ns("get", rival), run.figures.cpu_ns("get16", rival)
        parts = [
            run.figures.median(scenario, rival, metric)
            for scenario in ("get", "get16")
            for metric in (CLIENT_CPU_NS, SERVER_CPU_NS)
        ]
        growth = many_ns / one_ns if one_ns and many_ns else None
        rows.append((rival, *map(cell, [*parts, growth])))
    note = "User and system time an operation, ns."
    columns = ("", "1: clients", "1: server", "16: clients", "16: server", "16 beside 1")
    return Section("CPU time of a get, 1 and 16 clients", note, columns, rows)


def other_section(run: Run, scenario: str, title: str, note: str) -> Section:
    rows = [
        (rival, metric.replace("_", " "), cell(value))
        for rival in run.figures.rivals(scenario)
        for metric, value in run.figures.metrics(scenario, rival)
    ]
    return Section(title, note, ("", "metric", "value"), rows)


SCRIPT = Script(
    "compare", "ringtable beside its rivals.", 3_600.0, measure, sections, goals, add_arguments=add_arguments, seed=SEED
)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
