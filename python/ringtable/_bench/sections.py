"""The results as tables of text, the same for the terminal and for the page."""

from collections.abc import Callable, Sequence

from ringtable._bench import wording
from ringtable._bench.analysis import SCENARIOS
from ringtable._bench.results import PERCENTILES, PayloadFigures, Results, ScalingFigures, ScenarioFigures
from ringtable._bench.samples import samples
from ringtable._bench.tabular import ABSENT, Section

MEAN = "mean ± \N{GREEK SMALL LETTER SIGMA}"
MEMCPY = "memcpy"
"""Not a way, but what all of them are held against."""

SCENARIOS_NOTE = (
    "client 100 10: 100 times insert 10 random keys, read and check their buckets, delete them. The loop alone is"
    " timed, in a process that runs already and has connected; those in the background do the same without end. user"
    " and system are of the measured client; server is the server's CPU time meanwhile, whomever it works for."
)
SCALING_NOTE = (
    "Tight loops through the Python API, 95 % get and 5 % set, keys of 16 and values of 100 bytes, 100,000 of them;"
    " median of the rounds."
)
CPU_NOTE = "User and system time of clients and server together, for one operation; median of the rounds."
LATENCY_NOTE = (
    "The same loops with a look at the clock around each operation, which is in the figures (some 50 ns);"
    " all rounds together."
)
PAYLOAD_NOTE = (
    "1 GB is 10^9 bytes. memcpy: `bytes(view[a:b])` for a get and `view[a:b] = value` for a set, on a file in memory"
    " that all clients map, with as many processes, and the same keys, sizes and order. Median of the rounds."
)


def sections(results: Results) -> list[Section]:
    every = [
        *(scenario_section(results, name) for name in SCENARIOS),
        scaling_section(results, "Operations per second", SCALING_NOTE, throughput_cell),
        scaling_section(results, "CPU time of an operation", CPU_NOTE, cpu_cell),
        *(latency_section(results, count) for count in client_counts(results)),
        *(payload_section(results, operation) for operation in ("get", "set")),
    ]
    return [section for section in every if section.rows]


def crowd_note(results: Results) -> str | None:
    """Whether there are more processes than processors, which decides what the figures mean."""
    most = max([17] * bool(results.scenarios) + client_counts(results) + [of.clients for of in results.payloads] + [0])
    if most <= results.cores:
        return None
    cores = f"{results.cores} {'core' if results.cores == 1 else 'cores'}"
    return (
        f"Up to {most} clients and the server share {cores}. Where clients outnumber cores, times include waiting for a"
        " core, and CPU time per operation says more than speed."
    )


def scenario_section(results: Results, name: str) -> Section:
    scenario = SCENARIOS[name]
    rows = [
        scenario_row(figures) for way in results.ways if (figures := results.scenario(name, way)) and figures.seconds
    ]
    published = f" The analysis measured {scenario.published_ms} ms on its machine." if scenario.published_ms else ""
    workers = f"{scenario.workers} worker{'s' if scenario.workers > 1 else ''}"
    note = f"1 measured client, {scenario.background or 'none'} in the background, {workers}.{published}"
    columns = ("way", MEAN, "median", "min … max", "user", "system", "server", "runs")
    return Section(f"{name}: {scenario.title}, in ms", note, columns, rows, "scenarios")


def scenario_row(figures: ScenarioFigures) -> Sequence[str]:
    took, user, system, server = (
        samples([seconds * 1e3 for seconds in values])
        for values in (figures.seconds, figures.user_s, figures.system_s, figures.server_s)
    )
    return (
        figures.way,
        f"{wording.number(took.mean)} ± {wording.number(took.sigma)}",
        wording.number(took.median),
        f"{wording.number(took.low)} … {wording.number(took.high)}",
        wording.number(user.mean),
        wording.number(system.mean),
        wording.number(server.mean),
        str(len(took.values)),
    )


def client_counts(results: Results) -> list[int]:
    return sorted({figures.clients for figures in results.scaling})


def throughput_cell(figures: ScalingFigures) -> str:
    return wording.per_s(figures.throughput.median)


def cpu_cell(figures: ScalingFigures) -> str:
    return wording.ns(figures.cpu_ns.median)


def scaling_section(results: Results, title: str, note: str, cell: Callable[[ScalingFigures], str]) -> Section:
    counts = client_counts(results)
    found = {way: [results.scaled(way, count) for count in counts] for way in results.ways}
    rows = [
        (way, *(cell(of) if of and of.operations_per_s else ABSENT for of in figures))
        for way, figures in found.items()
        if any(figures)
    ]
    return Section(title, note, ("way", *map(wording.clients, counts)), rows, "scaling")


def latency_section(results: Results, count: int) -> Section:
    names = [f"{percent:g}" for percent in PERCENTILES]
    rows = [
        (way, *(wording.ns(of.latency_ns[name]) for name in names), f"{of.latency_count:,}")
        for way in results.ways
        if (of := results.scaled(way, count)) and of.latency_ns
    ]
    columns = ("way", *(f"p{name}" if name != "100" else "longest" for name in names), "operations")
    return Section(f"Time of an operation, {wording.clients(count)}", LATENCY_NOTE, columns, rows, "scaling")


def payload_section(results: Results, operation: str) -> Section:
    cases = list(dict.fromkeys((of.size, of.clients) for of in results.payloads))
    rows = []
    for way in (MEMCPY, *results.ways):
        figures = [results.payload(way, operation, size, count) for size, count in cases]
        if any(figures):
            rows.append((way, *map(payload_cell, figures)))
    columns = ("GB/s", *(f"{wording.size(size)}, {wording.clients(count)}" for size, count in cases))
    return Section(f"{operation} of large values", PAYLOAD_NOTE, columns, rows, "payloads")


def payload_cell(figures: PayloadFigures | None) -> str:
    if figures and figures.why_none:
        return wording.in_two_lines(figures.why_none)
    return wording.number(figures.rate.median) if figures and figures.gb_per_s else ABSENT
