"""The report as one HTML file that needs no other: drawings, tables, verdict, light and dark."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from ringtable._bench import analysis, charts, wording
from ringtable._bench.analysis import CROWD, MANY_ST, SCENARIOS, Scenario
from ringtable._bench.charts import Curve, Group
from ringtable._bench.headline import headline
from ringtable._bench.results import Results, ScalingFigures
from ringtable._bench.samples import Samples
from ringtable._bench.sections import (
    LATENCY_NOTE,
    MEMCPY,
    PAYLOAD_NOTE,
    SCALING_NOTE,
    SCENARIOS_NOTE,
    client_counts,
    crowd_note,
    sections,
)
from ringtable._bench.style import COLOURS, STYLE, series_style
from ringtable._bench.svg import element
from ringtable._bench.tabular import Section
from ringtable._bench.verdict import ratios, verdict

CURVES_NOTE = "Both axes are logarithmic: a straight climb of throughput is perfect scaling, flat CPU time is 1:1."
COST_NOTE = "less is better; clients and server together"
BARS_NOTE = (
    "Bars reach the median, which stands on the right, too; whiskers span the middle four fifths of the runs. Panels"
    " with {crowd} visitors share one scale, all others another."
)


def render(results: Results) -> str:
    body = "\n".join(
        [
            *header(results),
            *headline_box(results),
            *picture(results),
            *about(results),
            *verdict_box(results),
            *scenario_part(results),
            *scaling_part(results),
            *payload_part(results),
            *footer(results),
        ]
    )
    return document("ringtable bench", series_style(COLOURS), body)


def header(results: Results) -> Iterator[str]:
    yield "<h1>ringtable bench</h1>"
    yield (
        '<p class="lead">A hash table that processes share: the classic topology, one pair of rings for everybody,'
        " against its successors, measured side by side on one machine.</p>"
    )


def headline_box(results: Results) -> Iterator[str]:
    """The report in three numbers."""
    if numbers := headline(results):
        items = "".join(
            f"<li><b>{escape(number.figure)}</b><span>{prose(number.what)}</span>"
            f"<small>{prose(number.where_from)}</small></li>"
            for number in numbers
        )
        yield f'<ul class="numbers">{items}</ul>'


def picture(results: Results) -> Iterator[str]:
    """What says most at one look, of what was measured."""
    if results.scaling:
        yield throughput_figure(results)
    elif entries := scenario_entries(results, MANY_ST):
        high = max(end for of in entries.values() for end in (of.median, of.middle[1]))
        title = f"client 100 10 beside {CROWD} others, 1 thread"
        yield figure(title, "less is better", charts.bars(title, entries, high, wording.ms))


def about(results: Results) -> Iterator[str]:
    """On what this was measured, and what the names mean."""
    yield facts(results.machine)
    if note := crowd_note(results):
        yield paragraph(note, "soft")
    entries = "".join(
        f'<dt><span class="key {charts.series([name], name)}"></span>{escape(name)}</dt><dd>{escape(about)}</dd>'
        for name, about in results.ways.items()
    )
    yield f'<dl class="ways">{entries}</dl>'


def verdict_box(results: Results) -> Iterator[str]:
    paragraphs = verdict(results)
    if paragraphs:
        yield '<section class="verdict"><h2>Verdict</h2>'
        yield paragraph("Each sentence is computed from the figures below; medians of all runs are compared.", "soft")
        for of in paragraphs:
            items = "".join(element("li", prose(sentence)) for sentence in of.sentences)
            yield f"<h3>{escape(of.title)}</h3><ul>{items}</ul>"
        yield "</section>"


# The parts


def scenario_part(results: Results) -> Iterator[str]:
    if not results.scenarios:
        return
    yield "<h2>The seven scenarios of the analysis</h2>"
    yield paragraph(SCENARIOS_NOTE)
    yield paragraph(BARS_NOTE.format(crowd=CROWD), "soft")
    entries = {scenario: scenario_entries(results, scenario) for scenario in SCENARIOS.values()}
    panels = []
    for scenario, samples in entries.items():
        alike = [entries[other] for other in entries if (other.background == CROWD) == (scenario.background == CROWD)]
        high = max(end for group in alike for of in group.values() for end in (of.median, of.middle[1]))
        published = f"; the analysis: {scenario.published_ms} ms" if scenario.published_ms else ""
        title = f"{scenario.name}: {scenario.title}, ms{published}"
        panels.append(
            figure(f"{scenario.name}", f"{scenario.title}{published}", charts.bars(title, samples, high, wording.ms))
        )
    yield grid(panels)
    yield "<h3>Ratios</h3>"
    yield paragraph(analysis.NOTE, "soft")
    lists = []
    for way in results.ways:
        if lines := ratios(results, way):
            items = "".join(element("li", prose(line)) for line in lines)
            lists.append(
                f'<div><b><span class="key {charts.series([way], way)}"></span>{escape(way)}</b><ul>{items}</ul></div>'
            )
    yield f'<div class="ratios">{"".join(lists)}</div>'
    yield from tables(results, "scenarios")


def scenario_entries(results: Results, scenario: Scenario) -> Mapping[str, Samples]:
    found = {way: results.scenario(scenario.name, way) for way in results.ways}
    return {way: of.ms for way, of in found.items() if of and of.seconds}


def scaling_part(results: Results) -> Iterator[str]:
    counts = client_counts(results)
    if not counts:
        return
    yield "<h2>One client to sixteen</h2>"
    yield paragraph(SCALING_NOTE)
    yield paragraph(CURVES_NOTE, "soft")
    cost = curves_of(results, lambda of: of.cpu_ns.median)
    second = charts.curves("Cost", "CPU time of an operation", cost, wording.ns, results.cores)
    yield grid([throughput_figure(results), figure("Cost", COST_NOTE, second)])
    latencies = {count: latency_entries(results, count) for count in (counts[0], counts[-1])}
    values = [of[percent] for group in latencies.values() for of in group.values() for percent in charts.RANGE_SHAPES]
    if values:
        span = (max(min(values), 1.0), max(values))
        yield grid(
            [
                figure(
                    f"Time of an operation, {wording.clients(count)}",
                    "logarithmic; the figure is p99.9: all but one of 1,000 take less",
                    charts.ranges(f"Percentiles of latency, {wording.clients(count)}", group, span, wording.ns),
                )
                for count, group in latencies.items()
            ]
        )
        yield paragraph(LATENCY_NOTE, "soft")
    yield from tables(results, "scaling")


def throughput_figure(results: Results) -> str:
    throughput = curves_of(results, lambda of: of.throughput.median)
    drawing = charts.curves("Throughput", "operations per second", throughput, wording.per_s, results.cores)
    return figure("Throughput", "more is better", drawing)


def curves_of(results: Results, value: Callable[[ScalingFigures], float]) -> list[Curve]:
    """A curve over the numbers of clients for each way."""
    curves = []
    for way in results.ways:
        found = [results.scaled(way, count) for count in client_counts(results)]
        if points := [(of.clients, value(of)) for of in found if of and of.operations_per_s]:
            curves.append(Curve(way, points))
    return curves


def latency_entries(results: Results, count: int) -> Mapping[str, Mapping[str, float]]:
    found = {way: results.scaled(way, count) for way in results.ways}
    return {way: of.latency_ns for way, of in found.items() if of and of.latency_ns}


def payload_part(results: Results) -> Iterator[str]:
    if not results.payloads:
        return
    yield "<h2>Large values beside memcpy</h2>"
    yield paragraph(PAYLOAD_NOTE)
    panels = []
    for operation, size in dict.fromkeys((of.operation, of.size) for of in results.payloads):
        high = max(of.rate.median for of in results.payloads if of.operation == operation and of.gb_per_s)
        groups = payload_groups(results, operation, size)
        title = f"{operation} of {wording.size(size)} values"
        note = "GB/s with 1, 2 and 4 clients; the mark is memcpy with as many"
        panels.append(figure(title, note, charts.grouped_bars(title, groups, high, wording.number)))
    yield grid(panels)
    yield from tables(results, "payloads")


def payload_groups(results: Results, operation: str, size: int) -> Sequence[Group]:
    groups = []
    counts = sorted({of.clients for of in results.payloads})
    for way in (MEMCPY, *results.ways):
        bars, words = [], ""
        for count in counts:
            of, copied = (results.payload(name, operation, size, count) for name in (way, MEMCPY))
            if of and of.gb_per_s:
                reference = copied.rate.median if copied and copied.gb_per_s and way != MEMCPY else None
                bars.append((str(count), of.rate.median, reference))
            elif of:
                words = of.why_none
        if bars or words:
            groups.append(Group(way, bars, words))
    return groups


def footer(results: Results) -> Iterator[str]:
    yield paragraph(
        f"Measured in {results.seconds:.0f} s. What is compared ran in turn, round by round; no process was bound to a"
        " core. A difference is called noise when the middle four fifths of the runs overlap, when the medians differ"
        " by less than 5 %, or when there are fewer than three runs.",
        "soft",
    )


# Pieces


def document(title: str, colours: str, body: str) -> str:
    """A page that needs no other file."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}{colours}</style>"
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def facts(values: Mapping[str, str]) -> str:
    """Names and values in a row."""
    items = "".join(f"<li><b>{escape(name)}</b>{escape(value)}</li>" for name, value in values.items())
    return f'<ul class="facts">{items}</ul>'


def paragraph(text: str, kind: str = "") -> str:
    return element("p", prose(text), **({"class_": kind} if kind else {}))


def prose(text: str) -> str:
    """Escaped, with code set as code, and numbers that keep their units when a line is broken."""
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
    return re.sub(r"(\d) (?=(?:%|[mnµ]?s|[kM]?/s|GB/s|[KM]iB)(?!\w))", "\\1\u00a0", text)


def figure(title: str, note: str, drawing: str) -> str:
    return f'<figure><h3>{escape(title)}</h3><p class="note-text">{escape(note)}</p>{drawing}</figure>'


def grid(figures: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def tables(results: Results, part: str) -> Iterator[str]:
    parts = [table(section) for section in sections(results) if section.part == part]
    yield f'<details open><summary>The exact figures</summary><div class="tables">{"".join(parts)}</div></details>'


def table(section: Section) -> str:
    head = "".join(element("th", escape(column), scope="col") for column in section.columns)
    rows = "".join(f"<tr>{''.join(element('td', escape(cell)) for cell in row)}</tr>" for row in section.rows)
    body = f"<caption>{escape(section.title)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'
