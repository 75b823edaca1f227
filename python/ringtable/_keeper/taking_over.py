"""Being the server of a new program, in a process that the keeper of an older one has forked.

An older program calls this (`successor.py` has how it gets here): what is passed are numbers, texts, and what those
make up.
"""

from __future__ import annotations

import select
import socket
import sys
from functools import partial
from typing import Any

# All that it needs to serve: nothing is imported any more while clients wait.
from ringtable import _server  # noqa: F401
from ringtable._cli.app import status_of
from ringtable._cli.serving import serve
from ringtable._keeper.holdings import Holdings, Left
from ringtable._keeper.keeper import Keeper, serve_kept
from ringtable._keeper.messages import ABLE, GO, Ended, pack_layouts, receive, send
from ringtable._keeper.successor import Limits
from ringtable._ringtable import KEPT_LAYOUTS


def take_over(left: Left, layouts: tuple[int, ...], options: dict[str, Any], waits: bool, limits: Limits | None) -> int:
    """Serve with what another program has left, and return the exit status.

    Where `waits` is set, another server has it still: this one says that it is able to go on, and hears what changes,
    until it may begin. If what is in shared memory has other layouts, it gets the entries alone. With `limits`, this
    process is the next keeper if its own one dies.
    """
    ours = tuple(KEPT_LAYOUTS)
    moves = layouts != ours
    # The first of them is how it talks to the keeper.
    if moves and not (waits and layouts[:1] == ours[:1]):
        print(
            "ringtable: the new program cannot take over: what is in shared memory has other layouts"
            f" ({_shown(layouts)}) than this version's ({_shown(ours)}); dump the table, start the new"
            " version, and load it there",
            file=sys.stderr,
            flush=True,
        )
        return 1
    holdings, way = Holdings.found(left[1], left[2]), socket.socket(fileno=left[0])
    if waits and not (send(way, ABLE, pack_layouts(ours), int(moves)) and _may_begin(way, holdings)):
        return 0
    if moves:
        holdings.leave_to_another_layout()
    kept = holdings.give(way.detach(), *left[3:], is_heir=limits is not None)
    new_keeper = None if limits is None else partial(Keeper, options, *limits)
    return status_of(lambda: serve_kept(kept, new_keeper, partial(serve, options)))


def _may_begin(way: socket.socket, holdings: Holdings) -> bool:
    """Hear what changes, until this server may begin. Return whether it may: the keeper may change its mind."""
    poll = select.poll()
    poll.register(way, select.POLLIN)
    while True:
        poll.poll()
        try:
            message = receive(way)
        except Ended:
            return False
        if message is not None:
            if message.kind == GO:
                return True
            holdings.hear(message)
            message.close()


def _shown(layouts: tuple[int, ...]) -> str:
    return ".".join(map(str, layouts))
