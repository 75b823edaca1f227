"""Calls whose trouble is of the caller's own making: `python -m proof.calls --help`.

A process calls a table at random, in one of these ways, and knows what each call may come to:

- `threads` call one table without a pause, and each has its turn before the others have had too many;
- `memory` is short: a call without room for what it reads or writes says so once, and the next ones work as ever;
- `objects` are no data, hold pointers, lie about their size, or run code in the middle of the call: an answer or an
  ordinary exception, and no pointer is stored;
- `leases` are wanted by who has them, in other tasks of the thread, too: refused at once, and nobody waits for ever;
- `refusals`: a write for which there is no room, or whose condition does not hold, has evicted nothing;
- `starved` is a server whose user may have no more threads: it starts or says why not, and leaves nothing behind.

What was found is printed as lines that begin with `forbidden:`, and the exit status is 1.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cyclopts
from ringtable import Table
from ringtable._cli.signals import interrupt_on_termination
from support import Child, Successors, Way

from proof import callers, computing, objects, program, refusals
from proof.callers import CALL_S_MAX, Figures
from proof.kills import own_folder


@dataclass(frozen=True)
class Kind:
    """A kind of trouble, and the ways to a table that it is looked for on."""

    call: Callable[[Way, int, float], Figures]
    """Calls a table for so many seconds, with choices from a seed."""

    ways: tuple[str, ...]


# The options of a table; of lanes, unless it says otherwise.
WAYS: dict[str, dict[str, Any]] = {
    "lane": {"transport": "lane"},
    "posted": {"transport": "lane", "writes": "posted"},
    "socket": {"transport": "socket"},
    "tcp": {"transport": "socket"},
    "shared": {"transport": "rings"},
    "sharded": {"transport": "rings"},
}
KINDS = {
    "threads": Kind(callers.share, ("lane", "socket", "shared")),
    "memory": Kind(callers.lack_memory, ("lane", "socket", "tcp", "shared", "sharded")),
    "objects": Kind(objects.give, ("lane", "posted", "socket", "shared")),
    "leases": Kind(computing.compute, ("lane", "socket", "shared")),
    "refusals": Kind(refusals.fill_up, ("lane", "socket")),
    "starved": Kind(callers.lack_threads, ("lane",)),
}


def run(name: str, way_name: str, seed: int, seconds: float) -> Figures:
    """Have a process of its own call a table of one kind.

    Raises:
        AssertionError: Something was found.
    """
    topology = way_name if way_name in ("shared", "sharded") else "lanes"
    with Successors(tcp=True, topology=topology, max_memory="256MiB", slow_consumer_timeout=60) as servers:
        way = Way(servers.address if way_name == "tcp" else "default", WAYS[way_name])
        with Child(KINDS[name].call, way, seed, seconds) as child:
            figures: Figures = child.result(seconds + 3 * CALL_S_MAX)
        with Table(transport="socket", timeout=CALL_S_MAX) as table:
            # Nobody else is the worse for it.
            table["after"] = b"value"
            assert table["after"] == b"value"
    return figures


app = cyclopts.App(name="proof.calls", help=__doc__, version_flags=[])


@app.default
def main(
    *,
    kind: tuple[str, ...] = (),
    way: tuple[str, ...] = (),
    seconds: float = 1.0,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Call tables in ways that are the caller's own trouble.

    Args:
        kind: threads, memory, objects, leases, refusals or starved, instead of all; may be repeated.
        way: lane, posted, socket, tcp, shared or sharded, instead of all; may be repeated.
        seconds: For how long each kind is called over each way.
        seed: Repeat the random choices of another run; what threads do beside each other depends on the machine, too.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    seed = program.begin(seed)
    generator = random.Random(seed)
    figures: dict[str, Any] = {}
    found: list[str] = []
    with own_folder():
        for name, each in KINDS.items():
            for way_name in each.ways:
                own_seed = generator.getrandbits(31)
                if (kind and name not in kind) or (way and way_name not in way):
                    continue
                try:
                    figures[f"{name}, {way_name}"] = run(name, way_name, own_seed, seconds)
                except AssertionError as error:
                    # What it comes to is the last line of a child's traceback.
                    found.append(f"{name}, {way_name}, seed {own_seed}: {str(error).splitlines()[-1]}\n{error}")
    return program.end(figures, found, json_)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
