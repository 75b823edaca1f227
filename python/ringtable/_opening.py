"""Opening a table: connecting to its server, which is started in the background if there is none.

# Design

Whoever finds no server starts one (`_starting.py`): a detached process, in a session of its own, whose end nobody
waits for. Of several that are started at the same time the lock of the name lets one be the server; the others end, and
their starters connect to that one. The server ends by itself when its last client has left (`linger`), so what comes to
be in this way also goes. If it ends just when somebody connects, that one begins again, as long as it has time.

# Not promised

The server stays in the control group of the process that has started it, and inherits its limits: what ends all
processes of a service, or of a container, ends it, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, cast, overload

from ringtable._connect import table_of
from ringtable._errors import InvalidOption, ServerGone, TableNotFound
from ringtable._later import imports
from ringtable._options import OPTIONS, engine_options
from ringtable._ringtable import LINGER_MS_MAX, LINGER_MS_MIN, default_address, socket_path
from ringtable._table import Table

if TYPE_CHECKING:
    from ringtable._codecs.codec import Codec
    from ringtable._types import Address, Keys, OpenOptions, Reads, Seconds, ServerOptions, Trusted, Writes

    _T = TypeVar("_T")

# Options that the server tells in a smaller unit, of which there are a thousand.
_THOUSANDTHS = {
    "spin_us": "spin_ns",
    "slow_consumer_timeout": "slow_consumer_timeout_ms",
    "linger": "linger_ms",
    "snapshot_every": "snapshot_every_ms",
}

# As the engine has it, which a server that runs already does not ask.
_LINGER_S_MIN, _LINGER_S_MAX = LINGER_MS_MIN / 1_000, LINGER_MS_MAX // 1_000


def log_path(name: Address | None = None) -> str:
    """Return where the log of the server of this name is, if `ringtable.open` has started it.

        print(pathlib.Path(ringtable.log_path("words")).read_text())

    It lies beside the socket, as `NAME.log`, is this user's alone, and is written anew by each server that is started
    in this way. It stays when the server has ended, and says why it has.

    Args:
        name: The server's name, or the path of its socket; `None` as for `connect`.

    Raises:
        InvalidOption: It is neither.
    """
    return socket_path(default_address() if name is None else name).removesuffix(".sock") + ".log"


@overload
def open(
    name: Address | None = None, *, codec: Literal["bytes"] = "bytes", **options: Unpack[OpenOptions]
) -> Table[bytes]: ...
@overload
def open(
    name: Address | None = None, *, codec: Literal["text"], keys: Keys = "str", **options: Unpack[OpenOptions]
) -> Table[str]: ...
@overload
def open(
    name: Address | None = None,
    *,
    codec: Literal["json", "pickle", "msgpack", "array"],
    keys: Keys = "str",
    **options: Unpack[OpenOptions],
) -> Table[Any]: ...
@overload
def open(
    name: Address | None = None, *, codec: Codec[_T], keys: Keys = "str", **options: Unpack[OpenOptions]
) -> Table[_T]: ...
def open(
    name: Address | None = None,
    *,
    codec: Any = "bytes",
    keys: Any = None,
    linger: Seconds | None = 60.0,
    keeper: bool = False,
    wait: Seconds | None = 10.0,
    timeout: Seconds | None = None,
    reads: Reads = "direct",
    writes: Writes = "acknowledged",
    reconnect: bool = True,
    trust_user: Trusted = (),
    on_new_server: Callable[[int], object] | None = None,
    **options: Unpack[ServerOptions],
) -> Any:
    """Connect to a server, which is started in the background if there is none, and return its table.

        with ringtable.open("words", max_memory="64MiB") as table:
            table["hello"] = b"world"

    Of several processes that do so at the same time, one starts the server, and all connect to it. It is a process of
    its own that outlives them: Ctrl-C in their terminal does not reach it, and it ends when nobody has been connected
    for `linger` seconds. `log_path` tells where it writes what goes wrong.

    Args:
        name: The server's name, or the path of its socket; `None` as for `connect`. At a URL of a port a server is
            found, and none is started.
        codec: What values are, and how keys come back: see `connect`.
        keys: See `connect`.
        linger: Seconds, or a `timedelta`, for which a server that is started here goes on when its last client has
            left; `None` for ever. That of a server that runs already stays as it is.
        keeper: A server that is started here has a second process, which starts another one with the same table if
            it dies; see the guide on restarts. A server that runs already has to have one, too.
        wait: Seconds, or a `timedelta`, that starting and finding the server may take; `None` for no limit. The table
            does not wait for another one when its server has gone, as that of `connect(wait=)` does.
        timeout: As for `connect`, and so are `reads`, `writes`, `reconnect`, `trust_user` and `on_new_server`.
        reads: See `connect`.
        writes: See `connect`.
        reconnect: See `connect`. No server is started then.
        trust_user: See `connect`.
        on_new_server: See `connect`.
        options: Those of `Server`, such as `max_memory`, `cache` or `workers`. Of a server that runs already, those
            that are given have to be the same.

    Raises:
        InvalidOption: An option is out of its range, or is another one of the server that runs already.
        ServerFailed: The server was started, and has ended without a reason that has a class of its own.
        TableNotFound: The server was not there in time.
        Error: What `Server` and `connect` may raise.
    """
    given = _checked(options)
    to_start = {**given, **_checked({"linger": linger}), "keeper": bool(keeper)}
    limit_s = wait.total_seconds() if isinstance(wait, timedelta) else wait
    if limit_s is not None and not limit_s >= 0:
        raise InvalidOption(f"wait is {wait}; allowed are seconds from 0 on, or None")
    deadline = None if limit_s is None else time.monotonic() + limit_s
    address = default_address() if name is None else name
    while True:
        try:
            table = table_of(
                codec,
                keys,
                address,
                timeout=timeout,
                reads=reads,
                writes=writes,
                reconnect=reconnect,
                trust_user=trust_user,
                on_new_server=on_new_server,
            )
        except (TableNotFound, ServerGone) as absent:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise type(absent)(f"{absent}; none that was started within {limit_s} seconds was there") from None
            if str(address).startswith(("tcp://", "udp://")):
                raise InvalidOption(
                    f"there is no server at {address}, and open starts servers at unix sockets alone, by name or path:"
                    " start this one with `ringtable server`, and use ringtable.connect, whose wait= waits for it"
                ) from absent
            # What it needs is loaded by the one that starts a server.
            with imports:
                from ringtable._starting import start

            start(socket_path(address), log_path(address), to_start, left_s)
            continue
        try:
            _compare(given, keeper, table)
        except ServerGone:
            # It has ended since, or was killed.
            table.close()
        except BaseException:
            table.close()
            raise
        else:
            return table


def _checked(options: Any) -> dict[str, Any]:
    """Options that mean the same in another process."""
    checked = engine_options(options)
    if unknown := checked.keys() - OPTIONS:
        raise TypeError(f"open() got an unexpected keyword argument {min(unknown)!r}")
    for name in checked.keys() & _THOUSANDTHS.keys():
        if isinstance(checked[name], (str, bytes)) or not hasattr(checked[name], "__float__"):
            raise TypeError(f"{name} is a number, not {type(checked[name]).__name__}")
        checked[name] = float(checked[name])
    linger = checked.get("linger")
    if linger is not None and not _LINGER_S_MIN <= linger <= _LINGER_S_MAX:
        raise InvalidOption(f"linger is {linger:g}; allowed are {_LINGER_S_MIN} to {_LINGER_S_MAX} seconds")
    return checked


def _compare(given: dict[str, Any], keeper: bool, table: Table[Any]) -> None:
    """Look whether the server has the options that were given, and a keeper if that is wanted.

    Raises:
        InvalidOption: It has another one.
    """
    if keeper and table.stats()["keeper_process_id"] == 0:
        raise InvalidOption(
            f"keeper is True, but the server at {table.address} has none: leave the option out, or stop that server"
            " first"
        )
    if not given:
        return
    reply = cast("dict[bytes, int | bytes | None]", table.call("RING.OPTIONS"))
    for name, wanted in given.items():
        found: Any = reply.get(_THOUSANDTHS.get(name, name).encode())
        if isinstance(found, bytes):
            found = found.decode()
        elif name in _THOUSANDTHS and found is not None:
            found /= 1_000
        if name in ("tcp", "udp"):
            wanted = wanted.replace("localhost:", "127.0.0.1:")
        if found != wanted:
            shown = "what it chooses itself" if found is None else _shown(name, found)
            raise InvalidOption(
                f"{name} is {_shown(name, wanted)}, but the server at {table.address} runs with {shown}: leave the"
                " option out, or stop that server first"
            )


def _shown(name: str, value: Any) -> str:
    return f"0o{value:o}" if name == "mode" else repr(value)
