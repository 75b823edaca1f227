"""limits' tests of its storages, with ringtable's in the place of that for Redis.

`limits_plugin.py` puts it there before the tests are imported, so that the files are run as they are. Tests of the
storage for memory, and of what storages have in common, are run, too.
"""

from __future__ import annotations

from pathlib import Path

from suites.suite import Suite

_ARGUMENTS = (
    "-m",
    "pytest",
    "-q",
    "-o",
    "addopts=",
    "-o",
    "cache_dir=$TMPDIR/pytest",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
    "-p",
    "suites.recording",
    "-p",
    "suites.limits_plugin",
    "-k",
    "not memcached and not mongodb and not cluster and not sentinel and not Async",
)
_FILES = ("tests/test_storage.py", "tests/test_strategy.py", "tests/integration", "tests/storage/test_redis.py")


def _command(source: Path, quick: bool) -> tuple[str, ...]:
    return (*_ARGUMENTS, *(_FILES[:1] if quick else _FILES))


SUITE = Suite(
    package="limits",
    version="5.8.0",
    sha256="c9e0d74aed837e8f6f50d1fcebcf5fd8130957287206bc3799adaee5092655da",
    command=_command,
    path=lambda source: [source],
)
