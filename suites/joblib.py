"""joblib's tests of `Memory`, with ringtable's store in the place of a folder.

`joblib_plugin.py` puts it there before the tests are imported, so that the files are run as they are.
"""

from __future__ import annotations

from pathlib import Path

from suites.suite import Suite

_ARGUMENTS = ("-m", "pytest", "-q", "-p", "suites.recording", "-p", "suites.joblib_plugin")
_FILES = ("joblib/test/test_memory.py", "joblib/test/test_memory_async.py")


def _command(source: Path, quick: bool) -> tuple[str, ...]:
    return (*_ARGUMENTS, "-o", "cache_dir=$TMPDIR/pytest", *(_FILES[:1] if quick else _FILES))


SUITE = Suite(
    package="joblib",
    version="1.6.0",
    sha256="2ccc96785b12046c08fd6d55839c12857831b54a3c1673ffadd2f04bfc4eda03",
    command=_command,
    path=lambda source: [source],
    unfit={
        "files in a folder, which the test lists, damages or deletes": (
            "::test_parallel_call_cached_function_defined_in_jupyter",
            "::test_func_dir",
            "::test_persistence",
            "::test_call_and_shelve_lazily_load_stored_result",
            "::test__get_items",
            "::test_memory_clear",
            "::test_memory_recomputes_after_an_error_while_loading_results",
            "::test_memory_creates_gitignore",
        ),
        "mmap_mode: arrays lie in shared memory in any case, and are none of numpy's memmap": (
            "::test_memory_numpy_check_mmap_mode",
            "::test_memory_numpy_check_mmap_mode_async",
            "::test_memorized_result_forwards_mmap_mode",
        ),
        "that a store and its copy are alike inside: a copy has not opened its table yet": (
            "::test_memory_pickle_dump_load",
        ),
    },
)
