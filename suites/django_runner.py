"""The runner of Django's tests, which notes what became of each."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from typing import Any

from django.test.runner import DiscoverRunner

from suites.recording import note_unittest, reason_to_skip


class Runner(DiscoverRunner):  # type: ignore[misc]  # Django has no types.
    """Skips what cannot apply, and notes all results."""

    def run_suite(self, suite: Any, **options: Any) -> Any:
        """Run the tests."""
        names = []
        for test in _tests(suite):
            names.append(test.id())
            if reason := reason_to_skip(test.id()):
                setattr(test, test._testMethodName, unittest.skip(reason)(getattr(test, test._testMethodName)))
        result = super().run_suite(suite, **options)
        note_unittest(result, names)
        return result


def _tests(suite: Any) -> Iterator[Any]:
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from _tests(one)
        else:
            yield one
