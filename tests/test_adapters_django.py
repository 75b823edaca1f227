"""Django's cache backend: what `python -m suites django` does not see, processes and servers that die above all."""

import asyncio
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ringtable
from adapting import FORK, in_processes, kill_server_of
from support import DEADLINE_S, freeze, wait_until

pytest.importorskip("django")

import django
from django.conf import settings
from django.core.cache import InvalidCacheKey, caches
from ringtable.adapters import _shared
from ringtable.adapters.django import RingtableCache

LINGER_S = 0.5

_OPTIONS = {"linger": LINGER_S}
_BACKEND = {"BACKEND": "ringtable.adapters.django.RingtableCache", "LOCATION": "site", "OPTIONS": _OPTIONS}

if not settings.configured:
    settings.configure(CACHES={"default": _BACKEND}, SECRET_KEY="of these tests", USE_TZ=True)
    django.setup()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    _shared.close_all()
    # What Django has for each thread refers to the tables.
    for cache in caches.all(initialized_only=True):
        vars(cache).pop("table", None)


def made(location: str = "site", **params: Any) -> Any:
    return RingtableCache(location, {**params, "OPTIONS": {**_OPTIONS, **params.get("OPTIONS", {})}})


def test_smoke() -> None:
    cache = caches["default"]
    cache.set("user", {"name": "Ada"}, 60)
    assert cache.get("user") == {"name": "Ada"}
    assert "user" in cache
    cache.close()  # as Django does after each request
    assert cache.table[cache.make_key("user")] == {"name": "Ada"}


def test_processes_count_and_add() -> None:
    cache = made()
    cache.set("visits", 0)
    with_added = FORK.SimpleQueue()

    def work() -> None:
        mine = made()
        for _ in range(200):
            mine.incr("visits")
        with_added.put(mine.add("winner", os.getpid()))

    in_processes(4, work)
    assert cache.get("visits") == 800
    assert sorted(with_added.get() for _ in range(4)) == [False, False, False, True]


def test_a_table_that_is_open_goes_on_in_forked_workers() -> None:
    cache = made()
    cache.set("key", "of the parent")

    def work() -> None:
        assert cache.get("key") == "of the parent"
        cache.set(f"of:{os.getpid()}", 1)

    in_processes(2, work)
    assert len(cache.keys("of:*")) == 2


def test_all_caches_of_a_process_share_a_connection() -> None:
    tables = []

    def work() -> None:
        tables.append(made().table)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tables)) == 1
    assert made(OPTIONS={"codec": "json"}).table not in tables


def test_one_process_computes_and_the_others_wait() -> None:
    cache = made()
    cache.set("computed", 0)

    def compute() -> str:
        cache.incr("computed")
        wait_until(lambda: cache.table.stats()["lease_waiters"] == 3, "the others wait")
        return "page"

    def work() -> None:
        assert made().get_or_set("page", compute, 60) == "page"

    in_processes(4, work)
    assert cache.get("computed") == 1
    assert cache.get_or_set("page", 1 / 2) == "page"
    assert cache.get_or_set("gone", lambda: 5, 0) == 5
    assert "gone" not in cache

    # What asks for itself, as Django's other backends let it.
    assert cache.get_or_set("self", lambda: cache.get_or_set("self", lambda: "inner")) == "inner"


def test_numbers() -> None:
    cache = made()
    cache.set_many({"n": 2**63 - 1, "half": 0.5, "text": "a"}, 100)
    assert cache.incr("n") == 2**63
    assert cache.get("n") == 2**63
    assert cache.decr("n", 2**64) == -(2**63)
    assert cache.incr("half", 0.25) == 0.75
    with pytest.raises(TypeError):
        cache.incr("text")
    with pytest.raises(ValueError, match="'nope' not found"):
        cache.incr("nope")
    assert "nope" not in cache
    assert all(0 < cache.ttl(key) <= 100 for key in ("n", "half", "text"))
    assert cache.incr("nope", 3, ignore_key_check=True) == 3
    assert cache.ttl("nope") is None


def test_times_to_live() -> None:
    cache = made(TIMEOUT=50)
    cache.set("default", 1)
    cache.set("ever", 1, None)
    cache.set("century", 1, 4e9 + 1)
    assert cache.ttl("default") == 50
    assert 49_000 < cache.pttl("default") <= 50_000
    assert cache.ttl("ever") is None
    assert cache.ttl("century") is None
    assert cache.ttl("nope") == 0
    assert cache.expire("ever", 10)
    assert cache.ttl("ever") == 10
    assert cache.pexpire("ever", 10_500)
    assert cache.ttl("ever") == 11
    assert cache.persist("ever")
    assert not cache.persist("ever")
    assert cache.touch("ever", None)
    assert not cache.expire("nope", 10)
    assert not cache.touch("nope", None)
    assert cache.touch("ever", -1)
    assert "ever" not in cache
    assert cache.set("nx", 1, nx=True)
    assert not cache.set("nx", 2, nx=True)
    assert cache.set("nx", 2, xx=True)
    assert not cache.set("xx", 2, xx=True)
    assert not cache.set("xx", 2, 0, xx=True)
    assert cache.set("nx", 2, 0, xx=True)
    assert "nx" not in cache


def test_patterns() -> None:
    cache = made(KEY_PREFIX="a*:b", VERSION=3)
    other = made(KEY_PREFIX="aX:b", VERSION=3)
    for number in range(300):
        cache.set(f"user:{number}", number)
    cache.set("ü[1]", 1)
    other.set("user:7", 7)
    cache.set("user:7", 7, version=4)
    assert sorted(cache.keys("user:29?")) == [f"user:29{digit}" for digit in range(10)]
    assert sorted(cache.iter_keys("user:[12]")) == ["user:1", "user:2"]
    assert cache.keys("ü*") == ["ü[1]"]
    assert cache.keys("user:7", version=4) == ["user:7"]
    assert cache.delete_pattern("user:*", itersize=10) == 300
    assert cache.keys("*") == ["ü[1]"]
    assert other.keys("*") == ["user:7"]
    assert cache.get("user:7", version=4) == 7

    own = made(KEY_FUNCTION=lambda key, prefix, version: f"{version}/{key}")
    own.set("key", 1)
    with pytest.raises(ringtable.InvalidOption, match="REVERSE_KEY_FUNCTION"):
        own.keys("*")
    assert own.delete_pattern("k*") == 1
    reverse = made(
        KEY_FUNCTION=lambda key, prefix, version: f"{version}/{key}",
        OPTIONS={"REVERSE_KEY_FUNCTION": lambda key: key.partition("/")[2]},
    )
    reverse.set("key", 1)
    assert reverse.keys("*") == ["key"]


def test_none_is_a_value() -> None:
    cache = made()
    cache.set_many({"none": None, "one": 1})
    assert cache.get_many(["none", "one", "nope"]) == {"none": None, "one": 1}
    assert cache.get("none", "default") is None
    assert cache.has_key("none")


def test_a_lock_is_free_when_its_owner_dies() -> None:
    cache = made()

    def work() -> None:
        made().lock("report").acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=work)
    process.start()
    process.join(DEADLINE_S)
    with cache.lock("report", timeout=30, blocking_timeout=DEADLINE_S) as lock:
        assert lock.ttl == 30
        assert "report" not in cache
        with pytest.raises(ringtable.Timeout), FORK.Pool(1) as pool, cache.lock("report", version=2):
            pool.apply(_lock_at_once)


def _lock_at_once() -> None:
    with made().lock("report", blocking=False):
        pass


def test_asynchronous_twins() -> None:
    cache = made()

    async def use() -> None:
        await cache.aset_many({"a": 1, "b": None}, 60)
        assert await cache.aget_many(["a", "b", "c"]) == {"a": 1, "b": None}
        assert await asyncio.gather(*(cache.aincr("a") for _ in range(20)))
        assert await cache.aget("a") == 21
        assert await cache.adecr("a", 20) == 1
        assert await cache.aget_or_set("c", lambda: 3) == 3
        await cache.adelete_many(["a", "b"])
        assert not await cache.ahas_key("a")

    asyncio.run(use())


def test_codecs_and_serializers() -> None:
    cache = made(OPTIONS={"codec": "json"})
    cache.set("tuple", (1, 2))
    assert cache.get("tuple") == [1, 2]
    theirs = made("theirs", OPTIONS={"serializer": "django.core.cache.backends.redis.RedisSerializer"})
    theirs.set_many({"set": {1, 2}, "n": 1, "yes": True})
    assert theirs.incr("n") == 2
    assert theirs.get_many(["set", "n", "yes"]) == {"set": {1, 2}, "n": 2, "yes": True}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        made().set("function", lambda: None)
    # What another codec has written is no miss: somebody has to know.
    with pytest.raises(ringtable.DecodeError):
        made(OPTIONS={"codec": "pickle"}).get("tuple")


def test_options() -> None:
    cache = made("small", OPTIONS={"max_memory": "64MiB", "MAX_ENTRIES": 10, "CULL_FREQUENCY": 2})
    assert cache.table.stats()["max_memory"] == 64 << 20
    for number in range(40):
        cache.set(f"page{number}", bytes(4 << 20))  # more than there is room for: it evicts
    assert "page39" in cache
    assert "page0" not in cache
    with pytest.raises(ringtable.InvalidOption, match="max_memory"):
        made("small", OPTIONS={"max_memory": "128MiB"}).get("key")
    with pytest.raises(TypeError, match="max_memroy"):
        made("typo", OPTIONS={"max_memroy": "64MiB"}).get("key")
    with pytest.raises(InvalidCacheKey), pytest.warns(RuntimeWarning, match="memcached"):
        cache.get("x" * 70_000)


def test_a_server_that_dies_is_followed_by_another() -> None:
    cache, second = made(), made(OPTIONS={"codec": "json"})
    cache.set("key", "value")
    second.set("json", 1)
    first = kill_server_of(cache.table)
    assert cache.get("key") is None
    assert cache.get("key", 7) == 7
    assert cache.set("key", "again")
    assert cache.get("key") == "again"
    assert not second.has_key("json")
    assert second.set("json", 2)
    assert cache.table.stats()["process_id"] == second.table.stats()["process_id"] != first

    kill_server_of(cache.table)
    lock = cache.lock("report")
    with lock:
        assert cache.add("key", 1)
    kill_server_of(cache.table)
    with pytest.raises(ringtable.ServerGone):
        cache.incr("key")  # it may have been done
    with pytest.raises(ValueError, match="not found"):
        cache.incr("key")


def test_with_a_keeper_nothing_is_lost() -> None:
    cache = made("kept", OPTIONS={"keeper": True})
    cache.set("key", "value")
    os.kill(cache.table.stats()["process_id"], signal.SIGKILL)
    assert cache.get("key") == "value"
    assert cache.set("visits", 0)
    assert cache.incr("visits") == 1


def test_a_cache_that_is_away_takes_no_page_down(caplog: pytest.LogCaptureFixture) -> None:
    strict = RingtableCache("nobody", {"OPTIONS": {"start": False}})
    with pytest.raises(ConnectionError):
        strict.get("key")
    cache = RingtableCache("nobody", {"OPTIONS": {"start": False, "IGNORE_EXCEPTIONS": True}})
    assert cache.get("key") is None
    assert cache.get("key", 7) == 7
    assert not cache.set("key", 1)
    assert not cache.add("key", 1)
    assert not cache.touch("key")
    assert not cache.delete("key")
    assert not cache.has_key("key")
    assert cache.incr("key") is None
    assert cache.get_or_set("key", lambda: 5) == 5
    assert cache.get_many(["key"]) == {}
    assert cache.set_many({"key": 1}) == ["key"]
    cache.delete_many(["key"])
    assert cache.keys("*") == []
    assert cache.delete_pattern("*") == 0
    assert cache.ttl("key") == 0
    cache.clear()
    assert "there is no table" in caplog.text
    with pytest.raises(ConnectionError):
        cache.lock("key")

    # It is tried again after a second.
    with ringtable.Server("nobody", workers=1):
        wait_until(lambda: cache.set("key", 1), "the table is found")
        assert cache.get("key") == 1
        _shared.close_all()


def test_a_server_that_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    cache = made("stopped", OPTIONS={"timeout": 0.2, "IGNORE_EXCEPTIONS": True})
    strict = made("stopped", OPTIONS={"timeout": 0.2})
    assert cache.set("key", "value")
    assert strict.get("key") == "value"
    pid = cache.table.stats()["process_id"]
    freeze(pid)
    try:
        assert cache.get("key") == "value"  # in place
        assert not cache.set("key", "other")
        with pytest.raises(TimeoutError):
            strict.set("key", "other")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "no answer within" in caplog.text


def test_a_value_that_has_no_place_leaves_no_old_one() -> None:
    cache = made("small", OPTIONS={"max_memory": "64MiB", "IGNORE_EXCEPTIONS": True})
    assert cache.set("key", "old")
    assert not cache.set("key", bytes(100 << 20))
    assert "key" not in cache
    with pytest.raises(MemoryError):
        made("small", OPTIONS={"max_memory": "64MiB"}).set("key", bytes(100 << 20))


def test_sessions() -> None:
    from django.contrib.sessions.backends.cache import SessionStore

    session = SessionStore()
    session["user"] = 7
    session.set_expiry(100)
    session.create()
    session["user"] = 8
    session.save()
    again = SessionStore(session.session_key)
    assert again["user"] == 8
    cache = caches["default"]
    assert 0 < cache.ttl(again.cache_key) <= 100
    again.flush()
    assert SessionStore(session.session_key).load() == {}
