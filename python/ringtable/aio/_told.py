"""Waiting for what the server tells when it has happened."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ringtable._errors import ServerGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ringtable.aio._driver import Driver

# What was written at the very moment of asking nobody is told of: who waits looks so often, in seconds.
_LOOKS_EVERY_S = 0.1


async def told(driver: Driver, command: str, key: bytes, token: int, is_there: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the server says that it is time to look again, or `is_there` finds what is waited for.

    The server of a connection that ends says no more: then it is time to look, too.

    Args:
        driver: The connection.
        command: "RING.AWAIT" or "RING.WAIT".
        key: What is waited for.
        token: What the command has to be told of it.
        is_there: Looks for it.

    Raises:
        ServerGone: The connection has ended, and there is to be no other one.
    """
    await driver.ensure()
    ticket = driver.next_ticket()
    answer = driver.expect(ticket)
    is_over = False
    try:
        said = await driver.call(command, key, token, ticket)
        if said.startswith(b"PENDING"):
            while not (is_over := answer.done()) and not await is_there():
                await asyncio.wait((answer,), timeout=_LOOKS_EVERY_S)
        else:
            is_over = True
    except ServerGone:
        is_over = True
        if not driver.reconnects:
            raise
    finally:
        driver.forget(ticket)
        if not is_over:
            driver.send_word("RING.UNWAIT", key, ticket)
