"""What processes have done to one key, and what is wrong with it, if anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from proof.linearizability import ABSENT, FOREVER, Effect, Failure, Need, Step, check

BROKEN = -1
"""The result of a read that gave bytes which nobody has written so: torn, or another key's."""

REFUSED = -2
"""The result of a write that the table had no room for: it has changed nothing."""


class Kind(IntEnum):
    """What was called."""

    GET = 1
    SET = 2
    SET_NX = 3
    SET_XX = 4
    SET_IF_VERSION = 5
    DELETE = 6
    DELETE_IF_VERSION = 7
    INCR = 8
    DELETE_POSTED = 9
    """It does not tell whether the key was there."""


CLOCK_SLACK_MS = 5
"""Entries expire by the wall clock, in whole milliseconds, and calls are timed by another clock."""

_NS = 1_000_000
"""Nanoseconds of a millisecond."""

POSTABLE = (Kind.SET, Kind.DELETE_POSTED)


class Operation(NamedTuple):
    """A call and its answer. A value is written by one operation alone, so that its number tells which.

    Where one process has called the next operation before the last one was done, a posted write, they are done in the
    order of their calls.
    """

    process: int
    kind: Kind
    called: int
    returned: int
    """`FOREVER` if the process was killed before it was answered."""
    value: int = ABSENT
    """The number of the value to be written; or what is to be added."""
    version: int = 0
    """The version that was expected, or that came with the value read; 0 is that of an absent key, and else none."""
    result: int = ABSENT
    """The number of the value that was read, the sum, or whether it was done."""
    ttl_ms: int = 0
    """Milliseconds after which the value that is written expires; 0 for never."""


@dataclass(frozen=True)
class Wrong:
    """What cannot be, and the operations that show it."""

    reason: str
    operations: list[Operation]
    start: int = ABSENT
    """The number of the value before these."""


def judge(operations: Sequence[Operation], *, vanishes: bool = False) -> Wrong | None:
    """Return what is wrong with all the operations on a key that was absent at first, or `None`.

    Args:
        operations: What was done, in any order.
        vanishes: The key may become absent at any time by itself, as in a cache.

    Raises:
        Undecided: There are too many possible orders.
    """
    operations = [operation for operation in operations if operation.result != REFUSED]
    values: dict[int, Operation] = {}
    versions: dict[int, Operation] = {}
    for operation in operations:
        if operation.kind != Kind.GET or operation.returned == FOREVER:
            continue
        if operation.result == BROKEN:
            return Wrong("a value was read that nobody has written so: it is torn, or of another key", [operation])
        if operation.version:
            other = values.setdefault(operation.version, operation)
            if other.result != operation.result:
                return Wrong(f"two values have the version {operation.version}", [other, operation])
            other = versions.setdefault(operation.result, operation)
            if other.version != operation.version:
                return Wrong(f"the value {operation.result} has two versions: it was written twice", [other, operation])
    # A version that nobody was told of fits no state.
    versioned = {version: operation.result for version, operation in values.items()} | {0: ABSENT}
    steps = [_step(operation, versioned.get(operation.version, BROKEN)) for operation in operations]
    # The latest write of each process that may have been posted.
    latest: dict[int, int] = {}
    for index in sorted(range(len(steps)), key=lambda index: operations[index].called):
        operation = operations[index]
        before = latest.get(operation.process, -1)
        if before >= 0 and operations[before].returned > operation.called:
            steps[index] = steps[index]._replace(behind=before)
        if operation.kind in POSTABLE:
            latest[operation.process] = index
    expires = {each.value: each.called + _NS * (each.ttl_ms - CLOCK_SLACK_MS) for each in operations if each.ttl_ms}
    if (wrong := _seen_after_its_time(operations)) is not None:
        return wrong
    failure = check(steps, vanishes=vanishes, expires=expires)
    return _explained(operations, failure) if failure else None


def _seen_after_its_time(operations: Sequence[Operation]) -> Wrong | None:
    writers = {each.value: each for each in operations if each.ttl_ms and each.returned != FOREVER}
    if not writers:
        return None
    for operation in operations:
        writer = writers.get(operation.result) if operation.kind == Kind.GET else None
        if writer and operation.called > writer.returned + _NS * (writer.ttl_ms + CLOCK_SLACK_MS):
            return Wrong("a value was read after its time", [writer, operation])
    return None


def _step(operation: Operation, expected: int) -> Step:
    """What an operation asks of the state, given the value that has the version it expects."""
    _, kind, called, returned, value, _, result, _ = operation
    # A conditional one without an answer: where its condition does not hold, it has changed nothing.
    done = result or returned == FOREVER
    match kind:
        case Kind.GET:
            # The answer to one that was given up would have said anything.
            return Step(called, returned, Need.EQUAL if returned != FOREVER else Need.NOTHING, result)
        case Kind.SET:
            return Step(called, returned, Need.NOTHING, ABSENT, Effect.WRITE, value)
        case Kind.SET_NX if done:
            return Step(called, returned, Need.EQUAL, ABSENT, Effect.WRITE, value)
        case Kind.SET_NX:
            return Step(called, returned, Need.OTHER, ABSENT)
        case Kind.SET_XX if done:
            return Step(called, returned, Need.OTHER, ABSENT, Effect.WRITE, value)
        case Kind.SET_IF_VERSION if done:
            return Step(called, returned, Need.EQUAL, expected, Effect.WRITE, value)
        case Kind.DELETE if done:
            return Step(called, returned, Need.OTHER, ABSENT, Effect.WRITE, ABSENT)
        case Kind.DELETE_POSTED:
            return Step(called, returned, Need.NOTHING, ABSENT, Effect.WRITE, ABSENT)
        case Kind.SET_XX | Kind.DELETE:
            return Step(called, returned, Need.EQUAL, ABSENT)
        case Kind.DELETE_IF_VERSION if done:
            return Step(called, returned, Need.EQUAL, expected, Effect.WRITE, ABSENT)
        case Kind.SET_IF_VERSION | Kind.DELETE_IF_VERSION:
            return Step(called, returned, Need.OTHER, expected)
        case Kind.INCR if returned == FOREVER:
            return Step(called, returned, Need.NOTHING, ABSENT, Effect.ADD, value)
        case Kind.INCR:
            return Step(called, returned, Need.EQUAL, result - value, Effect.WRITE, result)


def _explained(operations: Sequence[Operation], failure: Failure) -> Wrong:
    last = operations[failure.last]
    written = {each.value for each in operations if each.kind != Kind.INCR}
    written |= {each.result for each in operations if each.kind == Kind.INCR}
    if last.kind == Kind.GET and last.result != ABSENT and last.result not in written:
        reason = f"the value {last.result} was read, and never written"
    else:
        reason = f"no order of these operations explains what process {last.process} was answered at the end"
    return Wrong(reason, [operations[index] for index in failure.part], failure.start)


def lines(wrong: Wrong, names: Sequence[str]) -> Iterator[str]:
    """What is wrong, as lines to read, in the order of the calls; `names` says what the processes are."""
    yield f"forbidden: {wrong.reason}"
    yield f"Before, the key {_state(wrong.start)}. Times in microseconds; a value is told by its number."
    operations = sorted(wrong.operations, key=lambda each: each.called)
    begin = operations[0].called
    for operation in operations:
        called = f"{(operation.called - begin) / 1_000:12.1f}"
        ended = operation.returned != FOREVER
        returned = f"{(operation.returned - begin) / 1_000:12.1f}" if ended else f"{'killed':>12}"
        yield f"{called} {returned}  process {operation.process} ({names[operation.process]}): {_text(operation)}"


def _state(number: int) -> str:
    return "was absent" if number == ABSENT else "had a value that nobody saw" if number < 0 else f"was {number}"


def _text(operation: Operation) -> str:
    _, kind, _, returned, value, version, result, ttl_ms = operation
    if kind == Kind.GET:
        call = "get()"
    elif kind in (Kind.DELETE, Kind.DELETE_IF_VERSION, Kind.DELETE_POSTED):
        call = f"{kind.name.lower()}({version or ''})"
    else:
        call = f"{kind.name.lower()}({value}{f', {version}' if kind == Kind.SET_IF_VERSION else ''})"
        call += f" for {ttl_ms} ms" if ttl_ms else ""
    if returned == FOREVER:
        return call
    if kind == Kind.GET:
        answer = "absent" if result == ABSENT else "broken" if result == BROKEN else f"{result}"
        return f"{call} -> {answer}{f', version {version}' if version else ''}"
    return f"{call} -> {result if kind == Kind.INCR else bool(result)}"
