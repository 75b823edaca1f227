"""`ringtable stats`: the server's figures, grouped and with their units for people, plain for programs."""

import json as json_
import re
import sys
from collections.abc import Mapping
from typing import cast

from ringtable._cli.connection import DEFAULT, Connection
from ringtable._errors import InvalidOption

# The groups, and which figures belong to them: the first group with a pattern that fits the whole name.
GROUPS = {
    "Table": r"entries|entries_.*|buckets|hints|events|(expired|evicted)_keys|eviction_.*",
    "Memory": r"max_memory|memory_.*|.*_retired|slabs_moved|bytes_.*",
    "Clients": r"clients(_max|_accepted|_refused)?|accept_failures|lanes|watchers|hazard_records|holds|locks|lease.*",
    "Ends of connections": r"clients_.*",
    "Requests": r"requests|writes|insert_ns_.*|wakeups|doorbells_rung",
    "Shared rings": r"rings|ring_.*",
    "UDP": r"udp_.*",
    "Server": r"process_id|workers|cpus|spin_ns|name_.*",
    # So that no figure is lost.
    "Others": r".*",
}
BYTES = re.compile(r"max_memory|memory_.*|bytes_.*|.*_bytes")
NANOSECONDS = re.compile(r"(.*_)?ns(_.*)?")
POLICIES = {0: "noeviction", 1: "allkeys-sieve", 2: "volatile-ttl"}

_KIB = 1 << 10
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def stats(*, json: bool = False, plain: bool = False, at: Connection = DEFAULT) -> None:
    """Print the server's figures: grouped in a terminal, else one on a line with its bare number.

    A full server answers, too.

    Args:
        json: Print them as one line of JSON.
        plain: Print one figure on a line with its bare number, also in a terminal.
    """
    if json and plain:
        raise InvalidOption("--json and --plain exclude each other: choose one")
    # What has no lane gets into the place that a full server has in reserve.
    with at.open(transport="socket") as table:
        figures = cast("dict[str, int]", table.stats())
    if json:
        print(json_.dumps({name: named(name, value) for name, value in figures.items()}))
    elif plain or not sys.stdout.isatty():
        width = max(map(len, figures))
        for name, value in figures.items():
            print(f"{name:{width}}  {named(name, value)}")
    else:
        _show(figures)


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
    return str(value) if name == "process_id" else f"{value:,}"


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


def _show(figures: Mapping[str, int | float | str]) -> None:
    # Imported only here: it takes longer than asking the server.
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console(highlight=False)
    width = max(map(len, figures))
    for title, names in grouped(figures).items():
        grid = Grid(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
        grid.add_column(min_width=width)
        grid.add_column(justify="right", min_width=len("noeviction"), no_wrap=True)
        for name in names:
            # What has not happened is there, and does not ask for attention.
            grid.add_row(name, humane(name, figures[name]), style="dim" if figures[name] == 0 else "")
        console.print(grid)
        console.print()
