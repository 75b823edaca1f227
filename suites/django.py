"""Django's tests of caches (`tests/cache`), with ringtable's backend, and all of sessions (`tests/sessions_tests`).

Its own program runs them, with settings of ours. The tests of caches are inherited by `django_cases.py`, as Django's
own backends inherit them; those of sessions find the backend in the settings.
"""

from __future__ import annotations

from pathlib import Path

from suites.suite import Suite

_ARGUMENTS = ("runtests.py", "--settings=suites.django_settings", "--parallel=1", "--noinput", "--verbosity=0")

# The first is there since Django's program installs the models of those tests alone that lie beside it.
_CASES = ("cache.tests.CacheHandlerTest", "suites.django_cases")
_SESSIONS = ("sessions_tests",)
_QUICK = (
    "cache.tests.CacheHandlerTest",
    "suites.django_cases.RingtableCacheTests",
    "sessions_tests.tests.CacheSessionTests",
)


def _command(source: Path, quick: bool) -> tuple[str, ...]:
    return (*_ARGUMENTS, *(_QUICK if quick else (*_CASES, *_SESSIONS)))


SUITE = Suite(
    package="django",
    version="5.2.19",
    sha256="ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
    command=_command,
    folder=lambda source: source / "tests",
    path=lambda source: [source / "tests"],
    unfit={},
)
