"""A cache of cachelib's, Flask-Caching and Flask-Session with it: what `python -m suites cachelib` does not see."""

import pickle
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from adapting import in_processes, kill_server_of

pytest.importorskip("cachelib")

from cachelib.serializers import JSONSerializer
from ringtable.adapters import _shared
from ringtable.adapters.cachelib import RingtableCache

LINGER_S = 0.5


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    _shared.close_all()


def made(name: str = "site", **options: Any) -> Any:
    return RingtableCache(name, linger=LINGER_S, **options)


def test_smoke() -> None:
    cache = made()
    assert cache.set("user", {"name": "Ada"}, timeout=60)
    assert cache.get("user") == {"name": "Ada"}
    assert cache.has("user")
    assert cache.delete("user")
    assert cache.get("user") is None


def test_processes_count() -> None:
    cache = made(default_timeout=100)
    assert cache.inc("visits", 0) == 0

    def work() -> None:
        for _ in range(200):
            made().inc("visits")

    in_processes(4, work)
    assert cache.get("visits") == 800
    assert 0 < cache.table.ttl("visits") <= 100  # that of its first count


def test_numbers() -> None:
    cache = made()
    cache.set_many({"large": 2**63 - 1, "half": 0.5, "text": "a"})
    assert cache.inc("large") == 2**63
    assert cache.dec("large", 2**64) == -(2**63)
    assert cache.inc("half") == 1.5
    with pytest.raises(TypeError):
        cache.inc("text")
    assert cache.dec("new", 3) == -3


def test_times_to_live() -> None:
    cache = made(default_timeout=timedelta(minutes=1))
    cache.set("default", 1)
    cache.set("ever", 1, timeout=0)
    cache.set("ten", 1, timeout=timedelta(seconds=10))
    left = [cache.table.ttl(key) for key in ("default", "ever", "ten")]
    assert 50 < left[0] <= 60
    assert left[1] is None
    assert 0 < left[2] <= 10
    assert cache.set("ten", 1, timeout=-1)
    assert not cache.has("ten")
    assert cache.add("ten", 1, timeout=-1)
    assert not cache.add("ever", 2, timeout=-1)
    assert cache.set_many({"ten": 1}, timeout=-1) == ["ten"]
    assert cache.get_many("ten", "ever") == [None, 1]


def test_prefixes() -> None:
    first, second = made(key_prefix="first:"), made(key_prefix=lambda: "second:")
    first.set("key", 1)
    second.set("key", 2)
    assert first.get("key") == 1
    assert second.table["second:key"] == 2
    assert first.clear()
    assert first.get("key") is None
    assert second.get_dict("key", "nope") == {"key": 2, "nope": None}
    assert made().clear()
    assert second.get("key") is None


def test_serializers() -> None:
    cache = made()
    cache.set("tuple", (1, 2))
    cache.serializer = JSONSerializer()
    assert cache.get("tuple") is None  # it cannot be read
    assert cache.get_many("tuple", "nope") == [None, None]
    cache.set("tuple", (1, 2))
    assert cache.get("tuple") == [1, 2]
    assert made(codec="msgpack").get("tuple") is None
    with pytest.raises((AttributeError, pickle.PicklingError)):
        made().set("function", lambda: None)
    with pytest.raises(ValueError, match="70000 bytes"):
        cache.get("x" * 70_000)


def test_a_table_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    cache = RingtableCache("nobody", start=False, ignore_delete_many_errors=False)
    assert cache.get("key") is None
    assert not cache.set("key", 1)
    assert not cache.add("key", 1)
    assert not cache.delete("key")
    assert not cache.has("key")
    assert not cache.clear()
    assert cache.inc("key") is None
    assert cache.get_many("a", "b") == [None, None]
    assert cache.set_many({"a": 1}) == []
    with pytest.raises(RuntimeError, match="Failed to delete"):
        cache.delete_many("a")
    assert RingtableCache("nobody", start=False).delete_many("a") == []
    assert "there is no table" in caplog.text


def test_a_server_that_dies_is_followed_by_another() -> None:
    cache = made()
    cache.set("key", 1)
    pid = kill_server_of(cache.table)
    assert cache.get("key") is None
    assert cache.set("key", 2)
    assert cache.table.stats()["process_id"] != pid


def test_flask_caching() -> None:
    flask, flask_caching = pytest.importorskip("flask"), pytest.importorskip("flask_caching")
    app = flask.Flask("pages")
    app.config |= {
        "CACHE_TYPE": "ringtable.adapters.cachelib.RingtableCache",
        "CACHE_ARGS": ["site"],
        "CACHE_OPTIONS": {"key_prefix": "pages:", "linger": LINGER_S},
        "CACHE_SERIALIZER": JSONSerializer,
    }
    cache = flask_caching.Cache(app)
    made = []

    @app.route("/<name>")  # type: ignore[untyped-decorator]
    @cache.cached(timeout=60)  # type: ignore[untyped-decorator]
    def page(name: str) -> str:
        made.append(name)
        return f"<h1>{name}</h1>"

    @cache.memoize(60)  # type: ignore[untyped-decorator]
    def square(number: int) -> int:
        made.append(str(number))
        return number * number

    client = app.test_client()
    assert [client.get(path).text for path in ("/a", "/b", "/a")] == ["<h1>a</h1>", "<h1>b</h1>", "<h1>a</h1>"]
    with app.app_context():
        assert [square(7), square(7)] == [49, 49]
        assert made == ["a", "b", "7"]
        cache.delete_memoized(square)
        assert square(7) == 49
        assert made == ["a", "b", "7", "7"]
        assert all(key.startswith("pages:") for key in cache.cache.table)
        assert cache.clear()
        assert len(cache.cache.table) == 0


def test_flask_session() -> None:
    flask, flask_session = pytest.importorskip("flask"), pytest.importorskip("flask_session")
    cache = made("sessions")
    app = flask.Flask("shop")
    app.config |= {"SESSION_TYPE": "cachelib", "SESSION_CACHELIB": cache, "SESSION_PERMANENT": False}
    flask_session.Session(app)

    @app.route("/add/<name>")  # type: ignore[untyped-decorator]
    def add(name: str) -> str:
        flask.session["cart"] = [*flask.session.get("cart", []), name]
        return ",".join(flask.session["cart"])

    @app.route("/leave")  # type: ignore[untyped-decorator]
    def leave() -> str:
        flask.session.clear()
        return ""

    first, second = app.test_client(), app.test_client()
    assert [first.get(f"/add/{name}").text for name in ("tea", "milk")] == ["tea", "tea,milk"]
    assert second.get("/add/bread").text == "bread"
    assert len(cache.table) == 2
    first.get("/leave")
    assert len(cache.table) == 1
    assert first.get("/add/tea").text == "tea"
