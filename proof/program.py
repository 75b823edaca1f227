"""What the programs have in common: how they begin, and how they end."""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import Field, asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import ringtable
from cyclopts import Parameter

POLL_S = 0.05

Address = Annotated[str, Parameter(name="--address")]
"""The socket of a running server, as an option."""

JsonFile = Annotated[Path | None, Parameter(name="--json")]
"""A file for the figures, as an option."""


def begin(seed: int | None) -> int:
    """The seed of this run, which is printed."""
    seed = random.SystemRandom().getrandbits(31) if seed is None else seed
    print(f"seed {seed} (--seed {seed} repeats its choices)", flush=True)
    return seed


class Findings(Protocol):
    """What a program has done and found: a dataclass of figures."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    seconds: float
    forbidden: list[str]


def run(work: Callable[[], object], found: Findings, file: Path | None) -> int:
    """Do the work, which fills in what was found, and end."""
    begin = time.monotonic()
    try:
        work()
    except (AssertionError, ringtable.Error) as error:
        found.forbidden.append(f"{type(error).__name__}: {error}")
    found.seconds = round(time.monotonic() - begin, 1)
    figures = asdict(found)
    return end(figures, figures.pop("forbidden"), file)


def sleep_unless(condition: Callable[[], object], seconds: float) -> None:
    """Sleep so long, but not longer than until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(POLL_S, left))


def end(figures: dict[str, Any], found: Sequence[str], file: Path | None) -> int:
    """Print the figures and what was found, which the exit status tells, too."""
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    for words in found:
        print(words if "forbidden:" in words else f"forbidden: {words}")
    if file:
        file.write_text(json.dumps({"figures": figures, "found": list(found)}, indent=1))
    return 1 if found else 0
