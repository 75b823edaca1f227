"""Clients and servers that die or stand still at a failpoint at the same time, and many clients at random ones.

A normal build has no failpoints, so that all `test_failpoints*.py` are skipped; `scripts/failpoints.sh` makes one that
has, and runs them. Every point is in one of the tables of `failpoint_clients.py` and `failpoint_servers.py`, and a test
fails if its process does not come by.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import ringtable
from failpoint_callers import HELD, Account, call, call_once, ways
from failpoint_clients import CLIENT, LARGE, OPEN, PAIR, VALUE, live
from failpoint_servers import KEEPING, LINGERING, MOVING, NOTING, RESIGNING, SERVER, STARTING, STOPPING
from failpoints import (
    POINTS,
    RINGS,
    SLOW_CONSUMER_S,
    Checker,
    Hold,
    Victim,
    arm,
    figures,
    needs_failpoints,
    server_of,
    wait_until_all_is_free,
)
from ringtable import Table
from support import CALL_S_MAX, DEADLINE_S, Child, Flag, freeze, state_of, wait_until

pytestmark = needs_failpoints


def test_smoke() -> None:
    with server_of("lanes") as server, ringtable.connect() as table:
        server.arm("put.linked", "kill")
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"
        assert server.process.fate() == "kill"
    with server_of("lanes"), ringtable.connect() as table:
        assert "key" not in table


def test_every_point_has_a_test() -> None:
    tested = [set(CLIENT), set(SERVER), set(STARTING), KEEPING, LINGERING, MOVING, NOTING, RESIGNING, set(STOPPING)]
    assert set().union(*tested) == set(POINTS)
    assert sum(map(len, tested)) == len(POINTS), "and only one"


@pytest.mark.parametrize(
    ("point", "topology"), [(point, case.topologies[0]) for point, case in CLIENT.items() if case.first is None]
)
def test_a_client_whose_server_dies_while_it_stands_at(point: str, topology: str) -> None:
    case = CLIENT[point]
    with (
        server_of(topology) as server,
        ringtable.connect() as table,
        Checker(table, SLOW_CONSUMER_S + CALL_S_MAX, outlives=False),
        Hold(server) as hold,
        Victim(live, case, point, "stop", table, hold) as victim,
    ):
        if case.held:
            hold.end(victim)
        assert victim.fate() == "stop"
        server.process.kill()
        victim.go_on()
        start = time.monotonic()
        # It may have had all the answers that it needs, or read on in place for a moment.
        assert victim.result() in ("gone", "done")
        assert time.monotonic() - start < CALL_S_MAX
    with server_of(topology), ringtable.connect() as table:
        table["key"] = b"value"


def test_a_server_that_dies_before_it_answers_a_write_in_many_pieces() -> None:
    """Room that had appeared in its ring once was news to the client for ever, and it did not look at its server."""

    def write() -> str:
        try:
            with ringtable.connect() as table:
                table["large"] = bytes(4 << 20)
        except ringtable.ServerGone:
            return "gone"
        return "written"

    with server_of("lanes") as server:
        # Of the first request nothing is left to send when the server comes to its end.
        server.arm("request.executed", "kill")
        with Child(write) as child:
            wait_until(child.has_ended, "forbidden: a client goes on without its server")
            assert child.result() == "gone"
        assert server.process.fate() == "kill"
    with server_of("lanes"), ringtable.connect() as table:
        assert "large" not in table


@pytest.mark.parametrize("topology", ["lanes", *RINGS])
def test_giving_way_at_every_step_changes_nothing(topology: str) -> None:
    def work(number: int) -> None:
        for point in POINTS:
            arm(point, "yield")
        with Flag() as finish, Flag() as at_work, Child(call, b"caller %d" % number, {}, False, at_work, finish) as c:
            at_work.wait()
            time.sleep(1)
            finish.set()
            assert c.result().counted > 0

    with server_of(topology) as server, ringtable.connect() as table, ExitStack() as stack:
        before = figures(server, table)
        table["held"] = HELD
        for point in POINTS:
            server.arm(point, "yield")
        for worker in [stack.enter_context(Child(work, number)) for number in range(4)]:
            worker.result()
        wait_until_all_is_free(server, table, before)


def test_a_worker_that_stands_still_with_a_piece_in_hand_costs_nobody_the_connection() -> None:
    """Other workers take what follows. They once held the missing piece for lost after `--slow-consumer-timeout`."""
    with server_of("shared", slow_consumer_timeout=0.05) as server, ringtable.connect(reads="server") as table:
        for number in range(3):
            server.arm("queue.released", "doze", nth=10 + number)
            try:
                table["large"] = LARGE
            except ringtable.ServerGone as error:
                raise AssertionError(f"forbidden: its connection was ended: {error}") from error
            assert table["large"] == LARGE
        assert table.stats()["clients_ended_slot"] == 0


@pytest.mark.parametrize("topology", RINGS)
@pytest.mark.parametrize("has_room", [True, False], ids=["room", "no room"])
def test_what_was_asked_by_who_is_killed_asleep_is_done_if_the_queue_had_room(topology: str, has_room: bool) -> None:
    """All of it, or none: a client that finds no room for what it asks sleeps, too, and has sent nothing."""

    def ask(call: Callable[[Table], object], arms: bool, ready: Flag, goes_on: Flag, asks: Flag) -> None:
        with Table() as table:
            if arms:
                arm("wait.announced", "kill")
            ready.set()
            goes_on.wait()
            asks.set()
            call(table)

    # One worker, so that both have the same queue.
    with server_of(topology, ring_slots=16, workers=1) as server, ringtable.connect() as table, ExitStack() as stack:
        before = figures(server, table)
        ready, write_on, writes = flags = [stack.enter_context(Flag()) for _ in range(3)]
        writer = stack.enter_context(Child(ask, lambda table: table.set("large", LARGE), False, *flags))
        ready.wait()
        ready, ask_on, _ = flags = [stack.enter_context(Flag()) for _ in range(3)]
        victim = stack.enter_context(Victim(ask, lambda table: table.call_many(PAIR), True, *flags))
        ready.wait()
        freeze(server.pid)
        if not has_room:
            write_on.set()
            writes.wait()
            wait_until(lambda: state_of(writer.pid) == "S", "the queue is full of what another one writes")
        ask_on.set()
        assert victim.fate() == "kill"
        server.process.go_on()
        write_on.set()
        writer.result()
        wait_until_all_is_free(server, table, before)
        assert (table.get(OPEN), table.get("count")) == ((VALUE, b"1") if has_room else (None, None))
        assert table["large"] == LARGE


def test_who_was_stopped_together_with_the_server_is_not_sent_away() -> None:
    """The time for which the server itself stood still does not count as the time that it has waited for a client."""

    def ask(hold: Hold) -> int:
        with Table(reads="server") as table:
            table["slow"] = LARGE
            arm("wait.announced", "stop")
            hold.begin()
            assert table["slow"] == LARGE
        return 0

    with server_of("shared", ring_slots=16, slow_consumer_timeout=2.0) as server, ringtable.connect() as table:
        with Hold(server) as hold, Victim(ask, hold) as client, Flag() as finish, Flag() as at_work:
            hold.end(client)
            assert client.fate() == "stop"
            # Its replies, of which it takes none, fill the ring, and this one waits.
            with Child(call, b"caller", {"reads": "server"}, True, at_work, finish) as other:
                wait_until(lambda: state_of(other.pid) == "S", "the other one waits")
                freeze(server.pid)
                time.sleep(2.5)  # for the time-out to pass
                server.process.go_on()
                client.go_on()
                assert client.result() == 0
                finish.set()
                other.result()
        assert table.stats()["clients_ended_slow_consumer"] == 0


# Many at once


def roam(name: bytes, plan: list[tuple[str, str, int]], options: dict[str, Any], finish: Flag) -> str:
    """Calls of all kinds over one connection after the other, until a point is reached, or told to finish."""
    account = Account()
    for point, action, nth in plan:
        arm(point, action, nth)
    try:
        while not finish.is_set():
            with Table(**options) as table:
                for _call in range(3):
                    call_once(name, table, False, account)
    except ringtable.Expelled:
        return "expelled"
    return "done"


@pytest.mark.parametrize("topology", ["lanes", *RINGS])
@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_clients_at_random_points(topology: str, rounds: int, seed: int) -> None:
    generator = random.Random(seed)
    points = [point for point, case in CLIENT.items() if topology in case.topologies]
    with server_of(topology, ring_slots=16) as server, ringtable.connect() as table:
        before = figures(server, table)
        for point in POINTS:
            server.arm(point, "yield")
        # Everybody gives way at every step, so that nothing is said of times here.
        with Checker(table, DEADLINE_S) as checker:
            table["held"] = HELD
            for number in range(rounds):
                roam_and_die(generator, points, topology, b"%d " % number, checker)
        wait_until_all_is_free(server, table, before)


def roam_and_die(generator: random.Random, points: list[str], topology: str, name: bytes, checker: Checker) -> None:
    """Let some clients come to random points at the same time, each to be killed or stopped there."""
    with Flag() as finish, ExitStack() as stack:
        victims = []
        for number in range(4):
            plan = [(generator.choice(points), generator.choice(["kill", "stop"]), generator.randrange(1, 5))]
            print(name, plan)
            options = generator.choice(ways(topology))
            victims.append(stack.enter_context(Victim(roam, name + b"%d" % number, plan, options, finish)))
        checker.keeps_on(3)
        finish.set()
        for victim in victims:
            # Whoever is left standing is killed at the end.
            if victim.what_became_of_it() == "stop" and generator.random() < 0.5:
                victim.go_on()
                assert victim.what_became_of_it() == "end"
            if victim.what_became_of_it() == "end":
                assert victim.result() == "done" or topology != "lanes"
        checker.keeps_on(3)
