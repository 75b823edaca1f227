"""Checks whether what processes have seen of one key can be explained by one order of their operations.

A history is *linearizable* if every operation can be given an instant between its call and its answer, so that the
operations, done one after the other in the order of these instants, would have had the answers that they had. Keys are
independent: a history is linearizable if the part of each key is, so that each key is checked alone.

A `Step` is an operation, reduced to what it asks of the key's state and what it does to it; the state is a number that
stands for a value, or `ABSENT`. The check goes through calls and answers in the order of time, and keeps all that may
be the case: *configurations*, a state and which of the steps that are under way have had their instant. At an answer,
those configurations go on in which the step has had its instant, or can have it now, maybe after others that are under
way; where none goes on, there is no such order. (The idea is that of Wing and Gong, as late in time as possible as
Lowe does it.) What keeps the number of configurations small:

- a step that changes nothing has its instant as soon as the state fits: waiting longer gains nothing;
- values that nobody compares the state with are one and the same, unless they expire;
- a step without an answer, since its process was killed, may have its instant at any later time, or never. Of two
  configurations that differ only in these, the one goes that has used up more of them. If somebody has seen the only
  such value, then the step was done before that.

Nothing here knows of tables: `proof.histories` makes steps of operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

ABSENT = 0
"""The state of a key that is not there; the values that are written have positive numbers."""

FOREVER = (1 << 63) - 1
"""When a step returns that was never answered."""

CONFIGURATIONS_MAX = 100_000
"""With more than these, nobody would wait for the end."""

TRIES_MAX = 300
"""How often a failed part is tried with fewer steps."""

NEVER: Mapping[int, int] = MappingProxyType({})
"""Nothing expires."""

Gone = Callable[[int], int]
"""From when on a state may become absent by itself."""

Looks = dict[int, tuple[bool, int, int]]
"""Steps that change nothing: whether the state is to be equal to the number, and the bits of what comes before."""

Changes = dict[int, tuple[bool, bool, int, bool, int, int]]
"""Steps that change the state: whether that needs anything, as above; whether it adds the number; what comes before."""


class Need(IntEnum):
    """What has to hold of the state at the instant of a step."""

    NOTHING = 0
    EQUAL = 1
    OTHER = 2


class Effect(IntEnum):
    """What a step does to the state."""

    NONE = 0
    WRITE = 1
    ADD = 2


class Step(NamedTuple):
    """An operation as the check sees it: the state must be (or not be) `compared`, and becomes what `effect` says."""

    called: int
    returned: int
    """`FOREVER` if it was never answered: then it may also not have happened at all."""
    need: Need
    compared: int = ABSENT
    effect: Effect = Effect.NONE
    value: int = ABSENT
    behind: int = -1
    """The index of a step that has to have its instant before this one can, even if they overlap; -1 for none."""


class Undecided(Exception):
    """There are too many configurations to go on."""


@dataclass(frozen=True)
class Failure:
    """No order explains the steps."""

    last: int
    """The index of the step whose answer cannot be explained."""
    part: list[int]
    """The indices of steps that are enough to show it: nothing was under way before them, but what has no answer."""
    start: int
    """The state before these."""


def check(steps: Sequence[Step], *, vanishes: bool = False, expires: Mapping[int, int] = NEVER) -> Failure | None:
    """Return why no order explains the steps of a key that is absent at first, or `None` if one does.

    Args:
        steps: What was done, in any order.
        vanishes: The key may become absent at any time by itself, as in a cache.
        expires: From when on a value may be gone by itself.

    Raises:
        Undecided: There are too many possibilities.
    """
    steps = _settled(steps, expires)
    gone: Gone | None = None
    if vanishes:
        gone = _at_any_time
    elif expires:

        def gone(state: int) -> int:
            return expires.get(state, FOREVER)

    # Whoever was killed has mostly left nothing that anybody saw. Without that there is less to try.
    compared = {step.compared for step in steps if step.need == Need.EQUAL and step.returned != FOREVER}
    adds = any(step.effect == Effect.ADD for step in steps)
    # A look that needs nothing, or was never answered, says nothing.
    everything = [index for index, step in enumerate(steps) if step.effect or (step.need and step.returned != FOREVER)]
    awaited = {step.behind for step in steps}
    seen = [
        index
        for index in everything
        if adds or index in awaited or steps[index].returned != FOREVER or steps[index].value in compared
    ]
    if _run(steps, seen, ABSENT, gone) is None:
        return None
    failed = _run(steps, everything, ABSENT, gone)
    return _smaller(steps, failed, gone) if failed else None


def _at_any_time(_: int) -> int:
    return -FOREVER


def _settled(steps: Sequence[Step], expires: Mapping[int, int]) -> list[Step]:
    """The same steps, but values that nobody asks for are all alike, and unanswered steps that were seen have ended."""
    steps = list(steps)
    if any(step.effect == Effect.ADD for step in steps):
        return steps
    compared: set[int] = {ABSENT}
    first_seen: dict[int, int] = {}
    writers: dict[int, int] = {}
    for step in steps:
        if step.need:
            compared.add(step.compared)
        if step.need == Need.EQUAL and step.returned < first_seen.get(step.compared, FOREVER):
            first_seen[step.compared] = step.returned
        if step.effect:
            writers[step.value] = writers.get(step.value, 0) + 1
    # The state that stands for all values that no step compares with.
    unseen = min(compared) - 1
    for index, step in enumerate(steps):
        if not step.effect:
            continue
        if step.value not in compared and step.value not in expires:
            steps[index] = step._replace(value=unseen)
        elif step.returned == FOREVER and step.value != ABSENT and writers[step.value] == 1:
            # A reader that has seen it before it was called is wrong all the same.
            steps[index] = step._replace(returned=max(step.called, first_seen.get(step.value, FOREVER)))
    return steps


def _run(steps: Sequence[Step], chosen: Sequence[int], start: int, gone: Gone | None) -> Failure | None:
    """Go through the chosen steps, from a state."""
    count = len(chosen)
    # A call comes before an answer at the same time: so they overlap.
    times = [2 * steps[index].called for index in chosen]
    times += [2 * steps[index].returned + 1 for index in chosen]
    answered = [count + place for place, index in enumerate(chosen) if steps[index].returned != FOREVER]
    order = sorted([*range(count), *answered], key=times.__getitem__)
    predecessors = {steps[index].behind for index in chosen}
    # The configurations: a state, and the bits of the steps under way that have had their instant.
    possible = {(start, 0)}
    # The steps under way, by their bits: those that change nothing, and the others.
    looks: Looks = {}
    changes: Changes = {}
    bits: dict[int, int] = {}
    free: list[int] = []
    fresh = (1 << place for place in itertools.count())
    # The bits of steps that others have to wait for; of those without an answer; and of both.
    awaited = unanswered = precious = 0
    # How many steps are under way that will be answered.
    waiting = 0
    # The unanswered ones that have happened in any case, and where that was known.
    spent: dict[int, int] = {}
    # Where nothing was under way the last time, and what the state was then.
    calm, calm_state = 0, start
    for place, event in enumerate(order):
        if event < count:
            index = chosen[event]
            _, returned, need, compared, effect, value, behind = steps[index]
            equal = need == Need.EQUAL
            # Only while that one is under way.
            before = bits.get(behind, 0)
            awaited |= before
            if effect == Effect.NONE:
                # Most looks are answered before anything else happens.
                if not before and order[place + 1] == event + count:
                    for state, _ in possible:
                        if (state == compared) != equal:
                            break
                    else:
                        continue
                bit = bits[index] = free.pop() if free else next(fresh)
                looks[bit] = equal, compared, before
                possible = {
                    (state, done | bit if (state == compared) == equal and done & before == before else done)
                    for state, done in possible
                }
            else:
                bit = bits[index] = free.pop() if free else next(fresh)
                changes[bit] = need != Need.NOTHING, equal, compared, effect == Effect.ADD, value, before
                if returned == FOREVER:
                    unanswered |= bit
                    if index in predecessors:
                        precious |= bit
                    continue
            waiting += 1
            continue
        index = chosen[event - count]
        if index not in bits:
            continue
        bit = bits[index]
        after: set[tuple[int, int]] = set()
        for state, done in possible:
            if done & bit:
                after.add((state, done ^ bit))
            else:
                _reach(state, done, bit, looks, changes, gone, times[event] >> 1, after)
        if not after:
            since = [chosen[other] for other in order[calm : place + 1] if other < count]
            left = [chosen[other] for other in order[:calm] if other < count]
            left = [other for other in left if steps[other].returned == FOREVER and spent.get(other, place) >= calm]
            return Failure(index, left + since, calm_state)
        if len(after) > CONFIGURATIONS_MAX:
            raise Undecided(f"more than {CONFIGURATIONS_MAX} configurations at one answer")
        waiting -= 1
        ended = [index]
        if unanswered:
            after = _without_waste(after, unanswered & ~precious)
            # What has happened in any case is not under way any more.
            used = unanswered
            for _, done in after:
                used &= done
            if used:
                after = {(state, done & ~used) for state, done in after}
                unanswered &= ~used
                precious &= ~used
                late = [other for other in bits if bits[other] & used]
                spent |= dict.fromkeys(late, place)
                ended += late
        possible = after
        for index in ended:
            bit = bits.pop(index)
            if looks.pop(bit, None) is None:
                del changes[bit]
            free.append(bit)
            if bit & awaited:
                awaited &= ~bit
                _let_go(bit, looks, changes)
        if waiting == 0 and len(possible) == 1:
            calm = place + 1
            ((calm_state, _),) = possible
    return None


def _reach(
    state: int,
    done: int,
    wanted: int,
    looks: Looks,
    changes: Changes,
    gone: Gone | None,
    now: int,
    found: set[tuple[int, int]],
) -> None:
    """Add all configurations in which the wanted step has just had its instant, after any others, to `found`."""
    todo = [(state, done)]
    known = {(state, done)}
    while todo:
        state, done = todo.pop()
        nexts: list[tuple[int, int]] = []
        for bit, (needs, equal, compared, adds, value, before) in changes.items():
            if done & bit or (needs and (state == compared) != equal) or done & before != before:
                continue
            nexts.append((state + value if adds else value, done | bit))
        if gone is not None and state != ABSENT and gone(state) <= now:
            nexts.append((ABSENT, done))
        for state, done in nexts:
            for bit, (equal, compared, before) in looks.items():
                if (state == compared) == equal and done & before == before:
                    done |= bit
            if done & wanted:
                found.add((state, done ^ wanted))
            elif (state, done) not in known:
                known.add((state, done))
                todo.append((state, done))


def _let_go(ended: int, looks: Looks, changes: Changes) -> None:
    """Nobody has to wait any more for a step that has had its instant for sure."""
    for bit, look in looks.items():
        looks[bit] = *look[:-1], look[-1] & ~ended
    for bit, change in changes.items():
        changes[bit] = *change[:-1], change[-1] & ~ended


def _without_waste(possible: set[tuple[int, int]], unanswered: int) -> set[tuple[int, int]]:
    """Leave out the configurations that have used up more unanswered steps than another one that is the same else."""
    kept: dict[tuple[int, int], list[int]] = {}
    for state, done in sorted(possible, key=lambda each: (each[1] & unanswered).bit_count()):
        used = done & unanswered
        others = kept.setdefault((state, done & ~unanswered), [])
        if all(other & ~used for other in others):
            others.append(used)
    return {(state, done | used) for (state, done), group in kept.items() for used in group}


def _smaller(steps: Sequence[Step], failure: Failure, gone: Gone | None) -> Failure:
    """The same failure with fewer steps: leaving out what changes nothing never makes a history wrong."""
    part = failure.part
    size = len(part)
    tries = 0
    while size:
        for begin in reversed(range(0, len(part), size)):
            block = part[begin : begin + size]
            fewer = [index for index in part if index not in block or steps[index].effect or index == failure.last]
            if len(fewer) < len(part) and tries < TRIES_MAX:
                tries += 1
                if _run(steps, fewer, failure.start, gone):
                    part = fewer
        size //= 2
    return Failure(failure.last, part, failure.start)
