"""Coroutines whose results all processes share: the half of `memoize` that knows event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ringtable._errors import Reentrant, Timeout
from ringtable._tools import values

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore


class _Computation:
    """A result that is computed, and what is computed that wants it.

    Tasks that it starts inherit it, and may outlive it: so it says when it is over.
    """

    def __init__(self, name: bytes, outer: _Computation | None) -> None:
        self.name, self.outer, self.is_over = name, outer, False


# What the task computes now.
_COMPUTING: ContextVar[_Computation | None] = ContextVar("computing", default=None)


def _is_computed_for(name: bytes) -> bool:
    """Whether the task is part of computing that result, which is not over."""
    computation = _COMPUTING.get()
    while computation is not None:
        if computation.name == name and not computation.is_over:
            return True
        computation = computation.outer
    return False


def shared(
    table: TableCore[Any],
    function: Callable[..., Coroutine[Any, Any, Any]],
    key_for: Callable[..., bytes],
    ask: Callable[[bytes, Callable[[], bytes]], tuple[bytes, Any]],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The coroutine function that asks for the result, and computes it if it is its turn."""
    # The results that are on their way, as bytes, by key, of each loop.
    on_their_way: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bytes, asyncio.Future[bytes]]] = WeakKeyDictionary()

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        loop, name = asyncio.get_running_loop(), key_for(*args, **kwargs)
        if _is_computed_for(name):
            raise Reentrant("this task computes the result of the same call already, and would wait for itself")
        results = on_their_way.setdefault(loop, {})
        # Who waits for what another task computes waits as for another process.
        limit = table.timeout
        if name not in results:
            limit = None
            results[name] = future = loop.create_future()
            future.add_done_callback(lambda _: results.pop(name, None))
            # Nobody may be there any more to take what it raises.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            computation = _Computation(name, _COMPUTING.get())
            context = copy_context()
            context.run(_COMPUTING.set, computation)

            def make() -> bytes:
                """On the thread: have the loop run the coroutine, and wait for it."""
                computed: list[Any] = []
                done = threading.Event()

                async def run() -> None:
                    try:
                        computed.append(await function(*args, **kwargs))
                    except BaseException as error:
                        computed.extend((None, error))
                    finally:
                        computation.is_over = True
                        done.set()

                tasks: list[asyncio.Task[None]] = []
                loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(run(), context=context)))
                while not done.wait(0.1):
                    if loop.is_closed():
                        raise RuntimeError("the event loop was closed while it computed a result")
                if len(computed) > 1:
                    raise computed[1]
                return values.dumps(computed[0])

            def wait() -> None:
                try:
                    outcome: Any = (future.set_result, ask(name, make)[0])
                except BaseException as error:
                    outcome = (future.set_exception, _raisable(error))
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_finish, future, *outcome)

            # Not a pool's: those who wait for others would take the threads that computing needs.
            try:
                threading.Thread(target=wait, name="ringtable-memoize", daemon=True).start()
            except BaseException as error:
                # The system has none left, or no memory. The next call tries again.
                future.set_exception(error)
        result = results[name]
        # A caller that is cancelled, or gives up, leaves it to the others. An object is each caller's own, to change.
        await asyncio.wait((result,), timeout=limit)
        if not result.done():
            raise Timeout(f"another task did not compute {name.decode(errors='replace')!r} within {limit} s")
        return values.loads(name, result.result())

    return wrapper


def _raisable(error: BaseException) -> BaseException:
    """What a coroutine may raise in its stead: a `StopIteration` would be its end."""
    if not isinstance(error, StopIteration):
        return error
    raisable = RuntimeError(f"computing a result raised {error!r}")
    raisable.__cause__ = error
    return raisable


def _finish(future: asyncio.Future[Any], finish: Callable[[Any], None], outcome: Any) -> None:
    if not future.done():
        finish(outcome)
