"""diskcache's tests of what ringtable has, too: the cache, locks, throttles, memoized functions.

`as_diskcache.py` is what they import in the place of diskcache; it ends a test as skipped that asks for what ringtable
does not have. The examples of throttles and barriers in diskcache's documentation, which it has no other tests of, are
run by `diskcache_examples.py`. Those of a queue, of an ordered index, and of a Django backend have no counterpart here.
"""

from __future__ import annotations

from pathlib import Path

from suites.suite import ROOT, Suite

_ARGUMENTS = ["-m", "pytest", "-q", "-c", "/dev/null", "-o", "cache_dir=$TMPDIR/pytest"]
_PLUGINS = ["-p", "suites.recording", "-p", "suites.diskcache_plugin"]
_FILES = ["tests/test_core.py", "tests/test_fanout.py", "tests/test_recipes.py"]
_EXAMPLES = str(ROOT / "suites" / "diskcache_examples.py")


def _command(source: Path, quick: bool) -> list[str]:
    files = (
        ["tests/test_recipes.py"] if quick else ["tests/test_core.py", "tests/test_fanout.py", "tests/test_recipes.py"]
    )
    return [*_ARGUMENTS, *_PLUGINS, f"--rootdir={source}", *files, _EXAMPLES]


SUITE = Suite(
    package="diskcache",
    version="5.6.3",
    sha256="2c3a3fa2743d8535d832ec61c2054a1641f41775aa7c556758a109941e33e4fc",
    command=_command,
    unfit={
        "ringtable does not have an order of entries": ("test_core.py::test_iter",),
        "ringtable does not have files that one could copy, damage or count": (
            "::test_copy",
            "::test_rsync",
            "::test_integrity_check",
            "::test_cleanup_dirs",
            "::test_init_makedirs",
        ),
        "ringtable does not have the inside of diskcache": (
            "::test_constant",
            "::test_disk_write_os_error",
            "::test_disk_valueerror",
        ),
    },
)
