"""A client is killed, or stopped and continued, at each step of every protocol; another one must not notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import ringtable
from failpoint_clients import ACKNOWLEDGED, CLIENT, NOTHING, OPEN, VALUE, State, live
from failpoints import (
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
from support import CALL_S_MAX, KeptServer

pytestmark = needs_failpoints


# The last two for so long that it is sent away, if it is in the others' way.
ENDS = ["kill", "stop", "stop for long", "stop and kill"]


@pytest.mark.parametrize(
    ("point", "topology", "end"),
    [
        (point, topology, end)
        for point, case in CLIENT.items()
        for topology in case.topologies
        for end in ENDS
        # Nobody is in the way who has a lane.
        if topology != "lanes" or end != "stop for long"
    ],
)
def test_a_client_at(point: str, topology: str, end: str) -> None:
    case = CLIENT[point]
    action, outcome = end[:4], ""
    # Far more than what comes meanwhile, or far less.
    ring_slots, meanwhile = (16_384, 3) if end == "stop" else (16, 20)
    with server_of(topology, ring_slots=ring_slots) as server, ringtable.connect() as table:
        before = figures(server, table)
        with Checker(table, SLOW_CONSUMER_S + CALL_S_MAX) as checker:
            with Hold(server) as hold, Victim(live, case, point, action, table, hold) as victim:
                if case.first is not None:
                    assert victim.fate() == "stop"
                    checker.keeps_on(meanwhile)
                    victim.go_on()
                if case.held:
                    hold.end(victim)
                assert victim.fate() == action
                checker.keeps_on(meanwhile)
                if end in ("stop", "stop for long"):
                    victim.go_on()
                    assert victim.what_became_of_it() == "end"
                    outcome = victim.result()
            checker.keeps_on(5)
        wait_until_all_is_free(server, table, before)
        state: State = (table.get(OPEN), int(table["count"]))
        dead = case.dead if topology == "lanes" else (*case.unsent, *case.dead)
        if end != "kill" and topology != "lanes":
            # A client that was sent away may not even get what it had published.
            dead = (NOTHING, *dead)
        allowed = {"": dead, "expelled": (*dead, case.done), "done": (case.done,)}[outcome]
        assert state in allowed, f"forbidden: {state!r:.100} is left of what was asked, not {allowed!r:.100}"
        # Only who shares rings can be in the way.
        assert outcome in ("", "done") or end == "stop for long", f"forbidden: {outcome}"
        assert {key: table[key] for key in ACKNOWLEDGED} == ACKNOWLEDGED
        # What it had of the key is not in anybody's way, either.
        assert table.get_or_set(OPEN, lambda: VALUE) == (state[0] or VALUE)
        table.clear()
        assert len(table) == 0


def come_and_ask(point: str) -> int:
    arm(point, "stop")
    with ringtable.connect() as table:
        return table.incr("number")


@pytest.mark.parametrize("point", ["connect.socket", "connect.received", "connect.joined"])
def test_a_client_that_comes_as_a_server_with_a_keeper_dies_is_served_by_the_next_one(
    ringtable_dir: Path, point: str
) -> None:
    with KeptServer() as kept, Victim(come_and_ask, point) as client:
        assert client.fate() == "stop"
        kept.kill_server()
        client.go_on()
        assert client.what_became_of_it() == "end"
        assert client.result() == 1
