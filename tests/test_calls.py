"""Calls whose trouble is of the caller's own making: `python -m proof.calls` in short, which says what is checked."""

import os
from pathlib import Path

import pytest

from proof.calls import KINDS, run

# At least one round of each, however short.
SECONDS = 0.3
KINDS_AND_WAYS = [(kind, way) for kind, each in KINDS.items() for way in each.ways]


def test_smoke(ringtable_dir: Path, seed: int) -> None:
    assert run("objects", "lane", seed, SECONDS)["calls"] > 0


@pytest.mark.parametrize(("kind", "way"), KINDS_AND_WAYS)
def test_a_caller_harms_only_its_own_call(ringtable_dir: Path, seed: int, kind: str, way: str) -> None:
    figures = run(kind, way, seed, SECONDS)
    print(figures)
    assert sum(figures.values()) > 0 or (kind == "starved" and os.getuid() != 0)
