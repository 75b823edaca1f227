"""A server of the program as it lies on the disk now, in a process that the keeper of an older one has forked.

# Design

A client seals its lane, and behind that no process can map it any more: whoever is to serve it has to be forked from
the keeper, which has mapped it before. A program that is executed has no mappings. So the new program is not executed:
it is imported, in a fork of the keeper, in place of the modules that were loaded there. Its extension is another file
than the one that is loaded; the loader knows files by their path, too, so the path is written in another way.

`become` is of the old program, and `take_over` of the new one, in its `taking_over.py`: what is passed between them are
numbers, texts, and what those make up.

# Not promised

The interpreter, its own library, and packages that were imported before stay as they are in the keeper.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ringtable._keeper.holdings import Left

_PACKAGE = "ringtable"
_TAKING_OVER = "ringtable._keeper.taking_over"

# How many deaths of servers within ten seconds are too many for a keeper, and for how many seconds one may show no
# life.
Limits = tuple[int, float]


class _Missing(Exception):
    """There is no new program."""


def become(
    left: Left, layouts: tuple[int, ...], options: dict[str, Any], *, waits: bool, limits: Limits | None
) -> NoReturn:
    """Be the server of the program on the disk, and exit with its status.

    Args:
        left: What it takes over.
        layouts: Those of that.
        options: Those of the server.
        waits: Whether another server has to go first: `take_over`.
        limits: Those of the keeper, for when it dies and this process is the next one; `None` if it is not.
    """
    status = 1
    try:
        take_over = _imported_anew()
        status = take_over(left, layouts, options, waits, limits)
        sys.stdout.flush()
    except BaseException as error:
        # Nothing above is to run in this process, whatever has happened.
        words = str(error) if isinstance(error, _Missing) else traceback.format_exc().strip()
        print(f"ringtable: the new program cannot take over: {words}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _imported_anew() -> Callable[[Left, tuple[int, ...], dict[str, Any], bool, Limits | None], int]:
    """`take_over` of the program on the disk."""
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise _Missing(f"there is no package {_PACKAGE!r} any more where Python looks for it")
    # The same folder by another path. What is loaded by a path is what was loaded by it before.
    sys.path.insert(0, os.path.join(os.path.dirname(found.submodule_search_locations[0]), "."))
    importlib.invalidate_caches()
    successor = importlib.import_module(_TAKING_OVER)
    take_over: Callable[[Left, tuple[int, ...], dict[str, Any], bool, Limits | None], int] = successor.take_over
    return take_over
