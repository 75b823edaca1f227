"""Many commands in one round trip."""

from __future__ import annotations

from ringtable._ringtable import Pipeline as PipelineCore
from ringtable._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from typing_extensions import TypeVar

    from ringtable._ringtable import Table as TableCore

    _T = TypeVar("_T", default=bytes)


def without_errors(results: list[Any]) -> list[Any]:
    """The same results.

    Raises:
        Exception: The first error that is among them.
    """
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


class Pipeline(PipelineCore["_T"]):
    """Records commands, sends them all at once, and returns their results in the order of the commands.

    The commands are executed one after the other, but not as a transaction: other clients' commands may come between
    them, and an error in one does not keep the others from being executed. What is wrong with an argument is raised by
    the recording method, as the table's own method would raise it, and records nothing. Each recording method returns
    the pipeline, so that calls can be chained. As a context manager it executes at the end of the block, unless the
    block raised; the results are in `results` then. A pipeline is for one thread.

        with table.pipeline() as pipeline:
            for word in words:
                pipeline.incr(word)
    """

    def __init__(self, table: TableCore[_T]) -> None:
        """Make a pipeline that records nothing yet; `Table.pipeline` does so."""
        self.results: list[Any] = []
        """What the last `execute` returned."""

    def execute(self, *, raise_errors: bool = True) -> list[Any]:
        """Send all that was recorded, wait for the replies and return the results; the pipeline is empty then.

        Args:
            raise_errors: Raise the first error, after every command was executed. Otherwise errors stand in the list
                in the place of results. Each has a note that says which command it was.
        """
        self.results = results = self._send()
        return without_errors(results) if raise_errors else results

    def _finished(self, results: list[Any]) -> list[Any]:
        """Results as the caller gets them, of those that the server has."""
        return results

    def __repr__(self) -> str:
        return f"<ringtable.{type(self).__name__} of {len(self)} commands that are not sent yet>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.execute()
