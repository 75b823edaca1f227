"""The report as tables in a terminal."""

from rich.console import Console
from rich.padding import Padding

from ringtable._bench import analysis
from ringtable._bench.results import Results
from ringtable._bench.sections import SCENARIOS_NOTE, crowd_note, sections
from ringtable._bench.tabular import say
from ringtable._bench.verdict import ratios, verdict

INDENT = (0, 0, 0, 2)


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
        section.show(console, with_note=section.note not in notes_told)
        notes_told.add(section.note)
        part_before = section.part
    if results.scenarios:
        show_ratios(console, results)
    show_verdict(console, results)
    console.print(f"\nAll of it took {results.seconds:.0f} s.", highlight=False)


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
