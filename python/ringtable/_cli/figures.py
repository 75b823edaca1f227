"""A server's figures as people read them: in groups, with their units, and by name where they stand for one."""

import re
from collections.abc import Mapping

# The groups, and which figures belong to them: the first group with a pattern that fits the whole name.
GROUPS = {
    "Table": r"entries|entries_.*|buckets|hints|events|(expired|evicted)_keys|eviction_.*",
    "Memory": r"max_memory|memory_.*|.*_retired|slabs_moved|bytes_.*",
    "Clients": r"clients(_max|_accepted|_refused)?|accept_failures|lanes|watchers|hazard_records|holds|locks|lease.*",
    "Ends of connections": r"clients_.*",
    "Requests": r"requests|writes|insert_ns_.*|wakeups|doorbells_rung",
    "Shared rings": r"rings|ring_.*",
    "UDP": r"udp_.*",
    "Disk": r"snapshots?(_.*)?|log_.*",
    "Server": r"process_id|keeper_process_id|restarts|upgrades|upgrades_failed|workers|cpus|spin_ns|name_.*",
    # So that no figure is lost.
    "Others": r".*",
}
BYTES = re.compile(r"max_memory|memory_.*|bytes_.*|.*_bytes")
NANOSECONDS = re.compile(r"(.*_)?ns(_.*)?")
POLICIES = {0: "noeviction", 1: "allkeys-sieve", 2: "volatile-ttl"}

_KIB = 1 << 10
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def grouped(names: Mapping[str, object]) -> dict[str, list[str]]:
    """The names in their groups, which are in the order to show them; without the groups that have none."""
    groups: dict[str, list[str]] = {title: [] for title in GROUPS}
    for name in names:
        groups[next(title for title, pattern in GROUPS.items() if re.fullmatch(pattern, name))].append(name)
    return {title: members for title, members in groups.items() if members}


def named(name: str, value: int) -> int | str:
    """A figure that stands for a name as that name, where there is one."""
    return POLICIES.get(value, value) if name == "eviction_policy" else value


def humane(name: str, value: int | float | str) -> str:
    """A figure as a person reads it: sizes and times in the unit that suits them, large numbers with separators."""
    if not isinstance(value, int):
        return str(value)
    if isinstance(known := named(name, value), str):
        return known
    if BYTES.fullmatch(name):
        return _size(value)
    if NANOSECONDS.fullmatch(name):
        return _time(value)
    return str(value) if name.endswith("process_id") else f"{value:,}"


def _size(size: int) -> str:
    if abs(size) < _KIB:
        return f"{size} bytes"
    scaled = float(size)
    for unit in _UNITS:
        scaled /= _KIB
        # What would be rounded up to 1,024 belongs to the next unit.
        if abs(scaled) < _KIB - 0.05 or unit == _UNITS[-1]:
            break
    return f"{scaled:,.1f} {unit}"


def _time(ns: int) -> str:
    for unit, factor in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if ns < 1_000 * factor:
            return f"{ns} ns" if factor == 1 else f"{ns / factor:.3g} {unit}"
    return f"{ns / 1e9:,.3g} s"
