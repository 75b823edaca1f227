"""Many commands in one round trip."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ringtable._ringtable import TableCore
    from ringtable._types import Argument, Key, Reply

_MILLISECONDS_PER_SECOND = 1000


class Pipeline:
    """Records commands, sends them all at once, and returns their results in the order of the commands.

    The commands are executed one after the other, but not as a transaction: other clients' commands may come between
    them, and an error in one does not keep the others from being executed. Each recording method returns the pipeline,
    so that calls can be chained. As a context manager it executes at the end of the block, unless the block raised; the
    results are in `results` then. A pipeline is for one thread.

        with table.pipeline() as pipeline:
            for word in words:
                pipeline.incr(word)
    """

    def __init__(self, table: TableCore) -> None:
        self._table = table
        self._commands: list[tuple[Argument, ...]] = []
        # By the number of the command: what makes a reply the result, where that is not the reply itself.
        self._converters: dict[int, Callable[[Any], Any]] = {}
        self.results: list[Any] = []
        """What the last `execute` returned."""

    def __len__(self) -> int:
        """The number of commands recorded since the last `execute`."""
        return len(self._commands)

    def get(self, key: Key) -> Self:
        """Record a read; its result is the value, or `None` where there is none."""
        self._commands.append(("GET", key))
        return self

    def get_with_version(self, key: Key) -> Self:
        """Record a read; its result is the value and its version, or `None` where there is none."""
        return self._record(_versioned, "RING.GETV", key)

    def set(
        self,
        key: Key,
        value: Buffer,
        *,
        ttl: float | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
    ) -> Self:
        """Record a write; its result is whether the value was written.

        Args:
            key: The key, at most 65,535 bytes.
            value: The value, at most 512 MiB.
            ttl: Seconds after which the entry is gone; `None` for never.
            nx: Write only if the key is absent.
            xx: Write only if the key is present.
            if_version: Write only if the key still has this version; 0 for one that is absent.
        """
        options: list[str | int] = []
        if ttl is not None:
            options += ("PX", _milliseconds(ttl))
        if nx:
            options.append("NX")
        if xx:
            options.append("XX")
        if if_version is not None:
            options += ("IFVERSION", if_version)
        return self._record(_is_ok, "SET", key, value, *options)

    def delete(self, *keys: Key) -> Self:
        """Record a deletion; its result is how many of the keys were present."""
        self._commands.append(("DEL", *keys))
        return self

    def exists(self, key: Key) -> Self:
        """Record a question; its result is whether the key is present."""
        return self._record(bool, "EXISTS", key)

    def incr(
        self,
        key: Key,
        by: int = 1,
        *,
        ttl_if_new: float | None = None,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> Self:
        """Record an increment of an integer, 0 where the key is absent; its result is the sum.

        Args:
            key: The key, at most 65,535 bytes.
            by: What to add.
            ttl_if_new: Seconds after which the entry is gone, if the key was absent.
            minimum: The least sum; below it nothing changes, and the result is `None`.
            maximum: The largest sum, likewise.
        """
        options: list[str | int] = []
        if ttl_if_new is not None:
            options += ("PX", _milliseconds(ttl_if_new))
        if minimum is not None:
            options += ("MIN", minimum)
        if maximum is not None:
            options += ("MAX", maximum)
        if options:
            self._commands.append(("RING.INCR", key, by, *options))
        else:
            self._commands.append(("INCRBY", key, by))
        return self

    def expire(self, key: Key, ttl: float) -> Self:
        """Record that the entry shall be gone after `ttl` seconds; its result is whether the key is present."""
        return self._record(bool, "PEXPIRE", key, _milliseconds(ttl))

    def read_bucket(self, key: Key) -> Self:
        """Record a read of the bucket that the key falls in; its result is a list of pairs of key and value."""
        return self._record(_pairs, "RING.BUCKET", key)

    def call(self, *arguments: Argument) -> Self:
        """Record any command of the server by its name; its result is the reply as it comes."""
        self._commands.append(arguments)
        return self

    def execute(self, *, raise_errors: bool = True) -> list[Any]:
        """Send all that was recorded, wait for the replies and return the results; the pipeline is empty then.

        Args:
            raise_errors: Raise the first error, after every command was executed, with a note that says which command
                it was. Otherwise errors stand in the list in the place of results.
        """
        commands, self._commands = self._commands, []
        converters, self._converters = self._converters, {}
        results: list[Any] = self._table.call_many(commands) if commands else []
        for index, convert in converters.items():
            if not isinstance(results[index], Exception):
                results[index] = convert(results[index])
        self.results = results
        if raise_errors:
            for index, result in enumerate(results):
                if isinstance(result, Exception):
                    result.add_note(
                        f"This was command {index + 1} of {len(commands)} in a pipeline: {commands[index][0]!r}"
                    )
                    raise result
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.execute()

    def _record(self, convert: Callable[[Any], Any], *command: Argument) -> Self:
        """Record a command whose reply has to be converted."""
        self._converters[len(self._commands)] = convert
        self._commands.append(command)
        return self


def _is_ok(reply: Reply) -> bool:
    return reply is not None


def _versioned(reply: list[Any] | None) -> tuple[bytes, int] | None:
    return None if reply is None else (reply[0], reply[1])


def _pairs(reply: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(reply[::2], reply[1::2], strict=True))


def _milliseconds(seconds: float) -> int:
    return round(seconds * _MILLISECONDS_PER_SECOND)
