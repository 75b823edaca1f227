"""The examples in diskcache's documentation of recipes that its tests leave out, run as tests in its folder."""

from __future__ import annotations

import ast
import doctest
from pathlib import Path

import pytest

from suites import as_diskcache

_RECIPES = Path("diskcache/recipes.py")


@pytest.mark.parametrize("name", ["throttle", "barrier"])
def test_example(name: str) -> None:
    """Run one; its words are what it prints where it should not."""
    [function] = [
        node for node in ast.parse(_RECIPES.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    names = {**vars(as_diskcache), "diskcache": as_diskcache}
    text = ast.get_docstring(function) or ""
    example = doctest.DocTestParser().get_doctest(text, names, name, str(_RECIPES), function.lineno)
    words: list[str] = []
    done = doctest.DocTestRunner(verbose=False).run(example, out=words.append)
    assert done.attempted
    assert not done.failed, "".join(words)
