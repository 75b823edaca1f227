"""Attacks on what surrounds servers and clients: `python -m proof.surroundings --help`.

Files, folders, users, forks, standard streams, limits: what other programs and administrators do to them, at random
instants, while servers start, serve, stop and are killed, and clients come and go. It goes round by kinds, each for a
moment, with servers of its own and with clients beside them that check every answer:

- **cleaner**: somebody removes and replaces the files of servers (`proof/cleaner.py`);
- **wanderers**: processes that change their folder and their environment between calls (`proof/wanderers.py`);
- **impostors**: other users who listen where a client looks for its server (`proof/impostors.py`);
- **forks**: processes that fork at random instants, beside their other threads (`proof/forks.py`);
- **streams**: programs that have no standard input, output or error (`proof/streams.py`);
- **shortages**: servers and clients that have few descriptors (`proof/shortages.py`).

What must not be is told there. What was found is printed as lines that begin with `forbidden:`, and the exit status
is 1. A seed repeats the choices; the instants depend on the machine, too.
"""

import json
import os
import random
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cyclopts
import ringtable
from ringtable._cli.signals import interrupt_on_termination

from proof import cleaner, forks, impostors, program, shortages, streams, wanderers
from proof.kills import own_folder

Turn = Callable[[Path, random.Random, float, Counter[str]], None]
KINDS: dict[str, Turn] = {
    "cleaner": cleaner.turn,
    "wanderers": wanderers.turn,
    "impostors": impostors.turn,
    "forks": forks.turn,
    "streams": streams.turn,
    "shortages": shortages.turn,
}
TURN_S = 3.0
"""For how long a kind goes on before the next one."""


@dataclass
class Found:
    """What a run has done and seen."""

    seed: int
    turns: int = 0
    seconds: float = 0.0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By kind, what was done."""

    forbidden: list[str] = field(default_factory=list)


@contextmanager
def own_place(kind: str) -> Iterator[Path]:
    """A folder of a turn's own. The current folder and the environment are as before in the end."""
    environment, current = dict(os.environ), os.getcwd()
    try:
        with tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=os.environ["RINGTABLE_DIR"]) as folder:
            yield Path(folder)
            os.chdir(current)
    finally:
        os.chdir(current)
        os.environ.clear()
        os.environ.update(environment)


def run(kinds: Sequence[str], seconds: float, found: Found) -> None:
    """Go round by kinds for so long, each at least once.

    Raises:
        AssertionError: Something was found.
    """
    begin = time.monotonic()
    for kind in kinds:
        found.counts[kind] = Counter()
    length = min(TURN_S, seconds / len(kinds))
    while not found.turns or time.monotonic() - begin < seconds - length / 2:
        for kind in kinds:
            turn = f"{kind}, turn {found.turns + 1}"
            generator = random.Random(f"{found.seed} {turn}")
            try:
                with own_place(kind) as folder:
                    KINDS[kind](folder, generator, length, found.counts[kind])
            except (AssertionError, OSError) as error:
                # Where it was seen is told by whoever wants to know more.
                traceback.print_exc()
                raise AssertionError(f"{turn}: {type(error).__name__}: {error}") from error
        found.turns += 1


app = cyclopts.App(name="proof.surroundings", help=__doc__, version_flags=[])


@app.default
def main(
    *,
    kind: list[str] | None = None,
    seconds: float = 26.0,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Attack what surrounds servers and clients, and check what comes of it.

    Args:
        kind: Only those kinds; may be given more than once.
        seconds: For how long.
        seed: Repeat the random choices of another run; the instants depend on the machine, too.
        json_: A file for the figures.
    """
    if unknown := [name for name in kind or () if name not in KINDS]:
        print(f"there is no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
        return 2
    # Whoever ends us ends what we have started.
    interrupt_on_termination()
    # Processes with threads that fork are what this is about.
    warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    found = Found(program.begin(seed))
    begin = time.monotonic()
    try:
        with own_folder():
            run(kind or list(KINDS), seconds, found)
    except (AssertionError, ringtable.Error) as error:
        found.forbidden.append(str(error))
    found.seconds = time.monotonic() - begin
    tell(found)
    if json_:
        json_.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 1 if found.forbidden else 0


def tell(found: Found) -> None:
    for kind, counts in found.counts.items():
        print(f"{kind}: {', '.join(f'{count} {what}' for what, count in sorted(counts.items())) or 'nothing yet'}")
    for line in found.forbidden:
        print(f"forbidden: {line}")
    print(
        f"{'nothing' if not found.forbidden else 'something'} was found in {found.turns} turns of "
        f"{len(found.counts)} kinds, {found.seconds:.0f} s, seed {found.seed}"
    )


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
