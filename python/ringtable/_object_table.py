"""Tables of objects: values go through a codec, in this process, and keys come back as `str`.

# Design

The core knows bytes alone. Here each method that takes or gives keys and values turns them into bytes, and back, around
the one of the same name: `_raw` and `_key` for keys, `_dump` and `_load` for values. What is left out needs neither.
Methods of `Table` that call others get these in bytes (`_InBytes`).

What a method returns is what anybody reads: also the one that has computed a value gets it decoded, so that a tuple in
JSON is a list for all.

Objects may keep the memory that they were read from, as arrays do: a codec that has `takes_views` gets a large value as
a view of the table, which stays as it is until nothing refers to it. The core sees to how many there may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast
from zlib import crc32

from ringtable._codecs import codec_of, name_of
from ringtable._codecs.codec import Undecodable
from ringtable._codecs.formats import RESIDUE, name_by_beginning
from ringtable._errors import DecodeError, InvalidOption
from ringtable._later import imports
from ringtable._pipeline import Pipeline
from ringtable._ringtable import Pipeline as PipelineCore
from ringtable._ringtable import Table as TableCore
from ringtable._ringtable import View
from ringtable._table import Table, entries

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from ringtable._types import Address, Key, Keys, Seconds, Value
    from ringtable._watch import Watch

    _T = TypeVar("_T", default=bytes)

# Typed for values of one kind, which are bytes to it here, and objects to the table.
_CORE: Any = TableCore
_TABLE: Any = Table
_CORE_PIPELINE: Any = PipelineCore

_MISSING: Any = object()


def as_text(raw: bytes) -> str:
    """A key as it was written, if that was as `str`; what is no UTF-8 is told by half characters."""
    return raw.decode("utf-8", "surrogateescape")


def several(keys: Iterable[Key]) -> list[Key]:
    """Keys as a list, unless they are a single one, whose letters nobody means."""
    if isinstance(keys, (str, bytes)):
        raise TypeError(f"keys are given as several, as in a list, not one {type(keys).__name__}")
    return list(keys)


def _is_of_tool(key: Key) -> bool:
    """Whether tools keep it for themselves, so that it is no value of the table's codec."""
    with imports:
        from ringtable._tools.names import is_of_tool

    return is_of_tool(key)


class _InBytes:
    """A table of objects as methods of `Table` need it that call others: with those of the core, in bytes."""

    def __init__(self, table: ObjectTable[Any]) -> None:
        self._table = table

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(_CORE, name), self._table)

    def add(self, key: Key, value: bytes) -> Any:
        return self.set(key, value, nx=True)


class ObjectTable(Table["_T"]):
    """A table whose values are objects; `connect` and `open` make one when they are given a codec.

    In a call of `call`, `call_many`, `view` and `get_into` values are the bytes that the codec has written.
    """

    codec: Any
    """What makes bytes of objects, as `connect` was given it."""

    # How the core reads a value; called with the table, to which it must not refer.
    _fetch: Any
    _name: str
    _encode: Callable[[Any], Any]
    _decode: Callable[[Any], Any]
    # Reads a value that has its checksum behind it, if the codec writes such.
    _read_checked: Callable[[bytes], Any] | None
    _keys: Keys
    # A key of the server's as it is given out, and what becomes of what is no UTF-8.
    _shown: Callable[[bytes], Any]
    _errors: str = "surrogateescape"
    # What `setdefault` writes unless told.
    _absent: Any = None

    def __new__(
        cls, address: Address | None = None, *, codec: Any, keys: Keys = "str", **options: Any
    ) -> ObjectTable[Any]:
        """Connect, as `connect` does."""
        if keys not in ("str", "bytes"):
            raise InvalidOption(f"keys is {keys!r}; allowed are 'str' and 'bytes'")
        found = codec_of(codec)
        self = super().__new__(cls, address, **options)
        self.codec = codec
        self._fetch = _CORE._hold if getattr(found, "takes_views", False) else _CORE.get
        self._name = name_of(found)
        self._encode = found.encode
        self._decode = found.decode
        self._read_checked = getattr(found, "read_checked", None)
        self._keys = keys
        self._shown = as_text if keys == "str" else bytes
        return self

    def _raw(self, key: Any) -> Any:
        """A key as the core takes it."""
        # ASCII is the same in all ways, and asking for it costs next to nothing.
        if isinstance(key, str) and not key.isascii():
            return key.encode("utf-8", "surrogateescape")
        return key

    def _key(self, raw: bytes) -> Any:
        """A key of the server's as the table gives it out."""
        return self._shown(raw)

    def _dump(self, key: Any, value: Any) -> Any:
        """The bytes of a value; what the codec raises passes, with a note of which key it was."""
        try:
            return self._encode(value)
        except Exception as error:
            error.add_note(f"The value was to be that of {key!r}, in a table with codec {self._name!r}")
            raise

    def _load(self, key: Any, data: Any) -> Any:
        """The value that has these bytes.

        Raises:
            DecodeError: The codec cannot read them.
        """
        try:
            return self._decode(data)
        except MemoryError:
            raise
        except Exception as error:
            raise self._undecodable(key, data, error) from error

    def _load_versioned(self, key: Any, found: tuple[Any, int]) -> tuple[Any, int]:
        return self._load(key, found[0]), found[1]

    def _load_pairs(self, _: Any, pairs: list[tuple[bytes, Any]]) -> list[tuple[Any, Any]]:
        found = ((self._key(raw), data) for raw, data in pairs)
        return [(key, self._load(key, data)) for key, data in found]

    def _undecodable(self, key: Any, data: Value, error: Exception) -> DecodeError:
        position = getattr(error, "position", getattr(error, "start", 0))
        reason = str(error) if isinstance(error, Undecodable) else f"{type(error).__name__}: {error}"
        # A codec that knows its own values by their beginning has found that they are damaged.
        written_by = name_by_beginning(data)
        if written_by == self._name:
            written_by = None
        other = "" if written_by is None else f", and begins as what codec {written_by!r} writes"
        message = f"the value of {key!r} cannot be read by codec {self._name!r}, at byte {position}: {reason}{other}"
        if isinstance(key, bytes) and self._keys == "str":
            key = as_text(key)
        return DecodeError(message, key=key, codec=self._name, position=position, written_by=written_by)

    # One key

    def __getitem__(self, key: Key, /) -> _T:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return cast("_T", value)

    def _look(self, key: Key, otherwise: Any, /) -> Any:
        data = super()._look(self._raw(key), otherwise)
        return data if data is None or data is otherwise else self._load(key, data)

    def get(self, key: Key, /, default: Any = None) -> Any:
        # The call that has to be fast: what `_raw` and `_load` do stands here itself, and so does the check of a value
        # that has its checksum behind it.
        try:
            data = self._fetch(self, key)
        except UnicodeEncodeError:
            data = self._fetch(self, self._raw(key))
        if data is None:
            return default
        try:
            if self._read_checked is not None and data.__class__ is bytes and crc32(data) == RESIDUE:
                return self._read_checked(data)
            return self._decode(data)
        except MemoryError:
            raise
        except Exception as error:
            raise self._undecodable(key, data, error) from error

    def __setitem__(self, key: Key, value: Any, /) -> None:
        _CORE.__setitem__(self, self._raw(key), self._dump(key, value))

    def set(self, key: Key, value: Any, **options: Any) -> bool:
        return cast("bool", _CORE.set(self, self._raw(key), self._dump(key, value), **options))

    def __delitem__(self, key: Key, /) -> None:
        try:
            super().__delitem__(self._raw(key))
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: object, /) -> bool:
        return super().__contains__(self._raw(key))

    def get_into(self, key: Key, buffer: Value, /) -> int:
        try:
            return super().get_into(self._raw(key), buffer)
        except KeyError:
            raise KeyError(key) from None

    def view(self, key: Key, /, *, copy_ok: bool = False) -> View:
        try:
            return super().view(self._raw(key), copy_ok=copy_ok)
        except KeyError:
            raise KeyError(key) from None

    def get_with_version(self, key: Key) -> tuple[_T, int] | None:
        found = _CORE.get_with_version(self, self._raw(key))
        return None if found is None else self._load_versioned(key, found)

    def delete_if_version(self, key: Key, version: int) -> bool:
        return super().delete_if_version(self._raw(key), version)

    def incr(self, key: Key, by: float = 1, **options: Any) -> Any:
        return _CORE.incr(self, self._raw(key), by, **options)

    def get_and_delete(self, key: Key, default: Any = None) -> Any:
        # In two steps, so that what the codec cannot read stays.
        return self.pop(key, default)

    def get_and_expire(self, key: Key, ttl: Seconds | None, default: Any = None) -> Any:
        data = _CORE.get_and_expire(self, self._raw(key), ttl)
        return default if data is None else self._load(key, data)

    def persist(self, key: Key) -> bool:
        return super().persist(self._raw(key))

    def expire(self, key: Key, ttl: Seconds) -> bool:
        return super().expire(self._raw(key), ttl)

    def ttl(self, key: Key) -> float | None:
        try:
            return super().ttl(self._raw(key))
        except KeyError:
            raise KeyError(key) from None

    def setdefault(self, key: Key, default: Any = _MISSING, /) -> Any:
        """Return the value of the key; where there is none, write `default` and return that.

        Among processes that do this at once one writes, and all return what it wrote.
        """
        if default is _MISSING:
            default = self._absent
        return self._load(key, _TABLE.setdefault(_InBytes(self), self._raw(key), self._dump(key, default)))

    def popitem(self) -> tuple[Any, Any]:
        for key in self:
            try:
                return key, self.pop(key)
            except KeyError:
                continue
            except DecodeError:
                if not _is_of_tool(key):
                    raise
        raise KeyError("the table is empty")

    def get_or_set(self, key: Key, make: Callable[[], Any], ttl: Seconds | None = None, **options: Any) -> Any:
        # What is no function is refused by the core, in its words.
        made: Any = partial(self._made, key, make) if callable(make) else make  # type: ignore[redundant-expr]
        return self._load(key, _CORE.get_or_set(self, self._raw(key), made, ttl, **options))

    def _made(self, key: Key, make: Callable[[], Any]) -> Any:
        return self._dump(key, make())

    def read_bucket(self, key: Key) -> list[tuple[Any, Any]]:
        return self._load_pairs(key, _CORE.read_bucket(self, self._raw(key)))

    # Many keys

    def delete(self, *keys: Key, **options: Any) -> int:
        return super().delete(*map(self._raw, keys), **options)

    def touch(self, *keys: Key) -> int:
        return super().touch(*map(self._raw, keys))

    def ttl_many(self, keys: Iterable[Key], /) -> list[float | None]:
        return super().ttl_many(map(self._raw, several(keys)))

    def delete_prefix(self, prefix: Key, /) -> int:
        return super().delete_prefix(self._raw(prefix))

    def delete_many(self, keys: Iterable[Key], /) -> int:
        return super().delete_many(map(self._raw, several(keys)))

    def get_many(self, keys: Iterable[Key], /) -> list[_T | None]:
        keys = several(keys)
        found = zip(keys, _CORE.get_many(self, map(self._raw, keys)), strict=True)
        return [None if data is None else self._load(key, data) for key, data in found]

    def set_many(self, items: Any, /, *, ttl: Seconds | None = None) -> None:
        pairs = items.items() if hasattr(items, "items") else items
        _CORE.set_many(self, ((self._raw(key), self._dump(key, value)) for key, value in pairs), ttl=ttl)

    def update(self, other: Any = (), fn: Any = _MISSING, /, **values: Any) -> Any:
        if fn is _MISSING:
            if isinstance(other, (str, bytes)):
                raise TypeError(f"update({other!r}) is neither update(key, fn) nor update(mapping)")
            for option in values.keys() & {"retries", "ttl"}:
                raise TypeError(
                    f"update(..., {option}={values[option]!r}) without a function would write a key {option!r}, as "
                    f"dict.update does: if you mean that, say update({{{option!r}: ...}}); for a time to live there is "
                    "set_many(..., ttl=)"
                )
            self.set_many(entries(other, values))
            return None

        def changed(data: bytes | None) -> Any:
            value = fn(None if data is None else self._load(other, data))
            return None if value is None else self._dump(other, value)

        data = _TABLE.update(_InBytes(self), self._raw(other), changed if callable(fn) else fn, **values)
        return None if data is None else self._load(other, data)

    def scan(self, cursor: int = 0, *, prefix: Key = b"") -> tuple[int, list[Any]]:
        following, raws = _CORE.scan(self, cursor, prefix=self._raw(prefix))
        return following, [self._key(raw) for raw in raws]

    def pipeline(self) -> ObjectPipeline[_T]:
        return ObjectPipeline(self)

    def watch(self, prefix: Key = b"", *, timeout: Seconds | None = None) -> Watch[Any]:
        return self._watch(self._raw(prefix), timeout, self._shown)

    def _found(self, keys: list[Any]) -> Iterator[tuple[Any, Any]]:
        return self._loaded(list(zip(keys, _CORE.get_many(self, map(self._raw, keys)), strict=True)))

    def _loaded(self, found: list[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        for key, data in found:
            if data is None:
                continue
            try:
                value = self._load(key, data)
            except DecodeError:
                if _is_of_tool(key):
                    continue
                raise
            yield key, value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the address, the options and the codec, which is pickled as it is."""
        reopen, (kind, *options) = super().__reduce__()
        return reopen, (partial(kind, codec=self.codec, keys=self._keys), *options)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, codec {self._name}>"


class ObjectPipeline(Pipeline["_T"]):
    """A pipeline of a table of objects: values are encoded when they are recorded, and decoded when they come."""

    def __init__(self, table: ObjectTable[_T]) -> None:
        super().__init__(table)
        self._table = table
        # The results that have to be made objects: which one, of which key, and how.
        self._reads: list[tuple[int, Any, Callable[[Any, Any], Any]]] = []

    def get(self, key: Key) -> Self:
        return self._read(key, _CORE_PIPELINE.get, self._table._load)

    def get_with_version(self, key: Key) -> Self:
        return self._read(key, _CORE_PIPELINE.get_with_version, self._table._load_versioned)

    def read_bucket(self, key: Key) -> Self:
        return self._read(key, _CORE_PIPELINE.read_bucket, self._table._load_pairs)

    def get_and_delete(self, key: Key) -> Self:
        return self._read(key, _CORE_PIPELINE.get_and_delete, self._table._load)

    def get_and_expire(self, key: Key, ttl: Seconds | None) -> Self:
        return self._read(key, lambda self, raw: _CORE_PIPELINE.get_and_expire(self, raw, ttl), self._table._load)

    def persist(self, key: Key) -> Self:
        return super().persist(self._table._raw(key))

    def set(self, key: Key, value: Any, **options: Any) -> Self:
        _CORE_PIPELINE.set(self, self._table._raw(key), self._table._dump(key, value), **options)
        return self

    def delete(self, *keys: Key) -> Self:
        return super().delete(*map(self._table._raw, keys))

    def exists(self, key: Key) -> Self:
        return super().exists(self._table._raw(key))

    def incr(self, key: Key, by: Any = 1, **options: Any) -> Self:
        return super().incr(self._table._raw(key), by, **options)

    def expire(self, key: Key, ttl: Seconds) -> Self:
        return super().expire(self._table._raw(key), ttl)

    def _read(self, key: Key, record: Any, load: Callable[[Any, Any], Any]) -> Self:
        number = len(self)
        record(self, self._table._raw(key))
        self._reads.append((number, key, load))
        return self

    def _send(self) -> list[Any]:
        return self._finished(super()._send())

    def _finished(self, results: list[Any]) -> list[Any]:
        reads, self._reads = self._reads, []
        for number, key, load in reads:
            found = results[number]
            if found is not None and not isinstance(found, Exception):
                try:
                    results[number] = load(key, found)
                except DecodeError as error:
                    error.add_note(f"This was command {number + 1} of {len(results)} in a pipeline")
                    results[number] = error
        return results
