"""Tables of text: the same for the terminal and as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benches.goals import Verdict

ABSENT = "-"
MARKS = {True: "✓", False: "✗", None: "not measured"}


@dataclass(frozen=True)
class Section:
    """A titled table, a note below the title. The first columns are text, the others are numbers."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1

    def print(self, console: Console) -> None:
        table = Table(*self.columns, title=self.title, title_justify="left")
        for column in table.columns[self.text_columns :]:
            column.justify = "right"
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        console.print(f"{self.note}\n", style="dim", highlight=False)

    def markdown(self) -> list[str]:
        texts, numbers = self.text_columns, len(self.columns) - self.text_columns
        lines = ["", f"### {self.title}", "", self.note, "", markdown_row(self.columns)]
        lines.append(markdown_row([*["---"] * texts, *["---:"] * numbers]))
        return lines + [markdown_row(row) for row in self.rows]


def goals_section(verdicts: Iterable[Verdict]) -> Section:
    rows = [
        (
            verdict.goal.text,
            f"{verdict.goal.sign} {verdict.goal.limit:g} {verdict.goal.unit}",
            f"{number(verdict.value)} {verdict.goal.unit}" if verdict.value is not None else ABSENT,
            MARKS[verdict.met],
        )
        for verdict in verdicts
    ]
    return Section("Goals", "Judged from this run.", ("Goal", "Limit", "Measured", "Met"), rows)


def goals_json(verdicts: Iterable[Verdict]) -> list[dict[str, object]]:
    return [
        {
            "goal": verdict.goal.text,
            "limit": f"{verdict.goal.sign} {verdict.goal.limit:g} {verdict.goal.unit}",
            "value": verdict.value,
            "met": verdict.met,
        }
        for verdict in verdicts
    ]


def number(value: float | None) -> str:
    """Three digits that matter, thousands set apart."""
    if value is None:
        return ABSENT
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
