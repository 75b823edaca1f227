"""The report as tables in a terminal."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from ringtable._bench import analysis
from ringtable._bench.results import Results
from ringtable._bench.sections import SCENARIOS_NOTE, Section, crowd_note, sections
from ringtable._bench.verdict import ratios, verdict

INDENT = (0, 0, 0, 2)

GAP = 2
"""Characters between two columns, of which the line that is not drawn there is one."""


def show(console: Console, results: Results) -> None:
    for name, value in results.machine.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    if note := crowd_note(results):
        say(console, note)
    notes_told = set[str]()
    part_before = ""
    for section in sections(results):
        if section.part == "scenarios" and part_before != "scenarios":
            say(console, f"\n{SCENARIOS_NOTE}")
        show_section(console, section, section.note not in notes_told)
        notes_told.add(section.note)
        part_before = section.part
    if results.scenarios:
        show_ratios(console, results)
    show_verdict(console, results)
    console.print(f"\nAll of it took {results.seconds:.0f} s.", highlight=False)


def say(console: Console, text: str) -> None:
    console.print(text, style="dim", highlight=False, markup=False)


def show_section(console: Console, section: Section, with_note: bool) -> None:
    console.print(f"\n[bold]{section.title}[/bold]", highlight=False)
    if with_note:
        say(console, section.note)
    for columns in fitting(section, console.width):
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for index in columns:
            # Over two lines: "64 KiB, 1 client" is wider than any figure below it.
            head = section.columns[index].replace(", ", ",\n")
            grid.add_column(head, justify="right" if index else "left", no_wrap=True)
        for row in section.rows:
            grid.add_row(*(row[index] for index in columns))
        console.print(grid, highlight=False)


def fitting(section: Section, width: int) -> Iterator[list[int]]:
    """The columns that have room beside each other, the names with each lot of them."""
    columns = zip(section.columns, *section.rows, strict=True)
    wide = [max(len(line) for cell in cells for line in cell.replace(", ", ",\n").split("\n")) for cells in columns]
    lot = [0]
    for index in range(1, len(wide)):
        if len(lot) > 1 and sum(wide[other] + GAP for other in (*lot, index)) > width:
            yield lot
            lot = [0]
        lot.append(index)
    yield lot


def show_ratios(console: Console, results: Results) -> None:
    console.print("\n[bold]Ratios[/bold]", highlight=False)
    say(console, analysis.NOTE)
    for way in results.ways:
        if lines := ratios(results, way):
            console.print(f"{way}", highlight=False)
            for line in lines:
                console.print(Padding(line, INDENT), highlight=False, markup=False)


def show_verdict(console: Console, results: Results) -> None:
    for paragraph in verdict(results):
        console.print(f"\n[bold]Verdict: {paragraph.title}[/bold]", highlight=False)
        for sentence in paragraph.sentences:
            console.print(Padding(f"- {sentence}", INDENT), highlight=False, markup=False)
