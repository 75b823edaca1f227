"""The report as CSV in the long form: a row for each figure of each run."""

import csv
import io
from collections.abc import Iterator

from ringtable._bench.results import Results

COLUMNS = ("part", "way", "scenario", "operation", "size_bytes", "clients", "metric", "unit", "run", "value")
Row = dict[str, str | int | float]


def render(results: Results) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(results))
    return text.getvalue()


def rows(results: Results) -> Iterator[Row]:
    for scenario in results.scenarios:
        name: Row = {"part": "scenarios", "way": scenario.way, "scenario": scenario.scenario}
        yield from runs(name, "wall", "s", scenario.seconds)
        yield from runs(name, "client user", "s", scenario.user_s)
        yield from runs(name, "client system", "s", scenario.system_s)
        yield from runs(name, "server CPU", "s", scenario.server_s)
    for scaled in results.scaling:
        name = {"part": "scaling", "way": scaled.way, "clients": scaled.clients}
        yield from runs(name, "throughput", "operations/s", scaled.operations_per_s)
        yield from runs(name, "client CPU", "ns/operation", scaled.client_ns)
        yield from runs(name, "server CPU", "ns/operation", scaled.server_ns)
        for percent, latency in scaled.latency_ns.items():
            yield {**name, "metric": f"latency p{percent}", "unit": "ns", "value": latency}
    for payload in results.payloads:
        name = {"part": "payloads", "way": payload.way, "operation": payload.operation}
        name |= {"size_bytes": payload.size, "clients": payload.clients}
        yield from runs(name, "rate", "GB/s", payload.gb_per_s)


def runs(name: Row, metric: str, unit: str, values: list[float]) -> Iterator[Row]:
    for number, value in enumerate(values, 1):
        yield {**name, "metric": metric, "unit": unit, "run": number, "value": value}
