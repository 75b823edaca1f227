"""A store of joblib's `Memory`: what `python -m suites joblib` does not see."""

import importlib
import os
import pickle
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import ringtable
from adapting import in_processes

pytest.importorskip("joblib")

import joblib
import ringtable.adapters.joblib
from joblib._store_backends import CacheWarning
from ringtable.adapters import _shared

LINGER_S = 0.5
numpy: Any = importlib.import_module("numpy")

calls = 0


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    global calls
    calls = 0
    yield
    _shared.close_all()


def made(**options: Any) -> Any:
    options = {"linger": LINGER_S, **options}
    return joblib.Memory("simulations", backend="ringtable", verbose=0, backend_options=options)


def square(number: int) -> Any:
    global calls
    calls += 1
    return number * number


def zeros(size: int) -> Any:
    return {"zeros": numpy.zeros(size)}


def test_smoke() -> None:
    memory = made()
    cached = memory.cache(square)
    assert [cached(7), cached(7), calls] == [49, 49, 1]
    assert cached.check_call_in_cache(7)
    assert not cached.check_call_in_cache(8)
    assert not os.path.exists("simulations")
    memory.clear(warn=False)
    assert [cached(7), calls] == [49, 2]


def test_processes_share_results() -> None:
    cached = made().cache(square)
    assert cached(7) == 49

    def work() -> None:
        mine = pickle.loads(pickle.dumps(cached))
        assert mine(7) == 49
        assert mine(os.getpid()) == os.getpid() ** 2
        assert calls == 2

    assert [cached(pid) for pid in in_processes(3, work)]
    assert calls == 1


def test_arrays_lie_in_the_table() -> None:
    cached = made().cache(zeros)
    cached(100_000)
    first, second = cached(100_000)["zeros"], cached(100_000)["zeros"]
    assert not first.flags.writeable
    assert numpy.shares_memory(first, second) or first.tobytes() == second.tobytes()
    assert first.sum() == 0


def test_limits_and_single_results() -> None:
    memory = made()
    cached = memory.cache(zeros)
    for size in range(1_000, 1_005):
        cached(size)
    assert len(memory.store_backend.get_items()) == 5
    memory.reduce_size(items_limit=2)
    assert len(memory.store_backend.get_items()) == 2
    memory.reduce_size(age_limit=timedelta(days=1))
    memory.reduce_size(bytes_limit="10K")
    assert len(memory.store_backend.get_items()) == 1

    shelved = cached.call_and_shelve(7)
    assert shelved.get()["zeros"].size == 7
    shelved.clear()
    with pytest.raises(KeyError):
        shelved.get()
    cached.clear(warn=False)
    assert memory.store_backend.get_items() == []


def test_a_server_that_dies_is_followed_by_another() -> None:
    memory = made()
    cached = memory.cache(square)
    cached(7)
    pid = memory.store_backend.table.stats()["process_id"]
    os.kill(pid, signal.SIGKILL)
    assert cached(8) == 64
    assert cached(7) == 49
    assert memory.store_backend.table.stats()["process_id"] != pid


def test_what_cannot_be_written_is_computed_anew() -> None:
    cached = made(max_memory="64MiB").cache(zeros)
    with pytest.warns(CacheWarning, match="Unable to cache in the table"):
        assert cached(20 << 20)["zeros"].size == 20 << 20
    away = joblib.Memory("nobody", backend="ringtable", verbose=0, backend_options={"start": False})
    with pytest.raises(ringtable.TableNotFound):
        away.cache(square)
