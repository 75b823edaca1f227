"""A storage of limits', Flask-Limiter and slowapi with it: what `python -m suites limits` does not see."""

import asyncio
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ringtable
from adapting import FORK, in_processes, kill_server_of
from support import DEADLINE_S

pytest.importorskip("limits")

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES, FixedWindowRateLimiter, MovingWindowRateLimiter
from ringtable.adapters import _shared
from ringtable.adapters.limits import RingtableStorage, moved, slid


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    _shared.close_all()


def made(name: str = "site", **options: Any) -> Any:
    return storage_from_string(f"ringtable://{name}?linger=0.5", **options)


def test_smoke() -> None:
    storage = made()
    assert isinstance(storage, RingtableStorage)
    for strategy in STRATEGIES.values():
        limiter, limit = strategy(storage), parse("2/hour")
        assert [limiter.hit(limit, "Ada") for _ in range(3)] == [True, True, False]
        assert not limiter.test(limit, "Ada")
        assert limiter.get_window_stats(limit, "Ada").remaining == 0
        assert time.time() < limiter.get_window_stats(limit, "Ada").reset_time <= time.time() + 3600
        limiter.clear(limit, "Ada")
        assert limiter.test(limit, "Ada")
        assert limiter.get_window_stats(limit, "Ada").remaining == 2


def hit_at_once(n_processes: int, rounds: int, strategy: str, limit: RateLimitItem) -> int:
    """How many hits are let through of so many processes, each of which asks so often."""
    start, let_through = FORK.Barrier(n_processes), FORK.Value("q", 0)

    def work() -> None:
        limiter = STRATEGIES[strategy](made())
        start.wait(DEADLINE_S)
        count = sum(limiter.hit(limit, "all") for _ in range(rounds))
        with let_through.get_lock():
            let_through.value += count

    in_processes(n_processes, work)
    return int(let_through.value)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_get_no_more_than_the_limit(strategy: str) -> None:
    assert hit_at_once(6, 300, strategy, parse("1000/hour")) == 1000
    assert STRATEGIES[strategy](made()).get_window_stats(parse("1000/hour"), "all").remaining == 0


def test_a_moving_window_is_exact_as_it_moves() -> None:
    storage, limit = made(), parse("5/second")
    start, queue = FORK.Barrier(4), FORK.SimpleQueue()

    def work() -> None:
        limiter, mine = MovingWindowRateLimiter(made()), list[tuple[float, float]]()
        start.wait(DEADLINE_S)
        end = time.time() + 3.2
        while (before := time.time()) < end:
            if limiter.hit(limit, "all"):
                mine.append((before, time.time()))
        queue.put(mine)

    processes = [FORK.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    times = sorted(hit for _ in processes for hit in queue.get())
    for process in processes:
        process.join(DEADLINE_S)
    # A hit was noted between both times: no six of them fit into a second.
    for six in zip(*(times[number:] for number in range(6)), strict=False):
        assert max(after for _, after in six) - six[0][0] > 1.0, times
    assert len(times) >= 15
    assert storage.get_moving_window(limit.key_for("all"), 5, 1)[1] <= 5


def test_moving_windows() -> None:
    assert moved(None, 100.0, 3, 10, 1) is not None
    window = moved(None, 100.0, 3, 10, 2)
    assert window is not None
    assert moved(window, 109.0, 3, 10, 2) is None
    later = moved(window, 109.0, 3, 10, 1)
    assert later is not None
    assert moved(later, 110.0, 3, 10, 1) is None  # what was ten seconds ago still counts
    last = moved(later, 110.1, 3, 10, 2)
    assert last is not None
    assert len(last) == 8 + 2 * 16  # what counts no more was left out
    assert moved(last, 118.9, 3, 10, 1) is None
    assert moved(last, 119.1, 3, 10, 1) is not None
    assert moved(last, 119.1, 3, 10, 2) is None
    # The clock may be read by one process and another one be the first to write.
    assert moved(moved(None, 100.0, 3, 10, 2), 99.0, 3, 10, 2) is None


def test_sliding_window_counters() -> None:
    counter = slid(None, 100.0, 10, 10, 10)
    assert counter is not None
    assert slid(counter, 109.9, 10, 10, 1) is None
    assert slid(counter, 110.1, 10, 10, 1) is not None  # nine and some of the ten still count
    assert slid(counter, 110.1, 10, 10, 2) is None
    assert slid(counter, 115.0, 10, 10, 5) is not None
    assert slid(counter, 115.0, 10, 10, 6) is None
    assert slid(counter, 120.0, 10, 10, 10) is not None


def test_what_the_address_says(tmp_path: Any) -> None:
    storage = RingtableStorage(f"ringtable://{tmp_path}/at.sock?linger=0.5&timeout=2&key_prefix=mine", cache=False)
    assert storage.incr("key", 60) == 1
    assert dict(storage.table) == {b"mine:key": b"1"}
    assert storage.table.timeout == 2.0
    assert storage.table.address == f"{tmp_path}/at.sock"
    assert 59 < storage.get_expiry("key") - time.time() <= 60
    assert storage.reset() == 1
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.incr("key", 60) == 1
    assert storage.get("key") == 1


def test_nothing_is_evicted() -> None:
    storage = made("small", max_memory="8MiB")
    assert storage.incr("key", 3600) == 1
    assert MovingWindowRateLimiter(storage).hit(parse("1/hour"), "key")
    for number in range(20_000):
        storage.table.set(str(number), bytes(1000), writes="posted")
    storage.table.flush()
    assert storage.table.stats()["evicted_keys"] > 0
    assert storage.get("key") == 1
    assert not MovingWindowRateLimiter(storage).hit(parse("1/hour"), "key")


def test_a_table_that_is_away() -> None:
    storage = storage_from_string("ringtable://nobody?start=false")
    assert not storage.check()
    with pytest.raises(ringtable.TableNotFound):
        storage.incr("key", 1)
    wrapped: Any = storage_from_string("ringtable://nobody", start=False, wrap_exceptions=True)
    for name, *arguments in (
        ("incr", "key", 1),
        ("get", "key"),
        ("acquire_entry", "key", 1, 1),
        ("acquire_sliding_window_entry", "key", 1, 1),
        ("reset",),
    ):
        with pytest.raises(StorageError, match="there is no table"):
            getattr(wrapped, name)(*arguments)


def test_a_server_that_dies_is_followed_by_another() -> None:
    storage = made()
    limiters = [strategy(storage) for strategy in STRATEGIES.values()]
    assert all(limiter.hit(parse("1/hour")) for limiter in limiters)
    pid = kill_server_of(storage.table)
    assert all(limiter.hit(parse("1/hour")) for limiter in limiters)
    assert not any(limiter.hit(parse("1/hour")) for limiter in limiters)
    assert storage.table.stats()["process_id"] != pid


def test_workers_that_are_forked_count_together() -> None:
    limiter, limit = FixedWindowRateLimiter(made()), parse("100/hour")
    assert limiter.hit(limit)

    def work() -> None:
        assert limiter.hit(limit)

    in_processes(4, work)
    assert limiter.get_window_stats(limit).remaining == 95


def test_flask_limiter() -> None:
    flask, flask_limiter = pytest.importorskip("flask"), pytest.importorskip("flask_limiter")
    app = flask.Flask("pages")
    limiter = flask_limiter.Limiter(
        lambda: flask.request.args["user"],
        app=app,
        storage_uri="ringtable://site",
        storage_options={"linger": 0.5},
        strategy="moving-window",
    )

    @app.route("/")  # type: ignore[untyped-decorator]
    @limiter.limit("2/minute")  # type: ignore[untyped-decorator]
    def page() -> str:
        return "page"

    client = app.test_client()
    assert [client.get("/?user=Ada").status_code for _ in range(3)] == [200, 200, 429]
    assert client.get("/?user=Eve").status_code == 200


def test_slowapi() -> None:
    slowapi, applications = pytest.importorskip("slowapi"), pytest.importorskip("starlette.applications")
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    limiter = slowapi.Limiter(
        get_remote_address, storage_uri="ringtable://site", storage_options={"linger": 0.5}, strategy="fixed-window"
    )

    @limiter.limit("2/minute")  # type: ignore[untyped-decorator]
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("page")

    app = applications.Starlette(routes=[Route("/", page)])
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, slowapi._rate_limit_exceeded_handler)

    async def status(host: str) -> Any:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "client": (host, 1)}
        await app(scope, receive, send)
        return sent[0]["status"]

    async def ask() -> list[Any]:
        return [await status(host) for host in ("10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2")]

    assert asyncio.run(ask()) == [200, 200, 429, 200]
