"""The Python tests. Each file opens with a smoke test; slow tests are marked so.

    support.py              what the tests share: servers and children as processes, raw connections, deadlines
    warm.py                 the command line as forks of a process that has imported it before
    load.py                 clients at work, as processes, for tests that kill some
    udp.py                  what is said over UDP, written anew; a network that loses, doubles and reorders
    foreign.py              servers of Redis and Valkey, which load our files and write theirs
    failpoints.py           processes that die or stand still at a step of a protocol, and a client that must not notice
    failpoint_clients.py    how a client comes by each of those steps, and what may be in the table then
    failpoint_servers.py    how a server does
    failpoint_callers.py    clients at work on a server that is to die or to stand still

    The package
    test_package.py         what the package exports, errors as values, the stub against the built module
    test_connect.py         tables that wait for their server, and that connect with their first call
    test_open.py            servers that are started in the background, and who opens them
    test_conformance.py     what every call does, the same over a lane, a socket and TCP
    test_doors.py           tables, pipelines and batches take and refuse the same arguments, over every transport
    test_atomic.py          versions, updates by a function, increments within bounds
    test_leases.py          values that one process computes while the others wait
    test_locks.py           locks, semaphores, events, barriers, once
    test_limits.py          rate limiters, and results that processes share
    test_pending.py         answers that come later: pushes, parked connections, what becomes of those who wait
    test_bulk.py            values that are taken in one step, keys that begin alike, tables in files
    test_model.py           random calls, compared with a dict
    test_objects.py         objects of all kinds as keys, values and buffers; code that runs in the middle of a call
    test_snapshots.py       tables in files of the format of Redis, real servers, damage
    test_persistence.py     servers that keep their table on the disk: snapshots
    test_log.py             servers that log each change: kills, torn tails, full disks
    test_redis.py           redis-py on the unix socket
    test_tcp.py             the TCP port
    test_udp.py             the UDP port: a bad network, and whatever comes as a datagram
    test_linger.py          servers that end by themselves when nobody is there
    test_versions.py        clients and servers of different versions over one lane
    test_trust.py           whose servers a client connects to
    test_paths.py           a server's files: what it makes, leaves alone, clears away, makes anew
    test_cli.py             the command line
    test_demo.py            `ringtable demo`, whole and interrupted
    test_bench.py           `ringtable bench`: what it measures, reports and concludes
    test_profile.py         `ringtable profile`, and what it makes of stacks
    test_codecs.py          tables of objects: each codec, keys as text, values that are not its own
    test_held.py            arrays that lie in the table, and for how long
    test_namespace.py       the keys with a prefix, as a table of its own
    test_typing.py          what type checkers say of typical uses
    test_readme.py          the examples in README.md and in the guide; a word about each error
    test_examples.py        the programs in examples/, whose server is killed in the middle

    Adapters
    test_adapters_django.py    Django's cache and sessions
    test_adapters_cachelib.py  cachelib's cache, Flask-Caching, Flask-Session
    test_adapters_joblib.py    joblib's store of results
    test_adapters_limits.py    limits' storage, Flask-Limiter, slowapi

    Processes
    test_processes.py       threads that share a table; readers beside writers
    test_fork.py            fork, spawn, pickle, and what is under way at the fork
    test_descriptors.py     descriptors that are inherited, taken for others, or used up
    test_interpreter.py     signal handlers, the interpreter's end, threads without its lock, subinterpreters
    test_deployment.py      the programs of docs/guide/deployment.md
    test_gunicorn.py        gunicorn, whose workers are forked from a process that has opened a table
    test_views.py           values in place, whatever becomes of key, table, server; buffers of one's own
    test_watch.py           events of changes: order, laps, many watchers, event loops
    test_kill.py            clients and servers that die, stop or hang
    test_keeper.py          a server whose keeper starts another one when it dies, and what clients notice
    test_steps.py           such servers killed behind single instructions: a sample of `python -m proof.steps`
    test_upgrade.py         another version that takes over while the server serves
    test_manager.py         a service manager that listens, and stores what a keeper holds
    test_failpoints.py      the same at steps of the protocols: `make failpoints`, which makes a build for it
    test_failpoints_client.py  a client at each step
    test_failpoints_server.py  a server at each step
    test_failpoints_panic.py   a thread of the server that panics at a step
    test_reconnect.py       tables that connect anew when their server has gone
    test_rings.py           clients that share rings: what one of them cannot do to the others
    test_passing.py         descriptors that clients pass, and for which nobody waits
    test_sealing.py         what a client cannot do to the table
    test_growth.py          growth under writers and readers
    test_linearizability.py one order of operations explains what all processes have seen

    Limits
    test_bad_input.py       malformed and hostile requests
    test_backlog.py         clients that send all before they read
    test_collisions.py      keys that all have one hash, and cursors that nobody has come to
    test_hostile.py         a hostile client by each strategy, beside honest ones
    test_client_memory.py   a client without memory for what it reads or writes
    test_memory.py          a full table; what an entry costs
    test_cache.py           a full table that evicts; what expires though nobody asks
    test_big.py             large values: no copy in the server, and nobody disturbed
    test_memory_returns.py  memory goes back to the system after FLUSHALL and deletes
    test_churn.py           a cache at its limit, for as long as you like
    test_idle.py            an idle server uses no CPU
    test_surroundings.py    `python -m proof.surroundings`: each kind of attack for a moment
    test_soak.py            `python -m proof.soak`: all loads at once, and the verdict

    The house
    test_house_rules.py     line length, links, safety reasons, which layer may use which

Random tests print their seed, and RINGTABLE_TEST_SEED replays one. Every test has a $RINGTABLE_DIR of its own, and
fails if it leaves a process, a socket or a mapping behind.
"""

import ctypes
import gc
import os
import random
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import hypothesis
import pytest
import ringtable
from support import (
    DEADLINE_S,
    WAYS,
    Address,
    ServerProcess,
    Way,
    own_ringtable_memory,
    processes,
    processes_of,
    wait_until,
    way_to_a_table,
)

# A busy machine must not fail a test of behaviour, so that only whole tests have a deadline.
hypothesis.settings.register_profile("fast", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("slow", deadline=None, max_examples=1_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# A shell that starts the tests in the background has them ignore Ctrl-C, and `nohup` the end of their terminal; what
# they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# glibc sets 64 MiB of addresses aside for each of several arenas, where an allocation still finds room when the process
# is at its limit: tests of that need one arena. What other libraries do is not known here.
M_ARENA_MAX = -8
with suppress(AttributeError):
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


@pytest.fixture(scope="session")
def _lasting() -> None:
    """What outlives a test: children that multiprocessing starts once, for all, and the objects of modules."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    # All that was collected is there for good: no need to look through it again and again.
    gc.freeze()


@pytest.fixture(autouse=True)
def ringtable_dir(monkeypatch: pytest.MonkeyPatch, _lasting: None) -> Iterator[Path]:
    """A folder for the sockets of this test, which checks at the end that the test has left nothing behind."""
    before = processes()
    # Not `tmp_path`: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ringtable-") as folder:
        monkeypatch.setenv("RINGTABLE_DIR", folder)
        monkeypatch.delenv("RINGTABLE_URL", raising=False)
        yield Path(folder)
        # What refers to itself may still hold something. To look through all objects takes longer than most tests.
        if own_ringtable_memory() or processes_of(folder, before):
            gc.collect()
            wait_until(lambda: not processes_of(folder, before), "the processes of the test have ended", DEADLINE_S)
            assert not own_ringtable_memory()
        assert not list(Path(folder).glob("*.sock"))


@pytest.fixture
def server(ringtable_dir: Path, request: pytest.FixtureRequest) -> Iterator[ringtable.Server]:
    """A server named "default" inside this process, with a TCP port; with as much memory as a test's parameter says."""
    max_memory = getattr(request, "param", "256MiB")
    with ringtable.Server(workers=2, max_memory=max_memory, tcp="127.0.0.1:0") as server:
        yield server


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, server: ringtable.Server) -> Address:
    """Both doors of a server."""
    if request.param == "unix":
        return server.path
    assert server.tcp is not None
    return "127.0.0.1", int(server.tcp.rpartition(":")[2])


@pytest.fixture
def server_process(ringtable_dir: Path) -> Iterator[ServerProcess]:
    """A server named "default" as a process of its own, for tests that fork, kill it or look at it from outside."""
    with ServerProcess("--workers", "2", "--max-memory", "256MiB") as server:
        yield server


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, ringtable_dir: Path) -> Iterator[Way]:
    """A way to a server named "default", each after the other."""
    with way_to_a_table(request.param) as way:
        yield way


@pytest.fixture
def table(way: Way) -> Iterator[ringtable.Table]:
    """A table that is reached in that way; files with other tables have a fixture of their own."""
    with way.connect() as table:
        yield table


@pytest.fixture
def seed() -> int:
    """The seed of a random test, printed so that a failure can be replayed."""
    seed = int(os.environ.get("RINGTABLE_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"RINGTABLE_TEST_SEED={seed}")
    return seed
