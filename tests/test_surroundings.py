"""`python -m proof.surroundings`, each kind of it for a moment: what others do around servers and clients."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import DEADLINE_S

from proof.surroundings import KINDS, own_place

ROOT = Path(__file__).parent.parent
# Longer finds more, and `python -m proof.surroundings` does.
SECONDS = 0.3

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proof.surroundings", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
    )


def test_smoke() -> None:
    done = run("--kind", "shortages", "--seconds", "0.5", "--seed", "1")
    assert done.returncode == 0, done
    assert "seed 1" in done.stdout
    assert "nothing was found in 1 turns of 1 kinds" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind(kind: str, seed: int) -> None:
    counts: Counter[str] = Counter()
    with own_place(kind) as folder:
        KINDS[kind](folder, random.Random(seed), SECONDS, counts)
    print(counts)
    assert counts


def test_a_kind_that_does_not_exist() -> None:
    done = run("--kind", "nothing")
    assert done.returncode == 2
    assert "there is no kind 'nothing'" in done.stdout
