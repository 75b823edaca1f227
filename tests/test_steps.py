"""Servers with a keeper, killed behind single instructions: a sample of what `python -m proof.steps` does."""

import math
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from support import DEADLINE_S, Child, Flag, is_dead

from proof.changes import changes
from proof.stage import Stage
from proof.steps import Plan, Task, chosen
from proof.tracing import Thread, why_not


@pytest.fixture(autouse=True)
def _traceable() -> None:
    if reason := why_not():
        pytest.skip(f"threads cannot be traced here: {reason}")


def task(kind: str, seed: int, sample: int, again: int) -> Task:
    plan = Plan(seed, (kind,), 1, sample, again, math.inf, 0, 1)
    ((round_seed, index),) = plan.tasks()
    return Task(plan, round_seed, index)


def test_smoke(ringtable_dir: Path, seed: int) -> None:
    stepped = task("set, overwrite", seed, sample=3, again=0)
    stepped.run()
    assert stepped.forbidden == []
    row = stepped.row
    assert row.instructions > row.points > row.kills > 0
    assert row.kills == row.answered


@pytest.mark.parametrize("kind", ["unlock", "set, watched"])
def test_a_server_may_die_behind_any_instruction(ringtable_dir: Path, seed: int, kind: str) -> None:
    stepped = task(kind, seed, sample=8, again=1)
    stepped.run()
    assert stepped.forbidden == []
    # These are answered, whatever dies.
    assert stepped.row.kills == stepped.row.answered > 0


@pytest.mark.slow
def test_a_server_that_takes_over_may_die_as_well(ringtable_dir: Path, seed: int) -> None:
    index = [change.name for change in changes("")].index("incr")
    with Stage(str(seed), index) as stage:
        for _ in range(2):
            stage.try_out()
        _, points = stage.step_through()
        # Around the commit; those behind the answer give free memory back.
        answered = 0
        for point in points[len(points) // 4 : 2 * len(points) // 5 : 2]:
            for word in stage.take_over(point):
                # Each looks whether it was counted once.
                answered += stage.kill_next_at(point, word, 1) == "answered"
        assert answered > 0


def _count(begun: Flag, finish: Flag) -> int:
    begun.set()
    count = 0
    while True:
        count += 1
        if finish.is_set():
            return count


def test_a_thread_that_was_stepped_goes_on() -> None:
    with Flag() as begun, Flag() as finish, Child(_count, begun, finish) as child:
        begun.wait()
        with Thread(child.pid) as thread:
            addresses = Counter[int]()
            for _ in range(1_000):
                address = thread.address()
                addresses[address] += 1
                if thread.is_call(address):
                    assert thread.step_call(lambda: True)
                else:
                    thread.step()
            # It comes by again, as it has before.
            [(often, times)] = addresses.most_common(1)
            assert times > 1
            thread.break_at(often)
            assert thread.go_on(lambda: True)
            assert thread.address() == often
        finish.set()
        assert child.result() > 0


def test_a_thread_whose_wait_was_broken_off_goes_on() -> None:
    class Enough(Exception):
        pass

    def have_enough() -> bool:
        raise Enough

    with Child(time.sleep, DEADLINE_S) as child:
        with suppress(Enough), Thread(child.pid) as thread:
            # It is in a system call, and comes by nowhere.
            thread.break_at(thread.address() + 1)
            thread.go_on(have_enough)
            raise AssertionError("it waits for ever")
        assert not is_dead(child.pid)
        child.kill()


def test_rounds_differ_and_are_the_same_for_the_same_seed() -> None:
    first, same, other = changes("1"), changes("1"), changes("2")
    assert [change.name for change in first] == [change.name for change in other]
    assert len({change.name for change in first}) == len(first) > 50
    assert [(change.before, change.after) for change in first] == [(change.before, change.after) for change in same]
    assert [change.after for change in first] != [change.after for change in other]
    assert chosen([], random.Random()) == []
