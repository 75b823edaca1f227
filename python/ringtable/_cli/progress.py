"""A bar that shows how far a command has come, where somebody looks at standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def shown_progress(done: str, what: str = "entries") -> Iterator[Callable[[int, int, int], object] | None]:
    """Show a bar of entries until the end of the block, which gets what to tell the progress; `None` if nobody looks.

    Args:
        done: What has been done to them, in a word.
        what: What they are.
    """
    if not sys.stderr.isatty():
        yield None
        return
    # Imported only here: most commands, and most uses of these, show nothing.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(f"{{task.fields[entries]:,}} {what} {{task.description}}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[size]}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(done, total=None, entries=0, size="")

        def tell(entries: int, of: int, size: int) -> None:
            # There may be more than there were at the beginning.
            bar.update(
                task, completed=entries, total=max(entries, of) or None, entries=entries, size=f"{size >> 20} MiB"
            )

        yield tell
