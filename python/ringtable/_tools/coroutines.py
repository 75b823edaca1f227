"""Coroutines whose results all processes share: the half of `memoize` that knows event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any
from weakref import WeakKeyDictionary

from ringtable._errors import Reentrant
from ringtable._tools import values

# What the task, and those that wait for it, compute now.
_COMPUTING: ContextVar[frozenset[bytes]] = ContextVar("computing", default=frozenset())


def shared(
    function: Callable[..., Coroutine[Any, Any, Any]],
    key_for: Callable[..., bytes],
    ask: Callable[[bytes, Callable[[], bytes]], tuple[bytes, Any]],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The coroutine function that asks for the result, and computes it if it is its turn."""
    # The results that are on their way, as bytes, by key, of each loop.
    on_their_way: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bytes, asyncio.Future[bytes]]] = WeakKeyDictionary()

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        loop, name = asyncio.get_running_loop(), key_for(*args, **kwargs)
        if name in _COMPUTING.get():
            raise Reentrant("this task computes the result of the same call already, and would wait for itself")
        results = on_their_way.setdefault(loop, {})
        if name not in results:
            results[name] = future = loop.create_future()
            future.add_done_callback(lambda _: results.pop(name, None))
            # Nobody may be there any more to take what it raises.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            context = copy_context()
            context.run(_COMPUTING.set, _COMPUTING.get() | {name})

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
                    outcome = (future.set_exception, error)
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_finish, future, *outcome)

            # Not a pool's: those who wait for others would take the threads that computing needs.
            threading.Thread(target=wait, name="ringtable-memoize", daemon=True).start()
        # A caller that is cancelled leaves it to the others. An object is each caller's own, to change.
        return values.loads(name, await asyncio.shield(results[name]))

    return wrapper


def _finish(future: asyncio.Future[Any], finish: Callable[[Any], None], outcome: Any) -> None:
    if not future.done():
        finish(outcome)
