"""Connecting to a server, or starting one, for asyncio."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from ringtable import _connect
from ringtable._later import imports
from ringtable.aio._table import AsyncTable

if TYPE_CHECKING:
    from ringtable._types import Address


async def connect(name: Address | None = None, *, codec: Any = "bytes", **options: Any) -> AsyncTable[Any]:
    """Connect to a running server and return its table, as `ringtable.connect` does, in a thread meanwhile.

        table = await ringtable.aio.connect("pages", codec="json", timeout=5.0)

    Args:
        name: The server's name, the path of its socket, or a URL; `None` as for `ringtable.connect`.
        codec: What values are: see `ringtable.connect`.
        options: The others of `ringtable.connect`, but for `writes`: a task that need not wait for a write makes it a
            task of its own.

    Raises:
        Error: What `ringtable.connect` may raise.
    """
    return await _made(partial(_connect.connect, name, codec=codec, **_checked(options)))


async def open(name: Address | None = None, *, codec: Any = "bytes", **options: Any) -> AsyncTable[Any]:
    """Connect to a server, which is started in the background if there is none, as `ringtable.open` does.

        table = await ringtable.aio.open("pages", cache=True, max_memory="256MiB")

    Args:
        name: The server's name, or the path of its socket; `None` as for `ringtable.open`.
        codec: What values are: see `ringtable.connect`.
        options: The others of `ringtable.open`, but for `writes`.

    Raises:
        Error: What `ringtable.open` may raise.
    """
    with imports:
        from ringtable._opening import open as opened

    return await _made(partial(opened, name, codec=codec, **_checked(options)))


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    if "writes" in options:
        raise TypeError("writes is not for asyncio: a task that need not wait for a write makes it a task of its own")
    return options


async def _made(make: Any) -> AsyncTable[Any]:
    """The table that this makes, with a connection for this loop."""
    table = AsyncTable(await asyncio.get_running_loop().run_in_executor(None, make))
    try:
        await table._driver.open()
    except BaseException:
        table.close_now()
        raise
    return table
