"""What caches of frameworks cost with a table, beside their own: `python -m benches.frameworks --help`.

- *Django*: a read and a write through Django's `cache`, with ringtable's backend, with its cache in the process's own
  memory, and with its backend for Redis, over Valkey's unix socket.
- *cachelib*: the same through cachelib's interface, beside its cache for Redis.

Each value is pickled by all of them, but for whole numbers.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ringtable._bench.peers import Valkey
from ringtable._bench.tabular import Section, cell

from benches.figures import WALL_NS
from benches.goals import Goal
from benches.rivals import Ringtable
from benches.script import Run, Script

ROUNDS = 7
CALLS, CALLS_QUICK = 5_000, 500
SLOW = 10
"""Calls of what takes so much longer are fewer by this."""

VALUES = {"a number": 7, "a small dict": {"name": "Ada", "age": 36}, "2 KB of text": "x" * 2_000}
RINGTABLE, LOCMEM, REDIS = "ringtable", "Django's locmem", "Redis' client on Valkey"


def scenario(framework: str, what: str, value: str) -> str:
    return f"{framework}: {what} of {value}"


def measure(run: Run) -> None:
    with (
        run.running(partial(Ringtable, workers=1, max_memory="256MiB", eviction="allkeys-sieve")) as server,
        run.running(Valkey) as valkey,
    ):
        run.versions[RINGTABLE] = Ringtable.version()
        run.versions["valkey"] = Valkey.version()
        with run.attempt("Django"):
            measure_caches(run, "Django", django_caches(server.control, valkey.address))
        with run.attempt("cachelib"):
            measure_caches(run, "cachelib", cachelib_caches(server.control, valkey.address))


def django_caches(address: str, valkey: str) -> dict[str, Any]:
    from django.conf import settings
    from django.core.cache import caches

    backends = "django.core.cache.backends"
    settings.configure(
        CACHES={
            "default": {"BACKEND": "ringtable.adapters.django.RingtableCache", "LOCATION": address},
            "locmem": {"BACKEND": f"{backends}.locmem.LocMemCache"},
            "redis": {"BACKEND": f"{backends}.redis.RedisCache", "LOCATION": f"unix://{valkey}"},
        }
    )
    return {RINGTABLE: caches["default"], LOCMEM: caches["locmem"], REDIS: caches["redis"]}


def cachelib_caches(address: str, valkey: str) -> dict[str, Any]:
    import redis
    from cachelib import RedisCache
    from ringtable.adapters.cachelib import RingtableCache

    return {RINGTABLE: RingtableCache(address), REDIS: RedisCache(redis.Redis(unix_socket_path=valkey))}


def measure_caches(run: Run, framework: str, caches: dict[str, Any]) -> None:
    calls = CALLS_QUICK if run.quick else CALLS
    for name, value in VALUES.items():
        run.say(f"{framework}: {name}")
        for _ in range(ROUNDS):
            for rival, cache in caches.items():
                count = calls // SLOW if rival == REDIS else calls
                names = {"cache": cache, "value": value}
                for what, statement in (("set", "cache.set('key', value)"), ("get", "cache.get('key')")):
                    wall_s = timeit.timeit(statement, globals=names, number=count)
                    run.figures.add(scenario(framework, what, name), rival, WALL_NS, wall_s * 1e9 / count)
            if any(cache.get("key") != value for cache in caches.values()):
                raise AssertionError(f"{framework}: {name} comes back as something else")


SCENARIOS = [
    scenario(framework, what, name)
    for framework in ("Django", "cachelib")
    for what in ("get", "set")
    for name in VALUES
]


def sections(run: Run) -> list[Section]:
    rows = []
    for one in SCENARIOS:
        for rival in run.figures.rivals(one):
            median_ns = run.figures.median(one, rival, WALL_NS)
            beside = run.figures.speed(one, rival, RINGTABLE)
            rows.append((one, rival, cell(median_ns and median_ns / 1_000), cell(beside)))
    note = f"Medians of {ROUNDS} rounds, and how many times as fast it is as ringtable."
    return [Section("Caches of frameworks", note, ("What", "Whose", "µs", "x"), rows, text_columns=2)]


def times_as_fast(one: str, other: str) -> Callable[[Any], float | None]:
    """How many times as fast as another one ringtable is."""
    return lambda figures: figures.speed(one, RINGTABLE, other)


def times_as_slow(one: str, other: str) -> Callable[[Any], float | None]:
    return lambda figures: figures.speed(one, other, RINGTABLE)


def goals(run: Run) -> Sequence[Goal]:
    return [
        goal
        for name in VALUES
        for goal in (
            Goal(
                scenario("Django", "get", name),
                f"Django: get of {name}, beside its backend for Redis",
                "≥",
                20.0,
                "x",
                times_as_fast(scenario("Django", "get", name), REDIS),
            ),
            Goal(
                scenario("Django", "get", name),
                f"Django: get of {name}, beside locmem's time",
                "≤",
                4.0,
                "x",
                times_as_slow(scenario("Django", "get", name), LOCMEM),
            ),
            Goal(
                scenario("cachelib", "get", name),
                f"cachelib: get of {name}, beside its cache for Redis",
                "≥",
                15.0,
                "x",
                times_as_fast(scenario("cachelib", "get", name), REDIS),
            ),
        )
    ]


SCRIPT = Script("frameworks", "What caches of frameworks cost.", 300.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
