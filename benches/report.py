"""The results: the same tables for the terminal and as Markdown, and everything as JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from ringtable._bench import machine
from ringtable._bench.loops import KEY_COUNT, SEED

from benches.figures import CLIENT_CPU_NS, SERVER_CPU_NS, WALL_NS, Figures
from benches.goals import GOALS, Verdict
from benches.rivals import RIVALS
from benches.scenarios import LOOPS, Settings
from benches.sections import Section, goals_json, goals_section, number

REFERENCE = "lmdb"
"""The rival that others are compared with."""


CLASSIC_NOTE = "Wall time of the loop in Rust, median; those in the background do the same."
MEMORY_NOTE = "Resident bytes an entry beyond key and value, {:,} entries of 16 + 100 bytes."
IDLE_NOTE = "User and system time of the server, measured for {:g} s."
GROWTH_NOTE = "From 16 buckets; 4 clients insert while 4 read back; insert times are the server's own."


@dataclass(frozen=True)
class Report:
    """All there is to say of one run."""

    settings: Settings
    scenarios: Sequence[str]
    versions: dict[str, str]
    """Of the rivals that took part."""

    notes: Sequence[str]
    """Rivals left out, scenarios that failed."""

    figures: Figures

    def verdicts(self) -> list[Verdict]:
        return [goal.judge(self.figures) for goal in GOALS if goal.scenario in self.scenarios]

    def sections(self) -> list[Section]:
        sections = (
            goals_section(self.verdicts()),
            self.loops_section(),
            self.speed_section(),
            self.cpu_section(),
            self.other_section("classic", "The classic client, 100 10", CLASSIC_NOTE),
            self.other_section("memory", "Memory", MEMORY_NOTE.format(self.settings.memory_entries)),
            self.other_section("idle", "Idle server, 16 clients", IDLE_NOTE.format(self.settings.idle_s)),
            self.other_section("growth", "Growth", GROWTH_NOTE),
        )
        return [section for section in sections if section.rows]

    def loops_section(self) -> Section:
        note = "Wall time an operation, ns; in a burst, a key. Median of the rounds, of all clients together."
        return self.by_loop("Loops", note, lambda name, rival: self.figures.median(name, rival, WALL_NS))

    def speed_section(self) -> Section:
        note = "Operations in the same time. More is better."
        return self.by_loop(
            f"Speed beside {REFERENCE}", note, lambda name, rival: self.figures.speed(name, rival, REFERENCE)
        )

    def by_loop(self, title: str, note: str, cell: Callable[[str, str], float | None]) -> Section:
        """Builds a table with a row a rival and a column a loop."""
        names = [name for name in LOOPS if self.figures.rivals(name)]
        rivals = [name for name in self.versions if RIVALS[name].scenarios & set(names)]
        rows = [(rival, *(number(cell(name, rival)) for name in names)) for rival in rivals]
        return Section(title, note, ("", *(LOOPS[name].title for name in names)), rows)

    def cpu_section(self) -> Section:
        rows = []
        for rival in self.figures.rivals("get"):
            one_ns, many_ns = self.figures.cpu_ns("get", rival), self.figures.cpu_ns("get16", rival)
            parts = [
                self.figures.median(scenario, rival, metric)
                for scenario in ("get", "get16")
                for metric in (CLIENT_CPU_NS, SERVER_CPU_NS)
            ]
            growth = many_ns / one_ns if one_ns and many_ns else None
            rows.append((rival, *map(number, [*parts, growth])))
        note = "User and system time an operation, ns."
        columns = ("", "1: clients", "1: server", "16: clients", "16: server", "16 beside 1")
        return Section("CPU time of a get, 1 and 16 clients", note, columns, rows)

    def other_section(self, scenario: str, title: str, note: str) -> Section:
        rows = [
            (rival, metric.replace("_", " "), number(value))
            for rival in self.figures.rivals(scenario)
            for metric, value in self.figures.metrics(scenario, rival)
        ]
        return Section(title, note, ("", "metric", "value"), rows)

    def print(self, console: Console) -> None:
        for section in self.sections():
            section.print(console)
        for note in self.notes:
            console.print(f"Note: {note}", style="yellow", markup=False)

    def markdown(self) -> str:
        """The tables and where they were measured, to be pasted into a page."""
        lines = [f"- {name}: {value}" for name, value in {**machine.describe(), **self.versions}.items()]
        lines += [f"- note: {note}" for note in self.notes]
        lines.append(f"- {KEY_COUNT:,} keys preloaded, seed {SEED}, interleaved rounds")
        for section in self.sections():
            lines += section.markdown()
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Every value of every round."""
        values = self.figures.values.items()
        return json.dumps(
            {
                "machine": machine.describe(),
                "versions": self.versions,
                "notes": list(self.notes),
                "seed": SEED,
                "settings": asdict(self.settings),
                "goals": goals_json(self.verdicts()),
                "figures": [
                    {"scenario": scenario, "rival": rival, "metric": metric, "rounds": rounds}
                    for (scenario, rival, metric), rounds in values
                ],
            },
            indent=1,
            ensure_ascii=False,
        )
