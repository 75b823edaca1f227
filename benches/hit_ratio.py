"""Hit ratios of caches of the same size: `python -m benches.hit_ratio --help`.

ringtable evicts by SIEVE, in steps of entries as they come, and hears of direct reads only by marks that readers leave.
So it is measured, from outside, beside reference caches that see every request: does it hit as often?

All caches have room for a tenth of the keys. A server is bounded in bytes: its limit is chosen so that about so many
entries fit, and the references get exactly the room that ringtable really had, the mean of its `entries` while it
evicted. Valkey stands for Redis: it is a fork of it, with the same allkeys-lru, which samples 5 keys for an eviction
and tells their ages apart by the second: in a trace that is over within seconds it hits less than it otherwise would.
"""

import importlib.metadata
import statistics
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ringtable
from ringtable._bench.crew import connected
from ringtable._bench.errors import BenchError
from ringtable._bench.peers import Valkey
from ringtable._bench.subject import Subject
from ringtable._bench.tabular import Section, cell
from ringtable._ringtable import MAX_MEMORY_MIN

from benches import replay, traces
from benches.figures import Figures
from benches.goals import Goal
from benches.replay import REFERENCES, Played
from benches.rivals import Ringtable
from benches.script import Run, Script

EVICTION = "allkeys-sieve"
VALKEY_POLICY = "allkeys-lru"
TRACES = ("zipf", "polluted")
CLIENTS = (1, 4)
PARTS = 50
"""The trace is played in so many parts; between two of them, the number of entries is looked at."""

ENTRY_GUESS_SIZE = 1_200
CALIBRATIONS_MAX = 5
CALIBRATION_SLACK = 0.005
"""How far from the wanted number of entries a server may be, as a share."""

FILL_LAPS = 3
"""Filled so many times over, a server evicts for sure."""

HIT, ENTRIES, WRONG = "hit_percent", "entries", "wrong_count"


class ServerReads(Ringtable):
    """ringtable, every read sent to the server, which then sees it as the references do."""

    name = "ringtable, reads ask"

    def __init__(self, folder: Path, *, max_memory: str, eviction: str) -> None:
        super().__init__(folder, max_memory=max_memory, eviction=eviction)
        self.address = replace(self.address, reads="server")


@dataclass(frozen=True)
class Size:
    requests: int
    keys: int

    @property
    def room(self) -> int:
        return self.keys // 10


FULL = Size(requests=1_000_000, keys=100_000)
QUICK = Size(requests=100_000, keys=50_000)


@dataclass(frozen=True)
class Fullness:
    """How full a server is."""

    entries: int
    evicted: int


def measure(run: Run) -> None:
    size = QUICK if run.quick else FULL
    run.versions.update({"libcachesim": importlib.metadata.version("libcachesim"), "valkey": Valkey.version()})
    run.say("calibrating ringtable")
    kinds = list[Callable[[Path], Ringtable]]()
    with run.attempt("ringtable"):
        max_memory = calibrate_ringtable(run, size.room)
        run.notes.append(f"ringtable has max_memory {max_memory:,} bytes")
        kinds += [partial(kind, max_memory=str(max_memory), eviction=EVICTION) for kind in (ServerReads, Ringtable)]
    zipf = traces.zipf(run.seed, size.requests, size.keys)
    polluted = traces.polluted(run.seed, size.requests, size.keys, size.room)
    for trace in (zipf, polluted):
        run.notes.append(f"{trace.name}: {trace.about}")
        for clients in CLIENTS:
            scenario = scenario_of(trace.name, clients)
            # What the others get if ringtable could not be measured.
            room = size.room
            for start in kinds:
                with run.attempt(f"{scenario}: ringtable"), run.running(start) as server:
                    room = play(run, scenario, server, trace, clients, ringtable_fullness)
            for name in REFERENCES:
                run.say(f"{scenario}: {name}")
                played = replay.play_reference(name, trace.keys, room)
                run.figures.add(scenario, name, HIT, played.hit_percent)
                run.figures.add(scenario, name, ENTRIES, room)
            with run.attempt(f"{scenario}: valkey"), run.running(start_valkey) as rival:
                run.say(f"{scenario}: calibrating valkey")
                calibrate_valkey(rival, room)
                play(run, scenario, rival, trace, clients, valkey_fullness)


def scenario_of(trace: str, clients: int) -> str:
    return f"{trace}, {clients} client{'s' if clients > 1 else ''}"


def play(
    run: Run,
    scenario: str,
    server: Subject,
    trace: traces.Trace,
    clients: int,
    fullness: Callable[[Any], Fullness],
) -> int:
    """Has clients play a trace, each its share of every part; gives back how many entries there were on average."""
    run.say(f"{scenario}: {server.name}")
    played, entries = Played(), list[int]()
    with connected(server, clients) as crew:
        for part in parts(trace.keys, PARTS):
            for index in range(clients):
                crew.start(replay.play, part[index::clients], of=[index])
            for requests, hits, wrong in crew.results():
                played.add(requests, hits, wrong)
            if (now := fullness(server)).evicted:
                entries.append(now.entries)
    if not entries:
        raise BenchError(f"{server.name} evicted nothing: the trace fits into its memory")
    run.figures.add(scenario, server.name, HIT, played.hit_percent)
    run.figures.add(scenario, server.name, WRONG, played.wrong)
    for count in entries:
        run.figures.add(scenario, server.name, ENTRIES, count)
    return round(statistics.fmean(entries))


def parts(numbers: Any, count: int) -> list[Any]:
    step = -(-len(numbers) // count)
    return [numbers[start : start + step] for start in range(0, len(numbers), step)]


def ringtable_fullness(server: Ringtable) -> Fullness:
    with ringtable.Table(server.control, transport="socket") as table:
        stats = table.stats()
    if "evicted_keys" not in stats:
        raise BenchError("this ringtable does not evict: RING.STATS has no evicted_keys")
    return Fullness(int(stats["entries"]), int(stats["evicted_keys"]))


def calibrate_ringtable(run: Run, room: int) -> int:
    """Finds the limit in bytes with which so many entries fit."""
    max_memory = max(MAX_MEMORY_MIN, room * ENTRY_GUESS_SIZE)
    for _ in range(CALIBRATIONS_MAX):
        start = partial(Ringtable, max_memory=str(max_memory), eviction=EVICTION)
        with run.running(start) as server:
            with connected(server, 1) as crew:
                crew.call(replay.fill, FILL_LAPS * room)
            full = ringtable_fullness(server)
        if not full.evicted:
            raise BenchError(f"{max_memory:,} bytes hold {full.entries:,} entries, more than wanted: use more keys")
        missing = room - full.entries
        if abs(missing) <= CALIBRATION_SLACK * room or (max_memory == MAX_MEMORY_MIN and missing < 0):
            break
        max_memory = max(MAX_MEMORY_MIN, round(max_memory * room / full.entries))
    return max_memory


def start_valkey(folder: Path) -> Valkey:
    return Valkey(folder, ["--maxmemory-policy", VALKEY_POLICY])


def valkey_fullness(server: Valkey) -> Fullness:
    import redis

    with closing(redis.Redis(unix_socket_path=server.address)) as client:
        stats: Any = client.info("stats")
        entries: Any = client.dbsize()
    return Fullness(entries, stats["evicted_keys"])


def calibrate_valkey(server: Valkey, room: int) -> None:
    """Sets the limit in bytes with which so many entries fit, and empties the server again."""
    import redis

    with closing(redis.Redis(unix_socket_path=server.address)) as client, connected(server, 1) as crew:
        memory: Any = client.info("memory")
        limit = memory["used_memory"] + room * ENTRY_GUESS_SIZE
        for _ in range(CALIBRATIONS_MAX):
            client.config_set("maxmemory", limit)
            crew.call(replay.fill, FILL_LAPS * room)
            entries: Any = client.dbsize()
            if abs(room - entries) <= CALIBRATION_SLACK * room:
                break
            limit = round(limit + (room - entries) * ENTRY_GUESS_SIZE)
        client.flushall()
        client.config_resetstat()


def sections(run: Run) -> list[Section]:
    rows = []
    for trace in TRACES:
        for clients in CLIENTS:
            scenario = scenario_of(trace, clients)
            for name in run.figures.rivals(scenario):
                rows.append((scenario, LABELS.get(name, f"{name}, reference"), *cells(run.figures, scenario, name)))
    note = (
        "Of all requests, in percent, the first misses included. Differences in points. Values of 1 KiB."
        f" ringtable has {EVICTION}, and reads in place unless its reads ask the server."
    )
    columns = ("Trace", "Cache", "entries", "hits", "beside SIEVE", "beside LRU", "wrong")
    return [Section("Hit ratio", note, columns, rows, text_columns=2)]


LABELS = {"ringtable": "ringtable", ServerReads.name: ServerReads.name, "valkey": f"Valkey for Redis, {VALKEY_POLICY}"}


def cells(figures: Figures, scenario: str, name: str) -> list[str]:
    values = figures.values
    entries = statistics.fmean(values[scenario, name, ENTRIES])
    differences = [difference(figures, scenario, name, reference) for reference in ("SIEVE", "LRU")]
    return [
        cell(entries),
        f"{values[scenario, name, HIT][0]:.2f}",
        *("-" if points is None else f"{points:+.2f}" for points in differences),
        cell(figures.median(scenario, name, WRONG)),
    ]


def difference(figures: Figures, scenario: str, name: str, reference: str) -> float | None:
    """How many points more `name` hits than the reference."""
    own, others = figures.median(scenario, name, HIT), figures.median(scenario, reference, HIT)
    return None if own is None or others is None else own - others


def goals(run: Run) -> list[Goal]:
    found = []
    for trace in TRACES:
        for clients in CLIENTS:
            scenario = scenario_of(trace, clients)
            for reference, limit in (("SIEVE", -1.0), ("LRU", 0.0)):
                points = partial(difference, scenario=scenario, name="ringtable", reference=reference)
                text = f"{scenario}: hits beyond {reference}'s"
                found.append(Goal(scenario, text, "≥", limit, "points", points))
            wrong = partial(wrong_count, scenario)
            found.append(Goal(scenario, f"{scenario}: wrong values", "≤", 0.0, "values", wrong))
    return found


def wrong_count(scenario: str, figures: Figures) -> float | None:
    return figures.median(scenario, "ringtable", WRONG)


SCRIPT = Script("hit_ratio", "Hit ratios of caches of the same size.", 3_600.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
