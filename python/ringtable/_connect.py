"""Connecting: which kind of table a call of `connect` or `open` returns."""

from __future__ import annotations

from ringtable._errors import InvalidOption
from ringtable._later import imports
from ringtable._table import Table
from ringtable._typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Unpack

    from typing_extensions import TypeVar

    from ringtable._codecs.codec import Codec
    from ringtable._types import Address, Keys, LazyOptions, Reads, Seconds, Trusted, Writes

    _T = TypeVar("_T", default=bytes)


@overload
def connect(
    name: Address | None = None, *, codec: Literal["bytes"] = "bytes", **options: Unpack[LazyOptions]
) -> Table[bytes]: ...
@overload
def connect(
    name: Address | None = None, *, codec: Literal["text"], keys: Keys = "str", **options: Unpack[LazyOptions]
) -> Table[str]: ...
@overload
def connect(
    name: Address | None = None,
    *,
    codec: Literal["json", "pickle", "msgpack", "array"],
    keys: Keys = "str",
    **options: Unpack[LazyOptions],
) -> Table[Any]: ...
@overload
def connect(
    name: Address | None = None, *, codec: Codec[_T], keys: Keys = "str", **options: Unpack[LazyOptions]
) -> Table[_T]: ...
def connect(
    name: Address | None = None,
    *,
    codec: Any = "bytes",
    keys: Any = None,
    timeout: Seconds | None = None,
    reads: Reads = "direct",
    writes: Writes = "acknowledged",
    reconnect: bool = True,
    trust_user: Trusted = (),
    wait: Seconds | None = None,
    lazy: bool = False,
    on_new_server: Callable[[int], object] | None = None,
) -> Any:
    """Connect to a running server and return its table.

        table = ringtable.connect("words", timeout=5.0, wait=10.0)
        pages = ringtable.connect("pages", codec="pickle")  # values are objects, keys come back as str

    Args:
        name: The server's name, the path of its socket, or a URL: `unix:///path` or `tcp://HOST:PORT`. A `str` without
            a "/" is a name, a `pathlib.Path` always a path. Paths are made absolute here, and names are looked up in
            `$RINGTABLE_DIR` as it is here, so that the table goes on to mean that server wherever it is used. Over TCP
            every read asks the server. `None` for what `$RINGTABLE_URL` says, or else the name "default".
        codec: What values are. "bytes", as the server has them, or objects that this process turns into bytes: "text"
            (`str`), "json", "pickle" (anything; read whom to trust in `PickleCodec`), "msgpack" (needs msgspec),
            "array" (numpy's and others'), or an object with `encode` and `decode`, see `Codec`. All processes have to
            name the same one.
        keys: How keys come back from a table with a codec other than "bytes": as "str" (UTF-8, with `surrogateescape`
            for what is none) or as "bytes". They may be given as either in any case.
        timeout: Seconds, or a `timedelta`, that any one call may wait for the server, connecting included; `None` for
            no limit. It bounds neither a watch nor the wait for a lock, a semaphore or an event, which have time-outs
            of their own, nor what a function of the caller's takes in `get_or_set` and `update`.
        reads: "direct" reads values in place, out of the memory that the server shares, and asks the server only when a
            value changes again and again under the reader. "server" sends every read to the server.
        writes: "acknowledged" returns from `set` and `delete` when every process sees the change. "posted" returns once
            the request is on its way: this table still reads its own writes, errors come with a later call or `flush`.
        reconnect: What becomes of the table when its server dies or stops. If this is true, reads go on with the server
            that follows, whose table is empty at first, within `timeout`, or else within `wait`; so do writes of which
            nothing was sent. A write that may have been executed raises `ServerGone`, and the next call goes
            on; so does every call as long as there is no server and nothing to wait for, and an iteration in any case.
            `server_id` tells which server it is. If it is false, all calls raise `ServerGone` from then on.
        trust_user: Users whose servers this may connect to, besides those of this process's own user and of root: a
            number, a name, or several. The table keeps them in children, in copies, for its watches, and when it
            reconnects. Over TCP nobody can tell whose server it is.
        wait: Seconds, or a `timedelta`, to wait for a server if there is none yet, or one that is ending; `None` not to
            wait. Each try to connect has `timeout` besides. So long waits a call without a time-out, too, when its
            server has gone.
        lazy: Connect with the first call that needs the server, and raise there what connecting would raise here; it
            waits for `wait` there, too.
        on_new_server: Called with the `server_id` when the table has come to another server, at the end of the call
            that has, on its thread; it may use the table. An exception of it is printed, as for a `__del__`. A copy, as
            by pickling, has none.

    Raises:
        TableNotFound: No server of that name answers, nor one within `wait`.
        AccessDenied: This user may not open the server's socket, or not pass through a folder on the way to it.
        Untrusted: The server is that of another user, or others could put one there; nothing was sent to it.
        TooManyClients: The server has no room for another client.
        VersionMismatch: The server was built from another version of the table's layout.
        InvalidOption: There is no such codec, or what it needs is not installed.
        Timeout: The server did not answer in time.
    """
    return table_of(
        codec,
        keys,
        name,
        timeout=timeout,
        reads=reads,
        writes=writes,
        reconnect=reconnect,
        trust_user=trust_user,
        wait=wait,
        lazy=lazy,
        on_new_server=on_new_server,
    )


def table_of(codec: Any, keys: Any, name: Address | None, **options: Any) -> Table[Any]:
    """Connect, and return a table whose values are those of this codec."""
    if codec is None or codec == "bytes":
        if keys not in (None, "bytes"):
            raise InvalidOption(f"keys is {keys!r}, which is for tables with a codec; without one they are bytes")
        return Table(name, **options)
    # Whoever has no objects does not pay for them.
    with imports:
        from ringtable._object_table import ObjectTable

    return ObjectTable(name, codec=codec, keys="str" if keys is None else keys, **options)
