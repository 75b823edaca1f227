"""Calls whose trouble is of the caller's own making: `python -m proof.calls` in short, which says what is checked."""

import os
from pathlib import Path

import pytest

from proof.calls import KINDS, WAYS, run
from proof.refusals import fill_one_up

# At least one round of each, however short.
SECONDS = 0.3
KINDS_AND_WAYS = [(kind, way) for kind, each in KINDS.items() for way in each.ways]


def test_smoke(ringtable_dir: Path, seed: int) -> None:
    # Long enough for its processes to begin, on a machine that is busy.
    assert run("objects", "lane", seed, 5 * SECONDS)["calls"] > 0


@pytest.mark.parametrize(("kind", "way"), KINDS_AND_WAYS)
def test_a_caller_harms_only_its_own_call(ringtable_dir: Path, seed: int, kind: str, way: str) -> None:
    figures = run(kind, way, seed, SECONDS)
    print(figures)
    assert sum(figures.values()) > 0 or (kind == "starved" and os.getuid() != 0)


@pytest.mark.parametrize(("way", "seed"), [("lane", 3), ("lane", 13), ("socket", 5), ("socket", 11)])
def test_a_row_of_pages_that_was_cleared_stays_clear(way: str, seed: int) -> None:
    """What was moved out of it, for a large value, came to lie in its own free pages; the value was refused then, for
    which others had been evicted."""
    assert fill_one_up(WAYS[way], "volatile-ttl", seed)["refused"] > 0
