"""The report of a soak: curves over time and the verdict, on one page that needs no other file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from ringtable._bench import wording
from ringtable._bench.charts import NAME_WIDTH, TEXT_DROP, WIDTH, Curve, Linear, Logarithmic, Show, series, spread
from ringtable._bench.page import document, facts, figure, grid, paragraph, prose, table
from ringtable._bench.style import series_style
from ringtable._bench.svg import Drawing, element
from ringtable._bench.tabular import Section

from proof.verdict import MIB, WARM_UP, Promise
from proof.vitals import Sample

HEIGHT = 240.0
COLOURS = {
    "first": ("#0b5fa5", "#5aa9e6"),
    "second": ("#c2410c", "#ff9460"),
    "third": ("#00795f", "#3ccfa8"),
    "fourth": ("#9c4a8f", "#e3a4d8"),
}
"""Of the curves of a drawing, in their order, on light and on dark ground."""


@dataclass(frozen=True)
class LoadReport:
    """How often a load was started, and how it fared."""

    name: str
    about: str
    runs: int
    outcome: str


@dataclass(frozen=True)
class Report:
    """All there is to say of a soak."""

    seconds: float
    facts: Mapping[str, str]
    promises: Sequence[Promise]
    loads: Sequence[LoadReport]
    samples: Sequence[Sample]
    latencies: Sequence[tuple[float, Mapping[str, Sequence[float]]]]
    """Seconds since the beginning; of each kind of call three percentiles and the longest, ns."""

    after: Sample | None = None
    """When all clients had left."""

    notes: Sequence[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return all(promise.held for promise in self.promises)


def timeline(title: str, unit: str, lines: Sequence[Curve], show: Show, *, logarithmic: bool = False) -> str:
    """Curves over the seconds of a soak, each labelled at its end; the warm-up is shaded."""
    drawing = Drawing(WIDTH, HEIGHT, title)
    left, right, top, bottom = 62.0, WIDTH - NAME_WIDTH - 12, 28.0, HEIGHT - 34
    values = [value for line in lines for _, value in line.points]
    end = max((at for line in lines for at, _ in line.points), default=1.0) or 1.0
    across = Linear(end, left, right)
    up: Linear | Logarithmic = Linear(max(values, default=0.0) * 1.08 or 1.0, bottom, top)
    if logarithmic:
        up = Logarithmic.around([max(value, 1.0) for value in values], bottom, top)
    drawing.rectangle(left, top, WARM_UP * (right - left), bottom - top, class_="crowd")
    drawing.text(left - 50, 14.0, unit, class_="axis-name")
    for value in up.ticks():
        drawing.line(left, up(value), right, up(value), class_="grid")
        drawing.text(left - 8, up(value) + TEXT_DROP, wording.tick(show(value)), text_anchor="end", class_="tick")
    in_minutes = end > 300
    for value in Linear(end / 60 if in_minutes else end, left, right).ticks():
        x = across(value * 60 if in_minutes else value)
        drawing.text(x, bottom + 17, f"{value:g}", text_anchor="middle", class_="tick")
    drawing.text(right, bottom + 32, "minutes" if in_minutes else "seconds", text_anchor="end", class_="axis-name")
    labels = spread([up(line.points[-1][1]) for line in lines], top, bottom)
    for of_series, line, label_y in zip(COLOURS, lines, labels, strict=False):
        class_name = series(list(COLOURS), of_series)
        places = [(across(at), up(value)) for at, value in line.points]
        drawing.curve(places, class_=f"stroke thin {class_name}")
        drawing.line(*places[-1], right + 8, label_y, class_=f"leader {class_name}")
        drawing.text(right + 11, label_y + TEXT_DROP, line.name, class_="name")
    return drawing.render()


def of_samples(samples: Sequence[Sample], figures: Mapping[str, Callable[[Sample], float]]) -> list[Curve]:
    return [Curve(name, [(sample.at_s, figure(sample)) for sample in samples]) for name, figure in figures.items()]


def rates(samples: Sequence[Sample], figures: Mapping[str, Callable[[Sample], float]]) -> list[Curve]:
    """How much a second each figure has risen by from one sample to the next."""
    return [
        Curve(name, [(b.at_s, (figure(b) - figure(a)) / (b.at_s - a.at_s)) for a, b in pairwise(samples)])
        for name, figure in figures.items()
    ]


def stat(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample.figure(name)


def count(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"


def mib(value: float) -> str:
    return f"{value:g}"


def panels(report: Report) -> Iterator[str]:
    for name, title in (("get", "A read in place"), ("set", "A write"), ("incr", "An increment")):
        lines = [
            Curve(label, [(at, of[name][index]) for at, of in report.latencies if name in of])
            for index, label in enumerate(("p50", "p99", "p99.9"))
        ]
        if lines[0].points:
            drawing = timeline(title, "time of a call, logarithmic", lines, wording.ns, logarithmic=True)
            yield figure(title, "as a client sees it that makes a few hundred calls a second", drawing)
    samples = report.samples
    if len(samples) < 2:
        return
    memory = {
        "resident": lambda sample: sample.resident / MIB,
        "segment": lambda sample: sample.segment / MIB,
        "private": lambda sample: sample.private / MIB,
    }
    kept = {
        "retired": lambda sample: sample.figure("memory_retired") / MIB,
        "drafts": lambda sample: sample.figure("memory_drafts") / MIB,
        "unfinished": lambda sample: sample.figure("memory_unfinished_requests") / MIB,
    }
    here = {"clients": stat("clients"), "lanes": stat("lanes"), "watchers": stat("watchers"), "leases": stat("leases")}
    held = {"retired": stat("entries_retired"), "hazard_records": stat("hazard_records"), "holds": stat("holds")}
    system = {"descriptors": lambda sample: float(sample.descriptors), "threads": lambda sample: float(sample.threads)}
    taken = {"evicted": stat("evicted_keys"), "expired": stat("expired_keys"), "moved": stat("entries_moved")}
    served = {"requests": stat("requests"), "wake-ups": stat("wakeups")}
    come = {"accepted": stat("clients_accepted"), "refused": stat("clients_refused")}
    cpu = {"CPU": lambda sample: sample.cpu_s}
    drawn: list[tuple[str, str, str, list[Curve], Show]] = [
        ("Memory of the server", "MiB", "all, the table's, and the rest", of_samples(samples, memory), mib),
        ("Memory that is kept for somebody", "MiB", "readers, and values that arrive", of_samples(samples, kept), mib),
        ("Descriptors and threads of the server", "", "as the kernel counts them", of_samples(samples, system), count),
        ("Who is there", "", "connections, and what they have", of_samples(samples, here), count),
        ("Entries that nobody finds", "", "kept because somebody reads them", of_samples(samples, held), count),
        ("Entries", "", "in the table", of_samples(samples, {"entries": stat("entries")}), count),
        ("CPU time of the server", "cores", "all its threads", rates(samples, cpu), wording.number),
        ("Requests", "a second", "reads in place are none", rates(samples, served), count),
        ("Connections", "a second", "that came", rates(samples, come), count),
        ("What goes by itself", "entries a second", "or is moved together", rates(samples, taken), count),
    ]
    for title, unit, note, lines, show in drawn:
        yield figure(title, note, timeline(title, unit, lines, show))


def render(report: Report) -> str:
    body = "\n".join(
        [
            "<h1>ringtable soak</h1>",
            '<p class="lead">All loads at once against one server: who checks, who dies, who breaks the rules.</p>',
            facts(report.facts),
            *verdict(report),
            "<h2>Curves</h2>",
            paragraph("The warm-up is shaded; what rises behind it is a leak.", "soft"),
            grid(list(panels(report))),
            "<h2>Loads</h2>",
            table(loads(report)),
        ]
    )
    style = series_style(COLOURS) + "svg .thin { stroke-width: 1.4; }\n"
    return document("ringtable soak", style, body)


def verdict(report: Report) -> Iterator[str]:
    broken = sum(not promise.held for promise in report.promises)
    words = "everything held" if report.held else f"{broken} of {len(report.promises)} promises broken"
    yield f'<section class="verdict"><h2>Verdict: {words}</h2>'
    # What is broken comes first.
    for promise in sorted(report.promises, key=lambda promise: promise.held):
        sign = "held" if promise.held else "BROKEN"
        words = f"<b>{sign}: {escape(promise.name)}.</b> {prose(promise.words)}"
        yield element("p", words, class_="soft" if promise.held else "")
    for note in report.notes:
        yield paragraph(note, "soft")
    yield "</section>"


def loads(report: Report) -> Section:
    rows = [(load.name, load.about, str(load.runs), load.outcome) for load in report.loads]
    return Section("", "", ("load", "what it does", "runs", "outcome"), rows)
