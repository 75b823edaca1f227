"""A server with a keeper, on a stage of its own: its changes are stepped through, and it is killed at a point of them.

# Design

There are two clients: an **actor**, a process of its own, since its calls have to wait while the server is stepped; and
one in this process that makes ready and looks on. Besides what a change is about there are keys that nobody changes,
and a lock that nobody takes.

A point is found by the instruction, and by how often that has changed something. So the thread runs at its own speed up
to there: the processor stops it at that instruction alone, and then one step is made, and memory compared.

As a server takes over, it is looked at the other way round: the words are known that are others in the end, and the
processor stops the thread behind a store to one of them. To step through all of it would take minutes.

What is looked at behind each change is in `Stage.judge`.
"""

import multiprocessing
import multiprocessing.connection
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringtable import ServerGone, Table
from support import Child, Closing, KeptServer, figures_of, is_dead, wait_until

from proof.changes import HANG_S, WORKER, changes, shown
from proof.marks import Wrong
from proof.segments import Place, Segments, Watched, Word, changed_words, mapped_at
from proof.tracing import MAPPING, THREADS, Thread, has_thread, thread_named

BUCKETS = 16
SENTINELS = 76
"""Keys that nobody changes: as many as the buckets take, but for some."""

SENTINEL_SIZES = (0, 8, 60, 300, 300, 1_000, 4_000)
FILLING = 1_000
"""Bytes of the values that fill a cache."""

PAGES_ALL = 100
"""Pages of a table that are all watched: of larger ones those that have changed in trials."""

TRIALS = 2
STEPPED_MAX = 4
"""Passes step by step until all pages are known that change."""

FIGURES = {"clients": 2, "locks": 1, "leases": 0, "lease_waiters": 0, "memory_drafts": 0}
"""What a server has when a change is over: the two clients, and one of them a lock."""

OVERFLOW_SIZE_MAX = 20 * 64
"""Bytes of overflow buckets that may have come to be: another order of the same entries has others."""

SETTLED_S = 20.0

# Calls of the system that no other process notices: mapping of private memory, giving way, sleeping, clocks.
HARMLESS = {7, 9, 10, 11, 12, 24, 28, 35, 96, 186, 202, 228, 230, 232, 281, 309, 318, 441}
EXPECTED_WORDS = re.compile(r"ringtable: the server has died \(signal 9\): another one takes over what it had$")


@dataclass(frozen=True)
class Point:
    """Behind which a server is killed: the n-th change that an instruction makes, or its n-th call of the system."""

    address: int
    nth: int
    is_call: bool


class Actor(Closing):
    """The client that acts, a process of its own, since its calls have to wait while this one steps."""

    def __init__(self, seed: str, index: int) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        self._child = Child(_obey, self._connection, theirs, seed, index)
        theirs.close()

    def begin(self, what: str, argument: Any = None) -> None:
        """Have it begin."""
        self._connection.send((what, argument))

    def has_answered(self) -> bool:
        """Whether it has done what it was to do."""
        return self._connection.poll()

    def outcome(self) -> tuple[str, Any]:
        """How that went: "answered", "gone" or "raised", and what."""
        if not self._connection.poll(HANG_S + 10.0):
            self._child.tell_where()
            raise Wrong("its call hangs")
        outcome: tuple[str, Any] = self._connection.recv()
        return outcome

    def do(self, what: str, argument: Any = None) -> None:
        """Have it do something that has to succeed."""
        self.begin(what, argument)
        how, result = self.outcome()
        if how != "answered":
            raise Wrong(f"{what!r} has not succeeded: {result}")

    def close(self) -> None:
        self._connection.close()
        self._child.close()


def _obey(
    other_end: multiprocessing.connection.Connection,
    connection: multiprocessing.connection.Connection,
    seed: str,
    index: int,
) -> None:
    other_end.close()
    change = changes(seed)[index]
    thing: Any = None
    with Table(timeout=HANG_S) as table, suppress(EOFError):
        while True:
            what, argument = connection.recv()
            result = None
            try:
                if what == "ready":
                    thing = change.ready(table, argument)
                elif what == "act":
                    result = change.act(table, thing)
                else:
                    change.finish(table, thing)
                    # It is connected again, if it was not.
                    table.call("PING")
                outcome: tuple[str, Any] = ("answered", result)
            except ServerGone as error:
                outcome = ("gone", str(error))
            except Exception as error:
                outcome = ("raised", f"{type(error).__name__}: {error}")
            connection.send(outcome)


class Stage(Closing):
    """A server with a keeper, the client that acts, and the one that looks on, for changes of one kind."""

    def __init__(self, seed: str, index: int) -> None:
        self.change = changes(seed)[index]
        self._stack = ExitStack()
        try:
            self._set(seed, index)
        except BaseException:
            self._stack.close()
            raise

    def _set(self, seed: str, index: int) -> None:
        # A thread that is stepped shows no life.
        options = ["--buckets", str(BUCKETS), "--spin-us", "0", "--hang-timeout", "0", "--max-clients", "16"]
        options += ["--cache"] if self.change.fills else []
        self.kept = self._stack.enter_context(KeptServer(*options, workers=1, max_memory="4MiB", max_deaths=10_000))
        self.actor = self._stack.enter_context(Actor(seed, index))
        self.table = self._stack.enter_context(Table(timeout=HANG_S))
        self.segments = self._stack.enter_context(Segments(self.kept.pid))
        generator = random.Random(seed)
        self._sentinels: dict[str, bytes] = {}
        if not self.change.wipes:
            for number in range(SENTINELS):
                self._sentinels[f"sentinel {number}"] = generator.randbytes(generator.choice(SENTINEL_SIZES))
        for key, value in self._sentinels.items():
            self.table.set(key, value, evictable=False if self.change.fills else None)
        filled = 0
        while self.change.fills and self.table.stats()["evicted_keys"] == 0:
            self.table[f"filling {filled}"] = generator.randbytes(FILLING)
            filled += 1
        self._lock = self.table.lock("sentinel lock")
        self._lock.acquire()
        self._allocated = self.table.stats()["memory_allocated"]
        # Pages of which it is known that changes of this kind change them.
        self._pages: set[Place] = set()
        self._words = 0
        self._others = 0
        self._versions: dict[str, int] = {}

    def prepare(self) -> Any:
        """Let all be as it is to be before the change."""
        change = self.change
        for key, value in change.before.items():
            if value is None:
                self.table.delete(key)
            else:
                self.table[key] = value
        # What is free held the values of the time before, and would hold them already.
        others = {f"{key[:-1]}!": bytes(len(value)) for key, value in change.after.items() if value}
        self.table.set_many(others)
        self.table.delete_many(others)
        memo = change.prepare(self.table)
        self.actor.do("ready", memo)
        if change.counts:
            self._others = len({bytes(key) for key in self.table} - {key.encode() for key in change.about()})
        self._versions = self._versions_now()
        return memo

    def _versions_now(self) -> dict[str, int]:
        found = {key: self.table.get_with_version(key) for key in self.change.about()}
        return {key: there[1] for key, there in found.items() if there is not None}

    def watched(self, *, all_pages: bool) -> Watched:
        """What may change in the next change of this kind, as trials have shown; or all pages, if they are not many."""
        self.segments.look()
        places = self.segments.places() if all_pages else set()
        pages = self._pages | (places if len(places) <= PAGES_ALL else set())
        return self.segments.watched(pages, all_lanes=self.change.joins)

    def try_out(self) -> None:
        """Make the change as ever, and see which pages are others then."""
        memo = self.prepare()
        before = self.segments.contents()
        self.actor.begin("act")
        outcome = self.actor.outcome()
        self._learn(before)
        self.judge(outcome, memo, is_killed=False)

    def _learn(self, before: dict[Place, bytes]) -> bool:
        """Take note of pages that have changed. Returns whether there are any that were not known before."""
        known = len(self._pages)
        self._pages |= {place for place, content in self.segments.contents().items() if before.get(place) != content}
        return len(self._pages) > known

    def step_through(self) -> tuple[int, list[Point]]:
        """Make the change step by step, until no page has changed that was not watched.

        Returns how many steps there were, and all points.
        """
        for _ in range(STEPPED_MAX):
            memo = self.prepare()
            before = self.segments.contents()
            steps, points = self._step_through()
            is_complete = not self._learn(before)
            self.judge(self.actor.outcome(), memo, is_killed=False)
            if is_complete:
                break
        return steps, points

    def _step_through(self) -> tuple[int, list[Point]]:
        with Thread(self._thread()) as thread:
            watched = self.watched(all_pages=False)
            self.actor.begin("act")
            return self._stepped(thread, watched)

    def _stepped(self, thread: Thread, watched: Watched) -> tuple[int, list[Point]]:
        points: list[Point] = []
        times: Counter[int] = Counter()
        steps = 0
        while True:
            address = thread.address()
            is_call = thread.is_call(address)
            number = thread.call_number() if is_call else 0
            if is_call and not thread.step_call(self._goes_on):
                return steps, points
            if not is_call:
                thread.step()
            steps += 1
            has_changed = watched.has_changed()
            if has_changed or (is_call and number not in HARMLESS):
                # Of a call each counts, of others those that change something.
                times[address] += 1
                points.append(Point(address, times[address], is_call))

    def kill_at(self, point: Point) -> str | None:
        """Make the change, kill the server at that point, and see what is there then. Returns what the call came to.

        That is "answered" or "gone"; `None` if the change was made without coming there.
        """
        memo = self.prepare()
        is_killed = self._kill_at(point)
        if is_killed:
            self._look_in_place()
            self.kept.wait_for_successor()
        outcome = self.actor.outcome()
        self.judge(outcome, memo, is_killed=is_killed)
        return outcome[0] if is_killed else None

    def _kill_at(self, point: Point) -> bool:
        """Begin the change, and kill the server at that point. Returns whether it has come there."""
        server = self.kept.server_pid
        with Thread(self._thread()) as thread:
            watched = self.watched(all_pages=True)
            self.actor.begin("act")
            if not self._goes_to(point, thread, watched):
                return False
            os.kill(server, signal.SIGKILL)
        wait_until(lambda: is_dead(server), "the server is dead")
        return True

    def _goes_to(self, point: Point, thread: Thread, watched: Watched) -> bool:
        """Let a thread go on to a point. Returns whether it comes there."""
        times = 0
        thread.break_at(point.address)
        while thread.go_on(self._goes_on):
            thread.break_at(None)
            watched.has_changed()
            if thread.is_call(point.address):
                thread.step_call(self._goes_on)
            else:
                thread.step()
            times += point.is_call or watched.has_changed()
            if times == point.nth:
                return True
            thread.break_at(point.address)
        return False

    def take_over(self, point: Point) -> list[Word]:
        """Kill the server at a point, and let the next one take over. Returns the words that are others then.

        That is before its worker begins.
        """
        memo = self.prepare()
        is_killed = self._kill_and_hold(point)
        words: list[Word] = []
        if is_killed:
            before = after = self.segments.contents(with_lanes=True)
            server = self._next()
            with Thread(server) as thread:
                while not has_thread(server, WORKER):
                    after = self.segments.contents(with_lanes=True)
                    if not thread.go_to_call(THREADS, lambda: begins(server)):
                        break
            words = changed_words(before, after)
            self.kept.wait_for_successor()
        self.judge(self.actor.outcome(), memo, is_killed=is_killed)
        return words

    def _next(self) -> int:
        """The process of the next server, which the keeper may start now, before it has taken anything over."""
        self.kept.signal(signal.SIGCONT)
        deadline = time.monotonic() + HANG_S
        while not (found := self.kept.processes()):
            if time.monotonic() > deadline:
                raise Wrong("no server follows")
            os.sched_yield()
        return found[0]

    def _kill_and_hold(self, point: Point) -> bool:
        """As `_kill_at`; and the keeper stands, and starts no other server."""
        self.kept.signal(signal.SIGSTOP)
        is_killed = self._kill_at(point)
        if not is_killed:
            self.kept.signal(signal.SIGCONT)
        return is_killed

    def kill_next_at(self, first: Point, word: Word, nth: int) -> str | None:
        """Kill the server at a point, and the next one behind a store to a word as it takes over. Returns as `kill_at`.

        It is the thread that takes over that is looked at, and not the worker that it starts.
        """
        memo = self.prepare()
        is_killed = self._kill_and_hold(first)
        are_both = is_killed and self._kill_next_at(word, nth)
        if is_killed:
            self.kept.wait_for_successor()
        outcome = self.actor.outcome()
        self.judge(outcome, memo, is_killed=is_killed)
        return outcome[0] if are_both else None

    def _kill_next_at(self, word: Word, nth: int) -> bool:
        server = self._next()
        segment, at = word
        with Thread(server) as thread:
            while (begin := mapped_at(server, segment)) is None:
                if not thread.go_to_call(MAPPING, lambda: begins(server)):
                    return False
            thread.watch_at(begin + at)
            for _ in range(nth):
                if not thread.go_on(lambda: begins(server)):
                    return False
            os.kill(server, signal.SIGKILL)
        wait_until(lambda: is_dead(server), "the next server is dead")
        self._look_in_place()
        return True

    def _thread(self) -> int:
        return thread_named(self.kept.server_pid, self.change.thread)

    def _goes_on(self) -> bool:
        return not self.actor.has_answered()

    def _look_in_place(self) -> None:
        """Read what is there, mostly while no server runs."""
        for key in self.change.about():
            self._see(key, self.table.get(key), is_answered=False)

    def _see(self, key: str, found: bytes | None, *, is_answered: bool) -> None:
        before, after = self.change.before, self.change.after
        allowed = (
            [after.get(key)] if is_answered else [before.get(key), after.get(key), *self.change.between.get(key, ())]
        )
        if found not in allowed:
            expected = " or ".join(dict.fromkeys(map(shown, allowed)))
            raise Wrong(f"{key!r} is {shown(found)}, and has to be {expected}")

    def judge(self, outcome: tuple[str, Any], memo: Any, *, is_killed: bool) -> None:
        """See whether all is as it has to be."""
        change, table = self.change, self.table
        how, result = outcome
        if how == "answered":
            if result != change.answer:
                raise Wrong(f"the answer is {shown(result)}, and has to be {shown(change.answer)}")
        elif how == "raised" or not (change.is_doubtful and is_killed):
            raise Wrong(f"the call is not answered: {result}")
        keys = change.about()
        if change.joins and keys:
            # Whoever leaves has not waited for an answer.
            wait_until(lambda: table.get(keys[0]) == change.after[keys[0]], "it is done")
        for found in (table.get_many(keys), table.call_many([("GET", key) for key in keys])):
            for key, value in zip(keys, found, strict=True):
                self._see(key, value, is_answered=how == "answered")  # type: ignore[arg-type]
        present = sum(key in table for key in keys)
        self._see_ttl(keys, is_answered=how == "answered")
        self._see_versions(is_answered=how == "answered")
        change.check(table, memo)
        self.actor.do("finish")
        self._see_the_rest(present)

    def _see_ttl(self, keys: list[str], *, is_answered: bool) -> None:
        if self.change.ttl is None:
            return
        allowed = self.change.ttl[1:] if is_answered else self.change.ttl
        found = self.table.ttl(keys[0])
        if not any(found is ttl or (found and ttl and ttl - 2 * HANG_S < found <= ttl) for ttl in allowed):
            raise Wrong(f"{keys[0]!r} has {found} s to live, and has to have {allowed}")

    def _see_versions(self, *, is_answered: bool) -> None:
        """A change gives its key a higher version, and nothing else does."""
        before, after = self.change.before, self.change.after
        for key, version in self._versions_now().items():
            if (known := self._versions.get(key)) is None or before.get(key) is None:
                continue
            is_changed = before[key] != after.get(key) or self.change.ttl is not None
            if version < known or (is_answered and (version > known) != is_changed):
                raise Wrong(
                    f"{key!r} has version {version}, and had {known}; it was {'' if is_changed else 'not '}changed"
                )

    def _see_the_rest(self, present: int) -> None:
        table = self.table
        found = dict(zip(self._sentinels, table.get_many(self._sentinels), strict=True))
        if wrong := [key for key, value in self._sentinels.items() if found[key] != value]:
            raise Wrong(f"others are changed: {wrong}")
        if self.change.counts and len(table) != self._others + present:
            raise Wrong(f"the table has {len(table)} entries, and has to have {self._others} and {present}")
        if not self._lock.owned():
            raise Wrong("a lock is lost")
        # Whoever has left has not waited for that.
        wait_until(lambda: self._kept_figures() == FIGURES, f"all that is kept is {FIGURES}", SETTLED_S)
        words = self.kept.words.splitlines()
        if wrong_words := [line for line in words[self._words :] if not EXPECTED_WORDS.match(line)]:
            raise Wrong(f"the servers have said: {wrong_words}")
        self._words = len(words)

    def _kept_figures(self) -> dict[str, int]:
        figures = figures_of(self.table)
        return {name: figures[name] for name in FIGURES}

    def see_memory(self) -> None:
        """See that all memory is free again that its keys had."""
        self.table.delete_many(self.change.about())
        most = self._allocated + OVERFLOW_SIZE_MAX
        wait_until(lambda: self.table.stats()["memory_allocated"] <= most, f"at most {most} bytes are taken", SETTLED_S)

    def place_of(self, address: int) -> str:
        """Which instruction that is, for people."""
        return place_of(self.kept.server_pid, address)

    def close(self) -> None:
        self._stack.close()


def begins(server: int) -> bool:
    """Whether a server does not serve yet: the thread that accepts is its last one."""
    return not has_thread(server, "ringtable-accept")


def place_of(process: int, address: int) -> str:
    """The file, the function and the line of an instruction, as far as they are known."""
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        where, _, offset, *_, file = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in where.split("-"))
        if begin <= address < end:
            break
    else:
        return f"{address:#x}"
    at = address - begin + int(offset, 16)
    named = f"{Path(file.strip()).name}+{at:#x}"
    if shutil.which("addr2line"):
        command = ["addr2line", "-f", "-C", "-i", "-e", file.strip(), f"{at:#x}"]
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        calls = [
            f"{name.split('::')[-1]} ({Path(line).name})" for name, line in zip(lines[::2], lines[1::2], strict=False)
        ]
        named += " " + " < ".join(calls[:5])
    return named
