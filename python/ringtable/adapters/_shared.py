"""What adapters share: a table for each process, opened at first use and anew when its server has gone; serializers.

# Design

- Frameworks make many objects for one cache: one in each thread, or in each request. All that name the same table with
  the same options have one `Held`, and so one connection in a process.
- Nothing is opened before the first use, so that a process that forks workers has nothing open. A table that is open
  when its process forks goes on in the child.
- Calls go straight to the table. A table whose server has gone raises `ServerGone` at once (`reconnect=False`): the
  adapter then asks for another table by `Held.renewed`, which starts a server if there is none, and calls once more.
- If no table can be opened, that is tried at most once a second: a page with many calls waits once.

# Not promised

What was in the table when its server died, unless the server has a keeper or a folder.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ringtable
from ringtable import (
    AccessDenied,
    Closed,
    Error,
    InvalidOption,
    NotAnInteger,
    OutOfMemory,
    OutOfResources,
    ProtocolError,
    ServerFailed,
    ServerGone,
    TableNotFound,
    Timeout,
    TooManyClients,
    Untrusted,
    ValueTooLarge,
    VersionMismatch,
)
from ringtable._codecs.formats import read_number, written_integer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ringtable._types import Address

    _T = TypeVar("_T")

GONE = (ServerGone, TableNotFound, Closed)
"""What a call raises whose server is no more, or whose table was closed: another table may help."""

AWAY = (
    *GONE,
    AccessDenied,
    ProtocolError,
    OutOfResources,
    ServerFailed,
    Timeout,
    TooManyClients,
    Untrusted,
    VersionMismatch,
)
"""What says that the table cannot be asked now, whatever the call is."""

CALL_S_MAX = 5.0
"""How long a call waits for a server that is stopped or overloaded, unless told otherwise."""

# How long what was raised when no table could be opened is good for the next calls.
_RETRY_S = 1.0

# For a key that was there when it was looked for, and not when it was counted: it is not to stay.
_TTL_S_MIN = 0.001

# Options of the connection; all others are for the server that is started.
_CONNECT_OPTIONS = frozenset(
    {"codec", "keys", "timeout", "reads", "writes", "trust_user", "on_new_server", "reconnect"}
)

_MARK = b"!"

MISSING: Any = object()
"""A default that no value is."""

logger = logging.getLogger("ringtable.adapters")


class Held:
    """A table that a process opens at first use, and has once for all that want it with these options."""

    def __init__(self, name: Address | None, options: Mapping[str, Any]) -> None:
        """Take the options, and open nothing yet; `held` says which they are."""
        self._name = name
        self._options = dict(options)
        self._table: ringtable.Table[Any] | None = None
        self._failed: tuple[float, Error] | None = None
        self.lock = threading.Lock()

    def table(self) -> ringtable.Table[Any]:
        """Return the table, which is opened if it is not.

        Raises:
            Error: What `ringtable.open` or `connect` raises; the same again for a second.
        """
        return self._table if self._table is not None else self.renewed(None)

    def renewed(self, gone: ringtable.Table[Any] | None) -> ringtable.Table[Any]:
        """Return a table in the place of one whose server has gone: what another thread has opened, or a new one."""
        with self.lock:
            if self._table is not None and self._table is not gone:
                return self._table
            if self._failed is not None and time.monotonic() < self._failed[0]:
                # Another object each time: one that is raised again and again grows.
                raise type(self._failed[1])(*self._failed[1].args)
            # The one before is closed when nothing refers to it: other threads may be in the middle of a call.
            self._table = None
            try:
                self._table = _opened(self._name, **self._options)
            except Error as error:
                self._failed = time.monotonic() + _RETRY_S, error
                raise
            self._failed = None
            return self._table

    def close(self) -> None:
        """Close the table, if it is open; the next use opens it again."""
        with self.lock:
            if self._table is not None:
                self._table.close()
                self._table = None


_held: dict[Any, Held] = {}
_lock = threading.Lock()


def held(name: Address | None, options: Mapping[str, Any]) -> Held:
    """Return the table of that name for this process, which is opened when it is used.

    Args:
        name: As for `ringtable.connect`: a name, the path of a socket, or a URL.
        options: Those of `ringtable.open`, such as `max_memory`, `timeout` (5 seconds unless given) and `codec`, which
            may also be what `codec_of` takes. And `start`: whether to start a server if there is none, which is so
            unless it is false. A server that is started here is a cache, unless `cache` or `eviction` says otherwise.
    """
    key = (name, *sorted((option, _hashable(value)) for option, value in options.items()))
    with _lock:
        found = _held.get(key)
        if found is None:
            found = _held[key] = Held(name, options)
        return found


def close_all() -> None:
    """Close all tables of this process's adapters; the next use of one opens it again."""
    for one in list(_held.values()):
        one.close()


def _hashable(value: Any) -> Any:
    """What stands for an option in a key: text that tells its type, too, since keys are sorted."""
    return f"{type(value).__qualname__} {value!r}" if isinstance(value, (str, int, float, bytes)) else f"at {id(value)}"


def _after_fork() -> None:
    # Another thread of the parent may have had them.
    global _lock
    _lock = threading.Lock()
    for one in _held.values():
        one.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _opened(name: Address | None, *, start: bool = True, codec: Any = "pickle", **options: Any) -> ringtable.Table[Any]:
    options = {"timeout": CALL_S_MAX, "reconnect": False, **options, "codec": codec_of(codec)}
    if not start:
        return ringtable.connect(name, **options)
    connecting = {option: value for option, value in options.items() if option in _CONNECT_OPTIONS}
    # What a server is to be that is started here says nothing about one that runs already.
    try:
        table = ringtable.connect(name, **connecting)
    except GONE:
        if "eviction" not in options:
            options.setdefault("cache", True)
        return ringtable.open(name, **options)
    if len(connecting) == len(options):
        return table
    table.close()
    return ringtable.open(name, **options)


def codec_of(given: Any) -> Any:
    """Return a codec: for a name or a codec just that; for anything with `dumps` and `loads` one that calls these.

    Args:
        given: A name such as "json", the path of a class or an object ("package.Class"), a class, or an object.
    """
    if isinstance(given, str) and "." in given:
        module, _, name = given.rpartition(".")
        given = getattr(import_module(module), name)
    if isinstance(given, type):
        given = given()
    return given if isinstance(given, str) or hasattr(given, "encode") else Serializer(given)


class Serializer:
    """A codec of what frameworks call a serializer: an object with `dumps` and `loads`.

    Whole numbers that fit into 64 bits are decimal digits, so that they can be counted, and the serializer does not see
    them. A byte before all others tells them apart.
    """

    def __init__(self, serializer: Any) -> None:
        """Take the serializer."""
        self.name = type(serializer).__name__
        self._dumps = serializer.dumps
        self._loads = serializer.loads

    def encode(self, value: Any, /) -> bytes:
        """Return digits, or what the serializer makes of the value."""
        digits = written_integer(value)
        if digits is not None:
            return digits
        data = self._dumps(value)
        return _MARK + (data.encode() if isinstance(data, str) else bytes(data))

    def decode(self, data: bytes, /) -> Any:
        """Return the number, or what the serializer reads."""
        if data.startswith(_MARK):
            return self._loads(data[1:])
        number = read_number(data)
        if number is None:
            raise ValueError(f"it begins with {data[:1]!r}, as nothing does that {self.name} has written")
        return number


class Calls:
    """What an adapter inherits that calls one table: its calls go on with another one if the server has died.

    The calls that have to be fast do not go through `_do`: they call `self.table` themselves, and `_again` where that
    raises an `Error`.
    """

    _held: Held
    _ignores: bool = False

    @cached_property
    def table(self) -> ringtable.Table[Any]:
        """The table, for what the framework has no calls for. That its server has died is noticed by other calls."""
        return self._held.table()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as the options; the other process opens a table of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "table"}

    def _as_theirs(self, error: Error) -> Exception:
        """What the framework raises in the place of an error."""
        return error

    def _do(
        self,
        away: Any,
        call: Callable[[ringtable.Table[Any]], _T],
        *,
        repeats: bool = True,
        ignores: bool = True,
    ) -> _T:
        """Call with the table, and once more with another one if its server has gone."""
        try:
            return call(self.table)
        except Error as error:
            return self._again(error, away, call, repeats=repeats, ignores=ignores)

    def _again(
        self,
        error: Error,
        away: Any,
        call: Callable[[ringtable.Table[Any]], _T],
        *,
        repeats: bool = True,
        ignores: bool = True,
    ) -> _T:
        """What becomes of a call that has met an error: what it returns with another table; or `away`; or an error."""
        if isinstance(error, GONE):
            gone = self.__dict__.pop("table", None)
            try:
                self.table = self._held.renewed(gone)
                # A call for which there was no table yet has done nothing.
                if repeats or gone is None:
                    return call(self.table)
            except Error as second:
                error = second
        if ignores and self._ignores and isinstance(error, (*AWAY, OutOfMemory, ValueTooLarge)):
            logger.warning("%s goes without its table: %s", type(self).__name__, error)
            return cast("_T", away)
        raise self._as_theirs(error)


def increased(table: ringtable.Table[Any], key: str, delta: Any) -> Any:
    """Add to a number that is there, as one step, and return the sum; `MISSING` if there is no such key.

    Raises:
        TypeError: `delta` cannot be added to the value.
    """
    if key not in table:
        return MISSING
    try:
        if type(delta) is int:
            return table.incr(key, delta, ttl_if_new=_TTL_S_MIN)
    except (NotAnInteger, InvalidOption):
        # The value is no whole number, or one of them is too large.
        pass
    while (found := table.get_with_version(key)) is not None:
        value, version = found
        if table.set(key, value + delta, if_version=version, keepttl=True):
            return value + delta
    return MISSING
