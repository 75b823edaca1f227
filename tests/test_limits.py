"""Rate limiters: never more than the rate, whoever dies; and results that processes share."""

import asyncio
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
import ringtable
from ringtable import InvalidOption, Reentrant, Table, Timeout
from ringtable._tools.limiter import parse
from support import DEADLINE_S, Child, Flag, ServerProcess, connect_in, wait_until

ALGORITHMS: dict[Literal["fixed", "sliding"], int] = {"fixed": 1, "sliding": 0}
"""With how many are left of two a period after both were used, and one more."""


def test_smoke(server: ringtable.Server) -> None:
    with Table() as table:
        for algorithm in ALGORITHMS:
            limit = table.rate_limiter("3/hour", algorithm=algorithm)
            allowed = [limit("ip") for _ in range(5)]
            assert [bool(one) for one in allowed] == [True, True, True, False, False]
            assert [one.remaining for one in allowed] == [2, 1, 0, 0, 0]
            assert allowed[0].retry_after == 0.0
            assert 0.0 < allowed[3].retry_after <= 3_600.0
            assert limit("another")


def test_limits_hold_over_each_transport(table: Table) -> None:
    for algorithm in ALGORITHMS:
        limit = table.rate_limiter("10/hour", algorithm=algorithm)
        assert limit("ip", 4)
        assert limit("ip", cost=6).remaining == 0
        refused = limit("ip")
        assert not refused.allowed
        with pytest.raises(ringtable.CommandError, match="11 at once are never within"):
            limit("ip", 11)
        with pytest.raises(InvalidOption, match="cost is 0"):
            limit("ip", 0)


def test_a_window_and_a_slide_free_what_was_used(server: ringtable.Server) -> None:
    """The server says after how long to ask again, and then it is so."""
    with Table() as table:
        for algorithm, expected in ALGORITHMS.items():
            limit = table.rate_limiter("2/s", algorithm=algorithm)
            assert limit("ip", 2)
            # What is slow here has some freed meanwhile.
            while refused := limit("ip"):
                pass
            time.sleep(refused.retry_after)
            allowed = limit("ip")
            assert allowed
            assert allowed.remaining >= expected


def test_processes_together_get_what_the_rate_says_whoever_is_killed(server_process: ServerProcess, seed: int) -> None:
    """What is let through is counted by the processes in a table key, one step behind the limiter."""
    generator = Random(seed)
    with Table() as table, ExitStack() as stack, Flag() as begun:

        def work(number: int) -> None:
            with Table() as theirs:
                limits = [theirs.rate_limiter("200/hour", algorithm=algorithm) for algorithm in ALGORITHMS]
                begun.set()
                while True:
                    for index, limit in enumerate(limits):
                        if limit("ip"):
                            theirs.incr(f"through {index}")

        children = [stack.enter_context(Child(work, number)) for number in range(4)]
        begun.wait()
        for child in children[:3]:
            time.sleep(generator.random() / 100)
            child.kill()
        limits = [table.rate_limiter("200/hour", algorithm=algorithm) for algorithm in ALGORITHMS]
        wait_until(lambda: not any(limit("ip", 2) for limit in limits), "all is used")
        children[3].kill()
        for index in range(2):
            assert int(table.get(f"through {index}", b"0")) <= 200


def test_a_state_is_never_evicted_and_goes_by_itself(ringtable_dir: object) -> None:
    with ringtable.Server(max_memory="8MiB", cache=True), Table() as table:
        limit = table.rate_limiter("1/hour")
        assert limit("ip")
        for number in range(200):
            table[f"page {number}"] = bytes(100_000)
        assert "page 0" not in table
        assert not limit("ip")
        key = next(key for key in table if key.startswith(b"limit:"))
        assert 3_600.0 - 60.0 < (table.ttl(key) or 0.0) < 3_600.0 + 60.0
        # A key that holds something else is left alone.
        table[key] = b"something else"
        with pytest.raises(ringtable.CommandError, match="no state of a limiter"):
            limit("ip")


def test_rates_are_read_strictly() -> None:
    second = 10**9
    for rate, expected in {
        "100/minute": (100, 60 * second),
        "5/s": (5, second),
        "5/seconds": (5, second),
        "1000/15m": (1_000, 900 * second),
        " 7 / 2 hours ": (7, 7_200 * second),
        "1/day": (1, 86_400 * second),
        "30/min": (30, 60 * second),
        "1/10d": (1, 864_000 * second),
        "5/100ms": (5, second // 10),
        "100 per minute": (100, 60 * second),
        "1 per 2 hours": (1, 7_200 * second),
    }.items():
        assert parse(rate) == expected, rate
    wrong_units = ("1/fortnight", "1/hs", "1/ss", "1/ds", "1/minutess", "1 perminute", "1per minute", "1 per /s")
    wrong_numbers = ("-1/s", "0/s", "1.5/s", "1/0s", "1/999d", f"{1 << 33}/s")
    for wrong in ("", "100", "100/", "/s", "per s", *wrong_units, *wrong_numbers):
        with pytest.raises(InvalidOption):
            parse(wrong)
    for method in ("windows", None):
        with pytest.raises(InvalidOption, match="algorithm is"), ringtable.Server("one"), Table("one") as table:
            table.rate_limiter("1/s", algorithm=method)  # type: ignore[arg-type]


def test_names_and_keys_do_not_run_together(server: ringtable.Server) -> None:
    with Table() as table:
        limits = [table.rate_limiter("1/hour", name=name) for name in ("x", "x:fixed:1/3600000000000:")]
        assert limits[0](":fixed:1/3600000000000:y")
        assert limits[1]("y")
        names = ["f", "f:1", "f:1:"]
        keys = set()
        for name in names:

            def function(key: str) -> str:
                return key

            function.__qualname__ = name
            memoized: Any = table.memoize(key=str)(function)
            keys |= {memoized.__cache_key__(end) for end in ("", "1", ":1", "1:", ":1:", "1::")}
        assert len(keys) == 18


# Memoized functions


def test_a_result_is_computed_once_among_processes(server_process: ServerProcess) -> None:
    with Table() as table, ExitStack() as stack, Flag() as computing, Flag() as go_on:

        def work() -> dict[str, int]:
            with Table() as theirs:

                @theirs.memoize(ttl=60, key=lambda number: f"square {number}")
                def square(number: int) -> dict[str, int]:
                    theirs.incr("computed")
                    computing.set()
                    go_on.wait()
                    return {"square": number * number}

                return square(7)

        children = [stack.enter_context(Child(work)) for _ in range(4)]
        computing.wait()
        wait_until(lambda: table.stats()["lease_waiters"] == 3, "the others wait")
        go_on.set()
        assert [child.result() for child in children] == [{"square": 49}] * 4
        assert table["computed"] == b"1"


CALLS: list[Any] = []
"""What the functions of a test were called with."""


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def test_keys_tell_arguments_apart(server: ringtable.Server) -> None:
    with Table() as table:

        @table.memoize()
        def name(*args: object, **kwargs: object) -> str:
            """Names its arguments."""
            CALLS.append((args, kwargs))
            return repr((args, kwargs))

        key = name.__cache_key__  # type: ignore[attr-defined]
        # Equal, though not the same objects, nor in the same order.
        long, other = "a long string", "".join(["a long ", "string"])
        assert key(long, long) == key(long, other)
        assert key({"a", "b", "c"}, {"x": 1, "y": 2}) == key({"c", "b", "a"}, {"y": 2, "x": 1})
        assert key(a=1, b=2) == key(b=2, a=1)
        different = [key(), key(1), key("1"), key(1.0), key(True), key([1]), key((1,)), key(x=1), key({1}), key(None)]
        assert len(set(different)) == len(different)
        assert name(1, b=2) == name(1, b=2) == "((1,), {'b': 2})"
        assert len(CALLS) == 1
        assert (name.__name__, name.__doc__) == ("name", "Names its arguments.")
        del table[key(1, b=2)]
        name(1, b=2)
        assert len(CALLS) == 2
        with pytest.raises(TypeError, match="give memoize a function key="):
            name(threading.Lock())
        with pytest.raises(InvalidOption, match="without ttl"):
            table.memoize(stale=1)
        with pytest.raises(InvalidOption, match="stale is -1"):
            table.memoize(ttl=1, stale=-1)
        with pytest.raises(TypeError, match="memoize's key= makes str or bytes, not int"):
            table.memoize(key=len)(len)([])  # type: ignore[arg-type]


def test_deep_recursion_is_no_fault_of_the_arguments(server: ringtable.Server) -> None:
    def descend(number: int) -> int:
        return descend(number + 1)

    with Table() as table:
        descend = table.memoize(key=str)(descend)
        with pytest.raises(RecursionError):
            descend(1)


def test_functions_that_their_name_does_not_tell_apart_need_a_key(server: ringtable.Server) -> None:
    """They shared their results in silence."""

    def times(factor: int) -> Callable[[int], int]:
        return lambda number: factor * number

    def by(factor: int) -> Callable[[int], int]:
        def multiply(number: int) -> int:
            return factor * number

        return multiply

    def logged(function: Callable[[int], int]) -> Callable[[int], int]:
        @functools.wraps(function)
        def wrapper(number: int) -> int:
            return function(number)

        return wrapper

    with Table() as table:
        for function, why in ((times(2), "has no name of its own"), (by(2), "is a closure")):
            with pytest.raises(TypeError, match=f"{why}.* give memoize a function key="):
                table.memoize(function)
        results = [table.memoize(key=lambda number, by=factor: f"{by} {number}")(by(factor))(5) for factor in (2, 3)]
        assert results == [10, 15]
        # A decorator's wrapper has the name of what it wraps.
        assert table.memoize(logged(abs))(-5) == 5


@dataclass
class Renamed:
    """A class that a program has no longer."""

    number: int


def test_what_cannot_be_unpickled_any_more_is_computed_anew(
    server: ringtable.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Table() as table:
        CALLS.extend((Renamed(1), "new", "newer"))

        @table.memoize()
        def result() -> object:
            return CALLS.pop(0)

        @table.memoize(key=lambda: "key")
        async def later() -> object:
            return CALLS.pop(0)

        assert result() == Renamed(1)
        table[later.__cache_key__()] = table[result.__cache_key__()]  # type: ignore[attr-defined]
        monkeypatch.delattr(sys.modules[__name__], "Renamed")
        assert [result(), result()] == ["new", "new"]
        assert [asyncio.run(later()), asyncio.run(later())] == ["newer", "newer"]


class Unreadable:
    """It can be pickled, and not be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def test_what_can_never_be_unpickled_raises(server: ringtable.Server) -> None:
    with Table() as table:
        with pytest.raises(ringtable.DecodeError, match="no number") as caught:
            table.memoize()(unreadable)()
        assert caught.value.codec == "pickle"


def unreadable() -> object:
    return Unreadable()


class Adder:
    """It can be called, and has no name."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, number: int) -> int:
        return self._number + number


def test_what_has_no_name_needs_a_key(server: ringtable.Server) -> None:
    with Table() as table:
        for nameless in (functools.partial(max, 5), Adder(5)):
            with pytest.raises(TypeError, match=r"(partial|Adder) has no name .* key="):
                table.memoize()(nameless)
        with pytest.raises(TypeError, match="for functions, not for int"):
            table.memoize()(5)  # type: ignore[type-var]
        assert table.memoize(key=lambda number: f"5 + {number}")(Adder(5))(2) == 7
        assert table.memoize(key=lambda number: f"6 + {number}")(Adder(6))(2) == 8


def test_without_options_it_needs_no_brackets(server: ringtable.Server) -> None:
    with Table() as table:

        @table.memoize
        def double(number: int) -> int:
            return 2 * number

        assert double(4) == 8
        assert table.ttl(double.__cache_key__(4)) is None  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="for functions, not for int"):
            table.memoize(60)  # type: ignore[call-overload]


def test_a_bound_method_is_memoized_with_what_it_is_bound_to(server: ringtable.Server) -> None:
    with Table() as table:
        assert [table.memoize()(name.upper)() for name in (Name("a"), Name("b"), Name("a"))] == ["A", "B", "A"]
        assert len(table) == 2


@dataclass
class Name:
    text: str

    def upper(self) -> str:
        return self.text.upper()


def test_an_object_that_is_called_as_a_coroutine_function_is_one(server: ringtable.Server) -> None:
    class Doubler:
        async def __call__(self, number: int) -> int:
            return 2 * number

    with Table() as table:
        assert asyncio.run(table.memoize(key=str)(Doubler())(4)) == 8
        assert len(table) == 1


def test_results_are_values_of_the_pickle_codec_and_checked(server: ringtable.Server) -> None:
    with Table() as table, ringtable.connect(codec="pickle") as objects:

        @table.memoize(key=str)
        def result(value: object) -> object:
            return [value]

        assert result("a") == ["a"]
        result(1)
        assert sorted(objects.values(), key=str) == [["a"], [1]]
        [key] = (key for key in table if key.endswith(b"a"))
        damaged = bytearray(table[key])
        damaged[2] ^= 1
        table[key] = damaged
        assert result("a") == ["a"]
        assert table[key] != damaged


def test_what_raises_is_not_kept_and_an_old_result_may_do(server: ringtable.Server) -> None:
    with Table() as table:
        results: list[int | Exception] = [ValueError("no"), 1, ValueError("no"), 2]

        @table.memoize(ttl=0.01, stale_if_error=60, key=lambda: "number")
        def number() -> int:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        with pytest.raises(ValueError, match="no"):
            number()
        assert number() == 1
        time.sleep(0.02)
        with pytest.warns(RuntimeWarning, match="old value"):
            assert number() == 1
        assert number() == 2


def test_coroutines_compute_on_their_loop_and_once(server: ringtable.Server) -> None:
    with Table() as table:

        @table.memoize(ttl=60)
        async def double(number: int) -> int:
            CALLS.append(asyncio.get_running_loop())
            await asyncio.sleep(0.01)
            if number < 0:
                raise ValueError(number)
            return 2 * number

        @table.memoize(key=str)
        async def recursive(number: int) -> int:
            return await recursive(number)

        @table.memoize()
        async def listed(number: int) -> list[int]:
            return [number]

        async def work() -> None:
            # What callers get at the same time is each one's own, to change.
            one, other = await asyncio.gather(listed(1), listed(1))
            one.append(2)
            assert (one, other) == ([1, 2], [1])
            # More than any pool has threads.
            assert await asyncio.gather(*(double(number % 50) for number in range(500))) == [
                2 * (number % 50) for number in range(500)
            ]
            assert [asyncio.get_running_loop()] * 50 == CALLS
            with pytest.raises(ValueError, match="-1"):
                await double(-1)
            with pytest.raises(Reentrant, match="would wait for itself"):
                await recursive(1)
            # A caller that gives up leaves the others what it has begun.
            giving_up = asyncio.create_task(double(99))
            await asyncio.sleep(0)
            giving_up.cancel()
            assert await double(99) == 198
            assert len(CALLS) == 52

        asyncio.run(work())
        assert asyncio.run(double(1)) == 2


def test_a_task_that_outlives_the_computation_may_ask_again(server: ringtable.Server) -> None:
    """It was taken for a part of what it was started by, for ever."""
    with Table() as table:

        @table.memoize(key=str)
        async def page(number: int) -> int:
            CALLS.append(asyncio.create_task(again(number)))
            return number

        async def again(number: int) -> int:
            await computed.wait()
            return await page(number)

        async def work() -> list[int]:
            first = await page(1)
            computed.set()
            return [first, await CALLS[0]]

        computed = asyncio.Event()
        assert asyncio.run(work()) == [1, 1]


def test_tasks_that_want_each_other_s_results_come_to_the_time_out(server: ringtable.Server) -> None:
    """They waited for ever."""
    with connect_in(0.5) as table:

        @table.memoize(key=str)
        async def one(name: str) -> str:
            await begun.wait()
            return await one("b" if name == "a" else "a")

        async def work() -> list[object]:
            tasks = [asyncio.create_task(one(name)) for name in "ab"]
            while not all(task.get_coro().cr_await for task in tasks):  # type: ignore[union-attr]
                await asyncio.sleep(0)
            begun.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

        begun = asyncio.Event()
        assert {type(outcome) for outcome in asyncio.run(work())} == {Timeout}


class Unpicklable:
    """It raises what ends coroutines."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise StopIteration


def test_what_a_coroutine_cannot_raise_ends_it_all_the_same(
    server: ringtable.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that asked for the result waited for ever: the first one, and later ones where no thread was to be had."""
    with Table() as table:

        @table.memoize
        async def result() -> object:
            return CALLS.pop() if CALLS else Unpicklable()

        async def work() -> object:
            with monkeypatch.context() as without_threads:
                without_threads.setattr(threading.Thread, "start", no_thread)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await result()
            with pytest.raises(RuntimeError, match="StopIteration"):
                await result()
            CALLS.append("made")
            return await result()

        def no_thread(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        assert asyncio.run(work()) == "made"


SPAWNS = """
from multiprocessing import get_context

import ringtable

table = ringtable.connect()


@table.memoize(ttl=60)
def square(number):
    table.incr("computed")
    return number * number


if __name__ == "__main__":
    square(7)
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(square, [7]) == [49]
    print(table["computed"])
"""


def test_a_program_and_what_it_spawns_share_results(server: ringtable.Server, tmp_path: Path) -> None:
    """Main is another module there."""
    Path(tmp_path, "program.py").write_text(SPAWNS)
    for how in (["program.py"], ["-m", "program"]):
        done = subprocess.run(
            [sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert (done.stdout, done.stderr) == ("b'1'\n", "")
        with Table() as table:
            table.clear()
