"""What drives a connection in an event loop.

# Design

Calls are futures. A call goes out at once if there is room; what has come is taken when the connection's descriptor is
ready. The loop arms the connection when it has done all that is to be done now: so a server that answers many calls
rings once.

A connection is made when it is first needed, in a thread of the loop's executor, since that may wait; and anew when it
has ended, or in another loop, if the first one is closed.

# Not promised

A call whose task is cancelled may have been done. Its reply is taken and dropped.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ringtable._errors import Closed, ServerGone, Timeout
from ringtable._pipeline import Pipeline
from ringtable._ringtable import LoopConnection

if TYPE_CHECKING:
    from ringtable._table import Table


def word(argument: Any) -> Any:
    """An argument of a request, as a server gets it."""
    return str(argument) if isinstance(argument, int) else argument


def _pass_over(sent: asyncio.Future[Any]) -> None:
    """What becomes of it is of interest to nobody, and no reason for the loop to complain."""
    if not sent.cancelled():
        sent.exception()


class Unsent(ServerGone):
    """The server has gone before the call was sent."""


class Driver:
    """The connection of a table in the loop that runs."""

    def __init__(self, table: Table[Any]) -> None:
        self.table = table
        self._loop: asyncio.AbstractEventLoop | None = None
        self._core: LoopConnection | None = None
        # While it is being made.
        self._opening: asyncio.Future[None] | None = None
        self._is_scheduled = False
        self._watches_for_room = False
        self.reconnects = table.reconnect
        self._is_closed = False
        self._had_one = False
        self._descriptor = -1
        self._ticket = 0

    async def ask(self, commands: Pipeline[Any]) -> Any:
        """The result of the only command that was recorded.

        Raises:
            ServerGone: The server has gone; the call may have been done, unless it says otherwise.
            Timeout: It does not answer within the table's time-out.
        """
        return commands._finished([await self._answered(commands, is_one=True)])[0]

    async def call(self, name: str, *arguments: Any) -> Any:
        """The reply to a request, in the bytes of the table itself, whatever its codec."""
        return await self._answered(Pipeline(self.table).call(name, *map(word, arguments)), is_one=True)

    async def ask_all(self, commands: Pipeline[Any]) -> list[Any]:
        """The results of all commands that were recorded, errors among them."""
        return commands._finished(await self._answered(commands, is_one=False))

    async def _answered(self, commands: Pipeline[Any], *, is_one: bool) -> Any:
        timeout = self.table.timeout
        if timeout is None:
            return await self.send(commands, is_one=is_one) if self._is_open() else await self._send(commands, is_one)
        try:
            async with asyncio.timeout(timeout):
                return await self._send(commands, is_one)
        except TimeoutError as error:
            if isinstance(error, Timeout):
                raise
            raise Timeout(
                f"no answer within {timeout:g} s from the server at {self.table.address}: it is stopped, or"
                " overloaded; a write may still be done"
            ) from None

    async def _send(self, commands: Pipeline[Any], is_one: bool) -> Any:
        await self.ensure()
        return await self.send(commands, is_one=is_one)

    def _is_open(self) -> bool:
        core = self._core
        return core is not None and self._loop is asyncio.get_running_loop() and core.is_ours

    def send(self, commands: Pipeline[Any], *, is_one: bool = True) -> asyncio.Future[Any]:
        """Send what was recorded, over a connection that is open. The future has what comes of it."""
        loop, core = self._loop, self._core
        if loop is None or core is None:
            raise ServerGone("the connection has ended")
        future = loop.create_future()
        try:
            core.submit(commands, future, is_one)
        except ServerGone as error:
            self._end(error)
        self._schedule()
        return future

    def send_word(self, name: str, *arguments: Any) -> None:
        """Send something whose reply nobody waits for, unless the connection has ended: so has what it is about."""
        if self._is_open():
            sent = self.send(Pipeline(self.table).call(name, *map(word, arguments)), is_one=False)
            sent.add_done_callback(_pass_over)

    async def ensure(self) -> None:
        """Connect, unless that is done."""
        if not self._is_open():
            await self.open()

    def next_ticket(self) -> int:
        """A number that no other request over this connection has or had."""
        self._ticket += 1
        return self._ticket

    def expect(self, ticket: int) -> asyncio.Future[Any]:
        """A future of the answer that comes later, with this ticket. `None` is no answer: it is to be asked again."""
        assert self._loop is not None
        assert self._core is not None
        future = self._loop.create_future()
        self._core.expect(ticket, future)
        self._schedule()
        return future

    def forget(self, ticket: int) -> None:
        """Expect that answer no more."""
        if self._core is not None:
            self._core.forget(ticket)

    async def open(self) -> None:
        """Connect, unless that is done; of tasks that do so at the same time one does it.

        Raises:
            Closed: The table is closed.
            RuntimeError: Another loop uses it.
        """
        if self._is_closed:
            raise Closed("this table was closed")
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop and not self._loop.is_closed() and self._loop.is_running():
            raise RuntimeError("this table is used by another event loop: connect in each loop that uses one")
        if self._loop is not loop:
            self._let_go()
            self._loop, self._opening = loop, None
        if self._core is not None and not self._core.is_ours:
            # It is the parent's.
            self._core = None
        if self._core is None and self._had_one and not self.reconnects:
            raise ServerGone("the connection has ended")
        while self._core is None:
            if self._opening is not None:
                await asyncio.shield(self._opening)
                continue
            self._opening = loop.create_future()
            try:
                core = await loop.run_in_executor(None, LoopConnection, self.table)
                if self._is_closed:
                    raise Closed("this table was closed")
                self._core, self._descriptor = core, core.fileno()
                self._had_one = True
                loop.add_reader(self._descriptor, self._take)
            finally:
                opening, self._opening = self._opening, None
                if opening is not None:
                    opening.set_result(None)

    def close(self) -> None:
        """End the connection, and the calls that are on their way."""
        self._is_closed = True
        if self._core is not None:
            self._end(Closed("this table was closed"))

    def _schedule(self) -> None:
        if not self._is_scheduled and self._loop is not None:
            self._is_scheduled = True
            self._loop.call_soon(self._sleep)

    def _sleep(self) -> None:
        """Have the loop woken by what comes, or take what has come already."""
        self._is_scheduled = False
        core, loop = self._core, self._loop
        if core is None or loop is None:
            return
        try:
            armed = core.arm()
        except ServerGone as error:
            self._end(error)
            return
        if armed == 0:
            self._take()
        elif (armed == 2) != self._watches_for_room:
            self._watches_for_room = armed == 2
            if self._watches_for_room:
                loop.add_writer(self._descriptor, self._take)
            else:
                loop.remove_writer(self._descriptor)

    def _take(self) -> None:
        """Give each call what has come of it."""
        core = self._core
        if core is None:
            return
        try:
            is_busy = core.take()
        except ServerGone as error:
            self._end(error)
            return
        if is_busy:
            self._schedule()

    def _end(self, error: Exception) -> None:
        """Let all calls know, and let go of the connection: the next call makes another one."""
        core = self._core
        self._let_go()
        if core is not None:
            unsent = Unsent(f"{error}; nothing was sent to it") if isinstance(error, ServerGone) else error
            core.fail(error, unsent)

    def _let_go(self) -> None:
        loop, self._core = self._loop, None
        if self._descriptor >= 0 and loop is not None and not loop.is_closed():
            loop.remove_reader(self._descriptor)
            if self._watches_for_room:
                loop.remove_writer(self._descriptor)
        self._descriptor, self._watches_for_room, self._is_scheduled = -1, False, False
