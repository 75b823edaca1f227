"""Tables for asyncio: many tasks over one connection, that may be cancelled anywhere, and a loop that is never held."""

import asyncio
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Closed, Conflict, LockLost, NotAnInteger, NotOwned, ServerGone, Timeout, aio
from ringtable.aio import AsyncTable
from support import DEADLINE_S, Child, KeptServer, Successors, freeze, wait_until

Call = Callable[[AsyncTable[Any]], Awaitable[Any]]


@pytest.fixture
def server(ringtable_dir: Path) -> Iterator[ringtable.Server]:
    with ringtable.Server(workers=2, max_memory="64MiB") as server:
        yield server


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine, for a limited time."""

    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await main

    return asyncio.run(bounded())


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[AsyncTable[Any]]:
    async with await aio.connect(**options) as table:
        yield table


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until this holds, and let other tasks run meanwhile."""
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.001)


def test_smoke(server: ringtable.Server) -> None:
    async def main() -> None:
        async with await aio.connect() as table:
            assert await table.set("key", b"value")
            assert await table.get("key") == b"value"
            assert await table.incr("count") == 1
            assert await asyncio.gather(*(table.incr("count") for _ in range(100))) == list(range(2, 102))

    run(main())
    with ringtable.connect() as table:
        assert table["count"] == b"101"


@pytest.mark.parametrize("transport", ["lane", "socket"])
def test_calls_are_those_of_a_table(server: ringtable.Server, transport: str) -> None:
    async def main() -> None:
        table: AsyncTable[Any] = AsyncTable(ringtable.Table(transport=transport))  # type: ignore[arg-type]
        async with table:
            assert await table.get("key") is None
            assert await table.get("key", b"default") == b"default"
            assert await table.add("key", b"1", ttl=timedelta(seconds=60))
            assert not await table.add("key", b"2")
            assert not await table.set("key", b"2", nx=True)
            assert not await table.set("none", b"2", xx=True)
            assert 59 < (await table.ttl("key") or 0) <= 60
            assert await table.persist("key")
            assert await table.ttl("key") is None
            assert await table.expire("key", 60)
            with pytest.raises(KeyError):
                await table.ttl("none")
            found = await table.get_with_version("key")
            assert found is not None
            assert found[0] == b"1"
            assert await table.set("key", b"2", if_version=found[1])
            assert not await table.set("key", b"3", if_version=found[1])
            assert not await table.delete_if_version("key", found[1])
            assert await table.exists("key")
            assert await table.pop("key") == b"2"
            with pytest.raises(KeyError):
                await table.pop("key")
            assert await table.pop("key", None) is None
            await table.set_many({f"key {number}": b"%d" % number for number in range(3_000)}, ttl=100)
            keys = [f"key {number}" for number in range(3_000)]
            assert await table.get_many([*keys, "none"]) == [*(b"%d" % number for number in range(3_000)), None]
            assert await table.size() == 3_000
            assert len([key async for key in table.keys(prefix="")]) == 3_000
            assert {key async for key in table.keys(prefix="key 299")} == {
                b"key 299",
                *(b"key 299%d" % n for n in range(10)),
            }
            assert [pair async for pair in table.items(prefix="key 2999")] == [(b"key 2999", b"2999")]
            assert await table.delete_prefix("key 1") == 1_111
            assert await table.delete("key 2", "key 3", "none") == 2
            assert await table.get_and_expire("key 4", None) == b"4"
            assert await table.ttl("key 4") is None
            assert await table.get_and_delete("key 4") == b"4"
            assert await table.get_and_delete("key 4", b"default") == b"default"
            assert await table.incr("sum", 1.5) == 1.5
            assert await table.incr("bounded", 5, maximum=3) is None
            assert await table.update("sum", lambda value: value + b"0") == b"1.50"
            assert await table.update("sum", lambda value: None) is None
            with pytest.raises(NotAnInteger):
                await table.set("text", b"text") and await table.incr("text")
            with pytest.raises(TypeError):
                await table.set(1, b"")  # type: ignore[arg-type]
            with pytest.raises(ringtable.CommandError):
                await table.call("NONSENSE")
            assert (await table.stats())["entries"] == await table.size()
            await table.clear()
            assert await table.size() == 0

    run(main())


def test_values_may_be_objects_and_large(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected(codec="json") as table:
            assert await table.set("user", {"name": "Ada"})
            assert await table.get("user") == {"name": "Ada"}
            assert await table.get_many(["user", "none"]) == [{"name": "Ada"}, None]
            assert await table.pop("user") == {"name": "Ada"}
            assert [key async for key in table.keys(prefix="")] == []
        async with connected() as table:
            large = [bytes([number]) * 3_000_000 for number in range(8)]
            assert all(await asyncio.gather(*(table.set(f"large {n}", value) for n, value in enumerate(large))))
            assert await asyncio.gather(*(table.get(f"large {n}") for n in range(8))) == large

    run(main())


def test_a_pipeline_is_one_round_trip(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table:
            async with table.pipeline() as pipeline:
                pipeline.set("key", b"text").incr("count").get("key").exists("none").delete("key", "none")
                assert len(pipeline) == 5
            assert pipeline.results == [True, 1, b"text", False, 1]
            assert len(pipeline) == 0
            await table.set("key", b"text")
            pipeline.incr("key").incr("count")
            error, count = await pipeline.execute(raise_errors=False)
            assert isinstance(error, NotAnInteger)
            assert error.__notes__ == ["This was command 1 of 2 in a pipeline: 'INCRBY'"]
            assert count == 2
            with pytest.raises(NotAnInteger):
                await pipeline.incr("key").execute()
            assert await table.pipeline().execute() == []

    run(main())


def test_a_namespace_is_a_part_of_a_table(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table:
            await table.set("key", b"outside")
            part = table.namespace("part:")
            await part.set_many({f"key {number}": b"inside" for number in range(10)})
            assert await part.get("key 1") == await table.get("part:key 1") == b"inside"
            assert (await part.size(), await table.size()) == (10, 11)
            assert {key async for key in part.keys(prefix="key")} == {b"key %d" % number for number in range(10)}
            async with part.lock("lock"):
                assert await table.lock("lock").acquire(blocking=False), "it is another one"
            assert await part.get_or_set("made", _never) == await table.get("part:made") == b"made"
            await part.clear()
            assert await table.size() == 1
            await part.close()
            assert await table.get("key") == b"outside"

    run(main())


# Locks.


def test_a_lock_is_one_task_s_at_a_time(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table:
            inside = most = 0

            async def work() -> None:
                nonlocal inside, most
                async with table.lock("lock", timeout=DEADLINE_S):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0)
                    inside -= 1

            await asyncio.gather(*(work() for _ in range(50)))
            assert most == 1
            lock = table.lock("lock")
            assert await lock.acquire()
            assert lock.owned
            with pytest.raises(NotOwned):
                await lock.acquire()
            with ringtable.connect() as other:
                assert not other.lock("lock").acquire(blocking=False)
            assert not await table.lock("lock").acquire(blocking=False)
            assert not await table.lock("lock").acquire(timeout=0.01)
            with pytest.raises(Timeout):
                async with table.lock("lock", timeout=0.01):
                    pass
            assert await lock.locked()
            await lock.release()
            with pytest.raises(NotOwned):
                await lock.release()
            async with table.lock("lock", ttl=60) as mine:
                await mine.extend()
            assert (await table.stats())["locks"] == 0
            both = [table.semaphore("semaphore", 2) for _ in range(3)]
            assert [await one.acquire(blocking=False) for one in both] == [True, True, False]

    run(main())


def test_a_lock_that_was_lost_says_so(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table:
            lock = table.lock("lock", ttl=0.01)
            assert await lock.acquire()
            assert await table.lock("lock").acquire(timeout=DEADLINE_S), "its time is over"
            with pytest.raises(LockLost):
                await lock.release()

    run(main())


def test_an_event_is_waited_for(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table, connected() as other:
            event = table.event("ready")
            assert not await event.is_set()
            assert not await event.wait(timeout=0.01)
            waiting = [asyncio.create_task(one.event("ready").wait()) for one in (table, other) for _ in range(10)]

            async def all_wait() -> bool:
                return (await other.stats())["lease_waiters"] == 20

            await until(all_wait, "they wait")
            with ringtable.connect() as plain:
                await asyncio.to_thread(plain.event("ready").set)
                assert await asyncio.gather(*waiting) == 20 * [True]
                await event.clear()
                assert not plain.event("ready").is_set()
            await event.set()
            assert await event.wait()

            async def nobody_waits() -> bool:
                return (await other.stats())["lease_waiters"] == 0

            await until(nobody_waits, "nobody waits")

    run(main())


def test_a_rate_limiter_counts_with_others(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table:
            limit = table.rate_limiter("5/day")
            allowed = await asyncio.gather(*(limit("10.0.0.7") for _ in range(3)))
            assert [bool(one) for one in allowed] == 3 * [True]
            with ringtable.connect() as plain:
                assert plain.rate_limiter("5/day")("10.0.0.7").remaining == 1
            assert (await limit(b"10.0.0.7")).remaining == 0
            refused = await limit("10.0.0.7")
            assert not refused
            assert 0 < refused.retry_after <= 86_400
            assert await limit("10.0.0.8", cost=5)
            with pytest.raises(ringtable.InvalidOption):
                table.rate_limiter("5/fortnight")

    run(main())


# Values that one task computes.


def test_one_task_computes_for_all(server: ringtable.Server) -> None:
    async def main() -> None:
        computed = 0

        async def make() -> bytes:
            nonlocal computed
            computed += 1
            await asyncio.sleep(0.01)
            return b"made"

        async with connected() as table, connected() as other:
            both = [one.get_or_set("key", make, 60) for one in (table, other) for _ in range(100)]
            assert set(await asyncio.gather(*both)) == {b"made"}
            assert computed == 1
            assert 59 < (await table.ttl("key") or 0) <= 60
            assert (await table.stats())["leases"] == 0

    run(main())


def test_if_computing_fails_the_next_one_computes(server: ringtable.Server) -> None:
    async def main() -> None:
        calls = 0

        async def make() -> bytes:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0)
            if calls < 3:
                raise ZeroDivisionError
            return b"made"

        async with connected() as table, connected() as other:
            both = [one.get_or_set("key", make) for one in (table, other) for _ in range(10)]
            outcomes = await asyncio.gather(*both, return_exceptions=True)
            assert sum(isinstance(outcome, ZeroDivisionError) for outcome in outcomes) == 2
            assert outcomes.count(b"made") == 18
            assert (await table.stats())["leases"] == 0

    run(main())


# Faults.


async def _hold_then_release(table: AsyncTable[Any]) -> None:
    async with table.lock("lock"):
        await asyncio.sleep(0)


async def _never() -> bytes:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return b"made"


CALLS: dict[str, Call] = {
    "set": lambda table: table.set("key", b"value"),
    "large": lambda table: table.set("large", bytes(2_000_000)),
    "incr": lambda table: table.incr("count"),
    "set_many": lambda table: table.set_many({f"key {number}": b"" for number in range(2_500)}),
    "update": lambda table: table.update("key", lambda value: b"value"),
    "pipeline": lambda table: table.pipeline().incr("count").get("key").execute(),
    "lock": _hold_then_release,
    "get_or_set": lambda table: table.get_or_set("made", _never),
    "event": lambda table: table.event("never").wait(timeout=0.001),
    "limit": lambda table: table.rate_limiter("5/s")("key"),
    "stats": lambda table: table.stats(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_may_be_cancelled_anywhere(server: ringtable.Server, name: str) -> None:
    async def main() -> None:
        async with connected() as table:
            for steps in range(12):
                for is_contended in (False, True):
                    others = [asyncio.ensure_future(CALLS[name](table)) for _ in range(3 * is_contended)]
                    task = asyncio.ensure_future(CALLS[name](table))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                    await asyncio.gather(*others)
                    await table.delete("made")
            # It goes on, and has nothing of theirs.
            assert await table.set("key", b"value")
            assert await table.get("key") == b"value"

            async def all_is_free() -> bool:
                figures = await table.stats()
                return not (figures["locks"] or figures["leases"] or figures["lease_waiters"])

            await until(all_is_free, "nothing is held")

    run(main())


def test_who_waits_may_be_cancelled(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table, connected() as other:
            async with other.lock("lock"):
                waiting = [asyncio.create_task(table.lock("lock").acquire()) for _ in range(10)]

                async def all_wait() -> bool:
                    return (await other.stats())["lease_waiters"] == 10

                await until(all_wait, "they wait")
                for task in waiting[:9]:
                    task.cancel()
                await asyncio.gather(*waiting[:9], return_exceptions=True)
            assert await waiting[9], "the one that is left has it"

            async def nobody_waits() -> bool:
                return (await other.stats())["lease_waiters"] == 0

            await until(nobody_waits, "nobody waits")

    run(main())


def test_the_loop_goes_on_while_the_server_stands(ringtable_dir: Path) -> None:
    async def main(servers: Successors) -> None:
        async with connected() as table:
            assert await table.set("key", b"value")
            freeze(servers.pid)
            writes = [asyncio.create_task(table.set(f"key {number}", bytes(1_000))) for number in range(1_000)]
            longest, last = 0.0, time.monotonic()
            for _ in range(200):
                await asyncio.sleep(0.001)
                now = time.monotonic()
                longest, last = max(longest, now - last), now
                # In place, it needs no server.
                assert await table.get("key") == b"value"
            assert not any(task.done() for task in writes[-100:])
            os.kill(servers.pid, signal.SIGCONT)
            assert all(await asyncio.gather(*writes))
            assert longest < DEADLINE_S / 10

    with Successors() as servers:
        run(main(servers))


def test_a_call_has_the_time_out_of_its_table(ringtable_dir: Path) -> None:
    async def main(servers: Successors) -> None:
        async with connected(timeout=0.05) as table:
            freeze(servers.pid)
            with pytest.raises(Timeout, match=r"no answer within 0.05 s .* a write may still be done"):
                await table.set("key", b"value")
            os.kill(servers.pid, signal.SIGCONT)

            async def is_there() -> bool:
                return bool(await table.get("key") == b"value")

            await until(is_there, "it was done")

    with Successors() as servers:
        run(main(servers))


def test_a_server_that_dies_ends_calls_and_the_next_ones_go_on(ringtable_dir: Path) -> None:
    async def main(servers: Successors) -> None:
        async with connected(wait=DEADLINE_S) as table:
            assert await table.set("key", b"value")
            freeze(servers.pid)
            calls = [asyncio.create_task(table.incr("count")) for _ in range(100)]
            waiting = asyncio.create_task(table.lock("lock").acquire())
            await asyncio.sleep(0)
            servers.replace()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(outcome, ServerGone) for outcome in outcomes)
            assert await waiting, "the next one has it for the asking"
            assert await table.incr("count") == 1

            async def is_new() -> bool:
                return await table.get("key") is None

            await until(is_new, "reads in place have come to it, too")

    with Successors() as servers:
        run(main(servers))


def test_with_a_keeper_nobody_notices(ringtable_dir: Path) -> None:
    async def main(kept: KeptServer) -> None:
        async with connected() as table:
            async with table.lock("lock"):
                waiting = [asyncio.create_task(_hold_then_release(table)) for _ in range(3)]
                for _ in range(3):
                    calls = [asyncio.create_task(table.incr("count")) for _ in range(200)]
                    await asyncio.sleep(0)
                    await asyncio.to_thread(kept.kill_server)
                    await asyncio.gather(*calls)
            await asyncio.gather(*waiting)
            assert await table.get("count") == b"600"

    with KeptServer() as kept:
        run(main(kept))


def test_a_table_is_one_loop_s(server: ringtable.Server) -> None:
    async def use(table: AsyncTable[Any]) -> int:
        return int(await table.incr("count"))

    async def main() -> AsyncTable[Any]:
        table = await aio.connect()
        assert await use(table) == 1
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, use(table))
        assert await use(table) == 2
        # Threads use the table itself.
        assert await asyncio.to_thread(table.table.incr, "count") == 3
        # It is left open with a call on its way.
        asyncio.ensure_future(table.incr("count"))  # noqa: RUF006
        return table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        table = asyncio.run(main())
    # The loop is closed: another one may use it.
    assert run(use(table)) in (4, 5)
    table.close_now()
    with pytest.raises(Closed):
        run(use(table))
    gc.collect()


def test_a_forked_child_connects_anew(server: ringtable.Server) -> None:
    async def count(table: AsyncTable[Any]) -> int:
        return int(await table.incr("count"))

    table = asyncio.run(aio.connect())
    assert asyncio.run(count(table)) == 1

    def in_child() -> int:
        return asyncio.run(count(table))

    with Child(in_child) as child:
        assert child.result() == 2
    assert asyncio.run(count(table)) == 3
    table.close_now()


def test_closing_right_behind_a_call_is_silent(server: ringtable.Server, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for number in range(20):
            async with connected() as table:
                assert await table.get_or_set(f"key {number}", _never) == b"made"

    run(main())
    gc.collect()
    assert caplog.records == []


def test_closing_ends_calls_that_are_on_their_way(ringtable_dir: Path) -> None:
    async def main(servers: Successors) -> None:
        table = await aio.connect()
        freeze(servers.pid)
        calls = [asyncio.create_task(table.incr("count")) for _ in range(10)]
        await asyncio.sleep(0)
        await table.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, Closed) for outcome in outcomes)
        with pytest.raises(Closed):
            await table.incr("count")
        os.kill(servers.pid, signal.SIGCONT)

    with Successors() as servers:
        run(main(servers))


def test_update_gives_up_in_the_end(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table:

            def changed(value: bytes | None) -> bytes:
                table.table["key"] = b"others"
                return b"mine"

            with pytest.raises(Conflict):
                await table.update("key", changed, retries=3)

    run(main())


def test_threads_and_the_loop_use_one_table(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected() as table:
            stop = threading.Event()
            counted = 0

            def count_on() -> None:
                nonlocal counted
                while not stop.is_set():
                    table.table.incr("count")
                    counted += 1

            thread = threading.Thread(target=count_on)
            thread.start()
            for _ in range(20):
                await asyncio.gather(*(table.incr("count") for _ in range(50)))
            stop.set()
            await asyncio.to_thread(thread.join)
            assert int(await table.get("count")) == 1_000 + counted

    run(main())


def test_who_waits_for_a_value_sees_an_array(server: ringtable.Server) -> None:
    async def main() -> None:
        async with connected(codec="pickle") as table:
            assert not await table._leases._is_there("array")
            await table.set("array", numpy.zeros(2))
            assert await table._leases._is_there("array")

    numpy = pytest.importorskip("numpy")
    run(main())


def test_a_server_is_started_if_there_is_none(ringtable_dir: Path) -> None:
    async def main() -> int:
        async with await aio.open("opened", linger=0.5) as table:
            assert await table.set("key", b"value")
            return int((await table.stats())["process_id"])

    pid = run(main())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it ends by itself")
    with pytest.raises(TypeError, match="writes is not for asyncio"):
        run(aio.connect(writes="posted"))
