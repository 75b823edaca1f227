"""A server of the program as it lies on the disk now, in a process that the keeper of an older one has forked.

# Design

A client seals its lane, and behind that no process can map it any more: whoever is to serve it has to be forked from
the keeper, which has mapped it before. A program that is executed has no mappings. So the new program is not executed:
it is imported, in a fork of the keeper, in place of the modules that were loaded there. Its extension is another file
than the one that is loaded; the loader knows files by their path, too, so the path is written in another way.

`become` is of the old program, and `take_over` of the new one: what is passed between them are numbers, texts, and
what those make up.

# Not promised

The interpreter, its own library, and packages that were imported before stay as they are in the keeper.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import select
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ringtable._keeper.holdings import Holdings, Left
from ringtable._keeper.messages import ABLE, GO, Ended, receive, send
from ringtable._ringtable import KEPT_LAYOUTS

_PACKAGE = "ringtable"


class Unable(Exception):
    """The new program cannot go on with what the old one has."""


def become(left: Left, options: dict[str, Any], *, waits: bool) -> NoReturn:
    """Be the server of the program on the disk, and exit with its status.

    Args:
        left: What it takes over.
        options: Those of the server.
        waits: Whether another server has to go first: `take_over`.
    """
    status = 1
    try:
        take_over = _imported_anew()
        status = take_over(left, tuple(KEPT_LAYOUTS), options, waits)
        sys.stdout.flush()
    except BaseException as error:
        # Nothing above is to run in this process, whatever has happened.
        words = str(error) if isinstance(error, Unable) else traceback.format_exc().strip()
        print(f"ringtable: the new program cannot take over: {words}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _imported_anew() -> Callable[[Left, tuple[int, ...], dict[str, Any], bool], int]:
    """`take_over` of the program on the disk."""
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise Unable(f"there is no package {_PACKAGE!r} any more where Python looks for it")
    # The same folder by another path. What is loaded by a path is what was loaded by it before.
    sys.path.insert(0, os.path.join(os.path.dirname(found.submodule_search_locations[0]), "."))
    importlib.invalidate_caches()
    successor = importlib.import_module(__name__)
    take_over: Callable[[Left, tuple[int, ...], dict[str, Any], bool], int] = successor.take_over
    return take_over


def take_over(left: Left, layouts: tuple[int, ...], options: dict[str, Any], waits: bool) -> int:
    """Serve with what another program has left, and return the exit status.

    Where `waits` is set, another server has it still: this one says that it is able to go on, and hears what changes,
    until it may begin.

    Raises:
        Unable: What there is has another layout.
    """
    # All that it needs to serve: nothing is imported any more while clients wait.
    from ringtable import _server  # noqa: F401
    from ringtable._cli.app import status_of
    from ringtable._cli.serving import serve

    if layouts != tuple(KEPT_LAYOUTS):
        raise Unable(
            f"what is in shared memory has other layouts ({_shown(layouts)}) than this version's"
            f" ({_shown(tuple(KEPT_LAYOUTS))}); dump the table, start the new version, and load it there"
        )
    holdings, way = Holdings.found(left), socket.socket(fileno=left[0])
    if waits and not (send(way, ABLE) and _may_begin(way, holdings)):
        return 0
    kept = holdings.give(way.detach(), *left[3:])
    return status_of(lambda: serve(options, kept))


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
