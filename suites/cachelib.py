"""cachelib's tests of two of its caches, with ringtable's in their place: `RedisCache` and `SimpleCache`.

Both inherit the tests that all caches have to pass. `cachelib_plugin.py` puts ringtable's cache in the place of the two
before the tests are imported, so that the files are run as they are.
"""

from __future__ import annotations

from pathlib import Path

from suites.suite import Suite

_ARGUMENTS = (
    "-m",
    "pytest",
    "-q",
    "-o",
    "cache_dir=$TMPDIR/pytest",
    "-p",
    "suites.recording",
    "-p",
    "suites.cachelib_plugin",
)
_QUICK = ("tests/test_redis_cache.py", "--deselect=tests/test_redis_cache.py::TestRedisCache::test_expiration")
_ALL = ("tests/test_redis_cache.py", "tests/test_simple_cache.py")


def _command(source: Path, quick: bool) -> tuple[str, ...]:
    return (*_ARGUMENTS, *(_QUICK if quick else _ALL))


SUITE = Suite(
    package="cachelib",
    version="0.17.0",
    sha256="f3c7dc8d3c1132ab699681ffdf8a52d341d9425ac1401c538cf0b1d87b1677c8",
    command=_command,
    # With it, the tests start no server of Redis.
    environment={"CI": "true"},
    unfit={
        "whether a server of Redis is there": (
            "TestRedisCacheCheckConnection::test_unreachable_server_raises_when_enabled",
            "TestRedisCacheCheckConnection::test_unreachable_server_is_lazy_by_default",
            "TestRedisCacheCheckConnectionLive::test_reachable_server_constructs_and_works",
        ),
        "a bound on the number of entries: a table counts bytes": (
            "TestSimpleCache::test_threshold",
            "TestSimpleCache::test_prune_old_entries",
            "TestSimpleCache::test_threshold_zero_defaults_to_500",
        ),
        "the inside of SimpleCache, a dict": (
            "TestSimpleCache::test_concurrent_set_no_data_corruption",
            "TestSimpleCache::test_concurrent_get_set_preserves_valid_shared_values",
        ),
    },
)
