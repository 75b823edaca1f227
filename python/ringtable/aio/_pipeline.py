"""Many commands in one round trip, for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ringtable._pipeline import without_errors

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ringtable._pipeline import Pipeline
    from ringtable._types import Argument, Key, Seconds
    from ringtable.aio._driver import Driver

_T = TypeVar("_T")


class AsyncPipeline(Generic[_T]):
    """Records commands, as `ringtable.Pipeline` does, and sends them all at once.

    async with table.pipeline() as pipeline:
        for word in words:
            pipeline.incr(word)
    print(pipeline.results)
    """

    def __init__(self, driver: Driver, commands: Pipeline[_T]) -> None:
        """Make a pipeline that records nothing yet; `AsyncTable.pipeline` does so."""
        self._driver = driver
        self._commands = commands
        self.results: list[Any] = []
        """What the last `execute` returned."""

    def get(self, key: Key) -> Self:
        """Record a read; its result is the value, or `None` where there is none."""
        self._commands.get(key)
        return self

    def get_with_version(self, key: Key) -> Self:
        """Record a read; its result is the value and its version, or `None` where there is none."""
        self._commands.get_with_version(key)
        return self

    def set(self, key: Key, value: Any, **options: Any) -> Self:
        """Record a write; its result is whether it was done. The options are those of `AsyncTable.set`."""
        self._commands.set(key, value, **options)
        return self

    def delete(self, *keys: Key) -> Self:
        """Record a deletion of any number of keys; its result is how many of them there were."""
        self._commands.delete(*keys)
        return self

    def exists(self, key: Key) -> Self:
        """Record a question; its result is whether there is such a key."""
        self._commands.exists(key)
        return self

    def incr(self, key: Key, by: Any = 1, **options: Any) -> Self:
        """Record an increment; its result is the sum, or `None` if it were out of bounds."""
        self._commands.incr(key, by, **options)
        return self

    def expire(self, key: Key, ttl: Seconds) -> Self:
        """Record that `key` shall be absent after `ttl`; its result is whether there is such a key."""
        self._commands.expire(key, ttl)
        return self

    def persist(self, key: Key) -> Self:
        """Record that `key` shall not expire any more; its result is whether it would have."""
        self._commands.persist(key)
        return self

    def get_and_delete(self, key: Key) -> Self:
        """Record a deletion; its result is the value that the key had, or `None` where there is none."""
        self._commands.get_and_delete(key)
        return self

    def get_and_expire(self, key: Key, ttl: Seconds | None) -> Self:
        """Record that `key` gets a new time to live, or none; its result is the value, or `None`."""
        self._commands.get_and_expire(key, ttl)
        return self

    def call(self, *arguments: Argument) -> Self:
        """Record anything that a server can be asked: a command's name and its arguments; its result is the reply."""
        self._commands.call(*arguments)
        return self

    async def execute(self, *, raise_errors: bool = True) -> list[Any]:
        """Send all that was recorded, wait for the replies and return the results; the pipeline is empty then.

        Args:
            raise_errors: Raise the first error, after every command was executed. Otherwise errors stand in the list in
                the place of results. Each has a note that says which command it was.
        """
        self.results = results = await self._driver.ask_all(self._commands)
        return without_errors(results) if raise_errors else results

    def __len__(self) -> int:
        return len(self._commands)

    def __repr__(self) -> str:
        return f"<ringtable.aio.AsyncPipeline of {len(self)} commands that are not sent yet>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.execute()
