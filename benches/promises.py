"""What ringtable promises beside its rivals: the goals of `compare`."""

from collections.abc import Callable, Iterator

from ringtable._bench.analysis import CROWD

from benches.figures import Figures
from benches.goals import Goal
from benches.scenarios import CLASSIC_WORKERS, classic_metric

UNITS_MS = {"_ns": 1e-6, "_us": 1e-3, "_ms": 1.0}
"""The endings of names of times, and one such unit in ms."""


def speed(scenario: str, rival: str, reference: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.speed(scenario, rival, reference)


def cpu_growth(figures: Figures) -> float | None:
    """CPU time of a read at 16 clients, as a multiple of that at one."""
    many_ns, one_ns = figures.cpu_ns("get16", "ringtable"), figures.cpu_ns("get", "ringtable")
    return many_ns / one_ns if many_ns and one_ns else None


def median(scenario: str, metric: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.median(scenario, "ringtable", metric)


def insert_ms_max(figures: Figures) -> float | None:
    """The longest insert that the server saw, ms, from whatever `insert_` maximum it reports."""
    for metric, value in figures.metrics("growth", "ringtable"):
        if metric.startswith("insert_") and "max" in metric:
            for ending, unit_ms in UNITS_MS.items():
                if ending in metric:
                    return value * unit_ms
    return None


def classic_goals() -> Iterator[Goal]:
    text = "client 100 10, {} worker{}, {}, reads {}"
    for reads, alone_ms, many_ms in (("direct", 1.5, 15.0), ("server", 20.0, 20.0)):
        for background, limit_ms in ((0, alone_ms), (CROWD, many_ms)):
            for workers in CLASSIC_WORKERS:
                who = f"with {background} in the background" if background else "alone"
                title = text.format(workers, "s" if workers > 1 else "", who, reads)
                measure = median("classic", classic_metric(workers, background, reads))
                yield Goal("classic", title, "≤", limit_ms, "ms", measure)


PROMISES = (
    Goal("mixed", "95 % get: speed beside LMDB", "≥", 2.2, "x", speed("mixed", "ringtable", "lmdb")),
    Goal("mixed16", "95 % get, 16 clients: the same", "≥", 3.0, "x", speed("mixed16", "ringtable", "lmdb")),
    Goal("set", "set: beside LMDB", "≥", 1.0, "x", speed("set", "ringtable", "lmdb")),
    Goal("set", "posted set: beside LMDB", "≥", 3.0, "x", speed("set", "ringtable-posted", "lmdb")),
    Goal("get_many", "get_many: beside LMDB", "≥", 1.5, "x", speed("get_many", "ringtable", "lmdb")),
    Goal("set_many", "set_many: beside LMDB", "≥", 0.7, "x", speed("set_many", "ringtable", "lmdb")),
    Goal(
        "set_many",
        "set_many: beside a pipeline",
        "≥",
        4.0,
        "x",
        speed("set_many", "ringtable", "valkey-pipeline"),
    ),
    Goal("get16", "CPU time of a get at 16 clients, beside 1", "≤", 1.25, "x", cpu_growth),
    *classic_goals(),
    Goal("memory", "overhead of an entry", "≤", 40.0, "bytes", median("memory", "overhead_bytes_per_entry")),
    Goal("idle", "idle server with 16 clients, of a core", "≤", 0.5, "%", median("idle", "core_percent")),
    Goal("growth", "longest insert while the table grows", "≤", 20.0, "ms", insert_ms_max),
    Goal("growth", "wrong values read meanwhile", "≤", 0.0, "keys", median("growth", "wrong_count")),
)
