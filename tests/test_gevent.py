"""Programs that gevent has patched: calls work, and those that may wait for long go to its threads."""

import subprocess
import sys

import pytest
from ringtable import Server
from support import DEADLINE_S

pytest.importorskip("gevent")

BEGIN = """
from gevent import monkey

monkey.patch_all()
import gevent, ringtable

table = ringtable.connect("default", timeout=20.0)
ticks = 0


def tick():
    global ticks
    while True:
        gevent.sleep(0.001)
        ticks += 1


"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_smoke(server: Server) -> None:
    program = """
def work(number):
    for _ in range(100):
        table[f"key {number}"] = b"%d" % number
        assert table[f"key {number}"] == b"%d" % number
        assert table.incr("count") > 0
        gevent.sleep(0)

gevent.joinall([gevent.spawn(work, number) for number in range(20)], raise_error=True)
print(table.incr("count", 0), len(table))
"""
    assert run(program).split() == ["2000", "21"]


def test_what_waits_for_others_waits_in_a_thread(server: Server) -> None:
    """As docs/reliability.md has it: the other greenlets go on meanwhile."""
    program = """
def make():
    # In another process this would take its time, too; its own greenlets are not held up by it.
    began = ticks
    while ticks < began + 20:
        gevent.sleep(0.001)
    return b"value"

other = ringtable.connect("default", timeout=20.0)
threads = gevent.get_hub().threadpool
ticker = gevent.spawn(tick)
computing = gevent.spawn(table.get_or_set, "page", make)
while table.stats()["leases"] == 0:
    gevent.sleep(0)
waiting = [threads.spawn(other.get_or_set, "page", lambda: b"never") for _ in range(3)]
watch = threads.spawn(lambda: next(iter(other.watch("event", timeout=20.0))))
print([waiter.get() for waiter in waiting], computing.get())
while not watch.ready():
    table["event"] = b"value"
    gevent.sleep(0.001)
print(watch.get().kind, ticks >= 20)
ticker.kill()
"""
    assert run(program).splitlines() == ["[b'value', b'value', b'value'] b'value'", "set True"]


def test_greenlets_that_want_one_value_do_not_hang(server: Server) -> None:
    """Without threads the one that waits would keep the one that computes from going on: it is told so at once."""
    program = """
def make():
    gevent.sleep(0.01)
    return b"value"

def ask():
    try:
        return table.get_or_set("page", make)
    except ringtable.Reentrant as error:
        return "Reentrant"

asking = [gevent.spawn(ask) for _ in range(3)]
gevent.joinall(asking, raise_error=True)
print([each.value for each in asking])
"""
    assert run(program).strip() == "[b'value', 'Reentrant', 'Reentrant']"


def test_a_wait_ends_with_its_time_out(server: Server) -> None:
    program = """
def make():
    try:
        ringtable.connect("default").get_or_set("page", lambda: b"never", timeout=0.05)
    except ringtable.Reentrant:
        print("Reentrant")
    return b"value"

table.get_or_set("page", make)
try:
    next(iter(table.watch("none", timeout=0.05)))
except (ringtable.Timeout, StopIteration) as error:
    print(type(error).__name__)
"""
    assert run(program).split() == ["Reentrant", "Timeout"]
