"""A titled table of text: the same in a terminal, as Markdown and on a page."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from ringtable._bench import wording

ABSENT = "-"

GAP = 2
"""Characters between two columns, of which the line that is not drawn there is one."""


@dataclass(frozen=True)
class Section:
    """A titled table, and a note. The first columns are text, the others are numbers."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    part: str = ""
    """Of a report that has several."""

    text_columns: int = 1

    def show(self, console: Console, *, with_note: bool = True) -> None:
        console.print(f"\n[bold]{self.title}[/bold]", highlight=False)
        if with_note:
            say(console, self.note)
        for columns in self.fitting(console.width):
            grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
            for index in columns:
                justify: JustifyMethod = "left" if index < self.text_columns else "right"
                grid.add_column(folded(self.columns[index]), justify=justify, no_wrap=True)
            for row in self.rows:
                grid.add_row(*(row[index] for index in columns))
            console.print(grid, highlight=False)

    def fitting(self, width: int) -> Iterator[list[int]]:
        """The columns that have room beside each other, the names with each lot of them."""
        heads = map(folded, self.columns)
        wide = [
            max(len(line) for cell in cells for line in cell.split("\n"))
            for cells in zip(heads, *self.rows, strict=True)
        ]
        names = list(range(self.text_columns))
        lot = names.copy()
        for index in range(self.text_columns, len(wide)):
            if len(lot) > len(names) and sum(wide[other] + GAP for other in (*lot, index)) > width:
                yield lot
                lot = names.copy()
            lot.append(index)
        yield lot

    def markdown(self) -> list[str]:
        texts, numbers = self.text_columns, len(self.columns) - self.text_columns
        lines = ["", f"### {self.title}", "", self.note, "", markdown_row(self.columns)]
        lines.append(markdown_row([*["---"] * texts, *["---:"] * numbers]))
        return lines + [markdown_row(row) for row in self.rows]


def cell(value: float | None) -> str:
    """A figure, or the sign of what was not measured."""
    return ABSENT if value is None else wording.number(value)


def folded(head: str) -> str:
    """Over two lines: "64 KiB, 1 client" is wider than any figure below it."""
    return head.replace(", ", ",\n")


def markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def say(console: Console, text: str) -> None:
    console.print(text, style="dim", highlight=False, markup=False)
