"""The report as one HTML file that needs no other: drawings, tables, verdict, light and dark."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from ringtable._bench import analysis, charts, wording
from ringtable._bench.analysis import CROWD, SCENARIOS, Scenario
from ringtable._bench.charts import Curve, Group
from ringtable._bench.results import Results
from ringtable._bench.samples import Samples
from ringtable._bench.sections import (
    CPU_NOTE,
    LATENCY_NOTE,
    MEMCPY,
    PAYLOAD_NOTE,
    SCALING_NOTE,
    SCENARIOS_NOTE,
    Section,
    client_counts,
    crowd_note,
    sections,
)
from ringtable._bench.svg import element
from ringtable._bench.verdict import ratios, verdict

COLOURS = {
    "shared": ("#c2410c", "#ff9460"),
    "sharded": ("#c98a00", "#f2c14e"),
    "lanes": ("#0b5fa5", "#5aa9e6"),
    "lanes+direct": ("#3f9be0", "#a5d8ff"),
    "unix": ("#00795f", "#3ccfa8"),
    "tcp": ("#9c4a8f", "#e3a4d8"),
    "manager": ("#6b5b4b", "#c9b8a6"),
    "valkey": ("#7a2e3a", "#e58a98"),
    "lmdb": ("#4d5560", "#b4bdc9"),
    "memcpy": ("#9aa1aa", "#7d858f"),
}
"""Of each way on light and on dark ground; told apart also by those who do not see all colours."""

STYLE = """
:root { --ground: #ffffff; --panel: #f7f7f5; --ink: #1c1f23; --soft: #5b626b; --faint: #e3e4e1; --crowd: #00000009;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --panel: #1d2126; --ink: #e9ebee; --soft: #a3abb5;
  --faint: #343a42; --crowd: #ffffff0b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 40px 28px 80px; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 32px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 24px; margin: 56px 0 8px; letter-spacing: -0.01em; }
h3 { font-size: 16px; margin: 0 0 2px; }
p { margin: 0 0 12px; max-width: 78ch; }
.lead { font-size: 18px; color: var(--soft); }
.soft, .note-text { color: var(--soft); font-size: 14px; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 18px 0 0; padding: 0; list-style: none; font-size: 14px; }
.facts b { font-weight: 600; margin-right: 6px; }
.ways { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; margin: 18px 0 0; font-size: 14px; }
.ways dt { font-weight: 600; } .ways dd { margin: 0; color: var(--soft); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px; }
.verdict { background: var(--panel); border-radius: 10px; padding: 22px 26px; margin-top: 28px; }
.verdict h3 { margin-top: 14px; } .verdict h2 { margin: 0; }
.verdict ul { margin: 4px 0 0; padding-left: 20px; } .verdict li { margin: 3px 0; max-width: 100ch; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 22px 36px; margin: 22px 0; }
@media (max-width: 560px) { .grid { grid-template-columns: 1fr; } body { padding: 24px 14px; } }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 13px; }
svg text { fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .tick, svg .note, svg .axis-name { fill: var(--soft); font-size: 12px; }
svg .small { font-size: 11px; } svg .small:not(.value) { fill: var(--soft); }
svg .grid { stroke: var(--faint); } svg .axis { stroke: var(--soft); }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; } svg .reference { stroke: var(--ink); stroke-width: 2; }
svg .crowd { fill: var(--crowd); } svg .ink { fill: var(--ink); }
svg .fill { fill: var(--series); } svg .stroke { stroke: var(--series); stroke-width: 2.2; }
svg .leader { stroke: var(--series); stroke-width: 1; opacity: 0.7; } .key { background: var(--series); }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; margin: 6px 0 20px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 8px 0 4px; white-space: nowrap; }
th, td { padding: 4px 12px 4px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th { font-weight: 500; color: var(--soft); } th:first-child, td:first-child { text-align: left; }
.ratios { columns: 2 420px; column-gap: 36px; font-size: 14px; } .ratios div { break-inside: avoid; margin-bottom: 14px; }
.ratios ul { margin: 2px 0 0; padding-left: 18px; }
@media print { body { max-width: none; } details > * { display: block; } }
"""

CURVES_NOTE = "Both axes are logarithmic: a straight climb of throughput is perfect scaling, flat CPU time is 1:1."
BARS_NOTE = (
    "Bars reach the median, whiskers the middle half of the runs. Panels with {crowd} visitors share one scale, all"
    " others another."
)


def render(results: Results) -> str:
    body = "\n".join(
        [
            *header(results),
            *verdict_box(results),
            *scenario_part(results),
            *scaling_part(results),
            *payload_part(results),
            *footer(results),
        ]
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>ringtable bench</title><style>{STYLE}{series_style()}</style>"
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def series_style() -> str:
    """The colours of all ways, for light and for dark ground."""
    light, dark = (
        " ".join(f".{charts.series([name], name)} {{ --series: {pair[of]}; }}" for name, pair in COLOURS.items())
        for of in (0, 1)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def header(results: Results) -> Iterator[str]:
    yield "<h1>ringtable bench</h1>"
    yield (
        '<p class="lead">A hash table that processes share: the classic topology, one pair of rings for everybody,'
        " against its successors, measured side by side on one machine.</p>"
    )
    facts = "".join(f"<li><b>{escape(name)}</b>{escape(value)}</li>" for name, value in results.machine.items())
    yield f'<ul class="facts">{facts}</ul>'
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
            items = "".join(element("li", escape(sentence)) for sentence in of.sentences)
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
        panels.append(figure(f"{scenario.name}", f"{scenario.title}{published}", charts.bars(title, samples, high, wording.ms)))
    yield grid(panels)
    yield "<h3>Ratios</h3>"
    yield paragraph(analysis.NOTE, "soft")
    lists = []
    for way in results.ways:
        if lines := ratios(results, way):
            items = "".join(element("li", escape(line)) for line in lines)
            lists.append(f'<div><b><span class="key {charts.series([way], way)}"></span>{escape(way)}</b><ul>{items}</ul></div>')
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
    throughput, cpu = [], []
    for way in results.ways:
        found = [of for count in counts if (of := results.scaled(way, count)) and of.operations_per_s]
        if found:
            throughput.append(Curve(way, [(of.clients, of.throughput.median) for of in found]))
            cpu.append(Curve(way, [(of.clients, of.cpu_ns.median) for of in found]))
    first = charts.curves("Operations per second by clients", "operations per second", throughput, wording.per_s, results.cores)
    second = charts.curves("CPU time of an operation by clients", "CPU time of an operation", cpu, wording.ns, results.cores)
    yield grid([figure("Throughput", "more is better", first), figure("Cost", f"less is better. {CPU_NOTE}", second)])
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
        high = max(of.rate.median for of in results.payloads if of.operation == operation)
        groups = payload_groups(results, operation, size)
        title = f"{operation} of {wording.size(size)} values"
        note = "GB/s with 1, 2 and 4 clients; the tick is memcpy with as many"
        panels.append(figure(title, note, charts.grouped_bars(title, groups, high, wording.number)))
    yield grid(panels)
    yield from tables(results, "payloads")


def payload_groups(results: Results, operation: str, size: int) -> Sequence[Group]:
    groups = []
    counts = sorted({of.clients for of in results.payloads})
    for way in (MEMCPY, *results.ways):
        bars = []
        for count in counts:
            of, copied = (results.payload(name, operation, size, count) for name in (way, MEMCPY))
            if of and of.gb_per_s:
                reference = copied.rate.median if copied and copied.gb_per_s and way != MEMCPY else None
                bars.append((str(count), of.rate.median, reference))
        if bars:
            groups.append(Group(way, bars))
    return groups


def footer(results: Results) -> Iterator[str]:
    yield paragraph(
        f"Measured in {results.seconds:.0f} s. What is compared ran in turn, round by round; no process was bound to a"
        " core. Differences are called noise when the middle halves of the runs overlap, when the medians differ by less"
        " than 5 %, or when there are fewer than three runs.",
        "soft",
    )


# Pieces


def paragraph(text: str, kind: str = "") -> str:
    return element("p", escape(text), **({"class_": kind} if kind else {}))


def figure(title: str, note: str, drawing: str) -> str:
    return f'<figure><h3>{escape(title)}</h3><p class="note-text">{escape(note)}</p>{drawing}</figure>'


def grid(figures: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def tables(results: Results, part: str) -> Iterator[str]:
    yield "<details open><summary>The exact figures</summary>"
    for section in sections(results):
        if section.part == part:
            yield table(section)
    yield "</details>"


def table(section: Section) -> str:
    head = "".join(element("th", escape(column), scope="col") for column in section.columns)
    rows = "".join(f"<tr>{''.join(element('td', escape(cell)) for cell in row)}</tr>" for row in section.rows)
    body = f"<caption>{escape(section.title)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'
