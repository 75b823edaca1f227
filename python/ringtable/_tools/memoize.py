"""Functions whose results all processes share.

# Design

A memoized function is `get_or_set` with a key that is made of its name and its arguments. So one process computes a
result at a time, and the others wait for it; if it dies, the next one computes. A result that cannot be read here, as
one of another version of the program, is deleted, if it is still that one, and asked for again.

The coroutine of an async function runs on the event loop of its caller, while a thread of its own holds the lease, or
waits for it. Calls of one loop that want the same result share one such thread, and its bytes: each caller gets an
object of its own.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import os
import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ringtable._errors import DecodeError
from ringtable._later import imports
from ringtable._ringtable import Table as TableCore
from ringtable._ringtable import check_staleness
from ringtable._tools import values
from ringtable._tools.names import beginning_in

if TYPE_CHECKING:
    from ringtable._types import Key, KeyFunction, Seconds

_Function = TypeVar("_Function", bound=Callable[..., Any])


def memoize(
    table: TableCore[Any],
    *,
    ttl: Seconds | None = None,
    stale: Seconds = 0.0,
    stale_if_error: Seconds = 0.0,
    key: KeyFunction | None = None,
) -> Callable[[_Function], _Function]:
    """See `Table.memoize`."""
    check_staleness(ttl, stale, stale_if_error)

    def decorate(function: _Function) -> _Function:
        prefix = beginning_in(table, "memoize", _name_of(function, key))
        # A bound method has an argument already.
        bound = (function.__self__,) if inspect.ismethod(function) else ()

        def key_for(*args: Any, **kwargs: Any) -> bytes:
            return prefix + (_digest(bound + args, kwargs) if key is None else _bytes(key(*args, **kwargs)))

        get_or_set = functools.partial(TableCore.get_or_set, table, ttl=ttl, stale=stale, stale_if_error=stale_if_error)

        def ask(name: bytes, make: Callable[[], bytes]) -> tuple[bytes, Any]:
            """The result's bytes, and what they are."""
            found = get_or_set(name, make)
            try:
                return found, values.loads(name, found)
            except DecodeError:
                _forget(table, name, found)
            found = get_or_set(name, make)
            return found, values.loads(name, found)

        wrapper: Any
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            # Only programs with event loops pay for it.
            with imports:
                from ringtable._tools.coroutines import shared

            wrapper = shared(table, function, key_for, ask)
        else:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return ask(key_for(*args, **kwargs), lambda: values.dumps(function(*args, **kwargs)))[1]

        functools.update_wrapper(wrapper, function)
        # As diskcache's: what to delete to have a result computed anew.
        wrapper.__cache_key__ = key_for
        return cast("_Function", wrapper)

    return decorate


def _forget(table: TableCore[Any], name: bytes, data: bytes) -> None:
    """Delete a result, unless there is another one by now."""
    found = TableCore.get_with_version(table, name)
    if found is not None and found[0] == data:
        TableCore.delete_if_version(table, name, found[1])


def _name_of(function: Callable[..., Any], key: KeyFunction | None) -> str:
    """The name of a function, by which all processes know it; of what has none, that of its type, if it has a key.

    Raises:
        TypeError: It has none that tells it from others, and no key: a hash of its arguments does not do so.
    """
    if not callable(function):
        raise TypeError(f"memoize is for functions, not for {type(function).__name__}")
    if getattr(function, "__module__", None) is None or not hasattr(function, "__qualname__"):
        if key is None:
            raise TypeError(
                f"a {type(function).__name__} has no name of its own to make keys of: give memoize a function key= "
                "whose keys tell it from others, or memoize a function that calls it"
            )
        function = type(function)
    elif key is None and (refers_to := _what_its_name_leaves_out(function)):
        raise TypeError(
            f"{function.__qualname__} {refers_to}, and others of its name would share its results: give memoize a "
            "function key= whose keys tell it from them, or memoize a function of a module"
        )
    return f"{_module(function)}:{function.__qualname__}"


def _what_its_name_leaves_out(function: Callable[..., Any]) -> str | None:
    """Why functions of that name may compute other results; `None` if none do."""
    name = function.__qualname__
    # A decorator's wrapper is a closure, too, and has the name of what it wraps.
    closure = getattr(inspect.unwrap(function), "__closure__", None)
    if name.endswith("<lambda>"):
        return "has no name of its own"
    if "<locals>" in name and closure:
        return "is a closure, whose variables are not in its name"
    return None


def _module(function: Callable[..., Any]) -> str:
    """The module of a function, by a name that it has in all processes: in one that was spawned, main is another."""
    name = function.__module__
    if name not in ("__main__", "__mp_main__"):
        return name
    main = sys.modules[name]
    if main.__spec__ is not None:
        return main.__spec__.name
    path = getattr(main, "__file__", None)
    return name if path is None else os.path.realpath(path)


def _bytes(key: Key) -> bytes:
    """A key that the function key= has made.

    Raises:
        TypeError: It is none.
    """
    if isinstance(key, str):
        return key.encode()
    if not isinstance(key, bytes):
        raise TypeError(f"memoize's key= makes str or bytes, not {type(key).__name__}")
    return key


def _digest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """A name of fixed length for arguments: the same in all processes, for the same types and values.

    Raises:
        TypeError: They cannot be pickled; give `memoize` a `key` then.
    """
    try:
        pickled = _pickled((args, kwargs))
    except (TypeError, AttributeError, ValueError, pickle.PicklingError) as error:
        raise TypeError(f"these arguments make no key ({error}): give memoize a function key=") from error
    return hashlib.blake2b(pickled, digest_size=24).hexdigest().encode()


def _ordered(value: Any) -> Any:
    """The same value, with what has no order in one."""
    kind = type(value)
    if kind is dict:
        return ("dict", sorted((_pickled(name), _pickled(one)) for name, one in value.items()))
    if kind in (set, frozenset):
        return (kind.__name__, sorted(_pickled(one) for one in value))
    if kind in (tuple, list):
        return (kind.__name__, [_ordered(one) for one in value])
    return value


def _pickled(value: Any) -> bytes:
    """The same bytes for equal values, whichever objects they are."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    # It does not refer to objects that came before: whether two are one does not matter.
    pickler.fast = True
    pickler.dump(_ordered(value))
    return buffer.getvalue()
