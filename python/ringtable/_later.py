"""Imports that are made when something is first needed, and that no fork cuts in two.

    with imports:
        from ringtable._tools.lock import Lock

A child that is forked in the middle of another thread's import has half of a module, and waits for ever for a lock that
nobody has there when it imports that module itself. So a fork waits until such an import is done.

An import opens files. A process that may open no more of them is told so as by every other call: by `OutOfResources`,
in the same words. Another try may succeed.
"""

from __future__ import annotations

import os
from _thread import RLock, get_ident
from errno import EMFILE

from ringtable._errors import OutOfResources
from ringtable._ringtable import shortage
from ringtable._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

FORK_WAIT_S_MAX = 1.0
"""For so long a fork waits: its thread may be in an import that the other one waits for."""


class _Imports:
    def __init__(self) -> None:
        self._lock = RLock()
        self._forking: set[int] = set()
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork_in_child
        )

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()
        if error is not None and (words := _shortage(error)) is not None:
            raise OutOfResources(f"loading a part of ringtable: {words}") from error

    def _before_fork(self) -> None:
        if self._lock.acquire(timeout=FORK_WAIT_S_MAX):
            self._forking.add(get_ident())

    def _after_fork(self) -> None:
        if get_ident() in self._forking:
            self._forking.discard(get_ident())
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        # A thread that has it is not there.
        self._lock = RLock()
        self._forking.clear()


def _shortage(error: BaseException | None) -> str | None:
    """What is short, in words, if that is why an import has failed."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return shortage(error.errno)
        # Who loads a library has no number of the error, but the system's words for it.
        if isinstance(error, ImportError) and str(error).endswith(os.strerror(EMFILE)):
            return shortage(EMFILE)
        error = error.__cause__
    return None


imports = _Imports()
