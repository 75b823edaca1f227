"""Writes the docstrings of the built extension into its stub, where editors look for them.

python scripts/stubs.py      from a clone, after a build; tests/test_package.py sees that it was done
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ringtable import _ringtable

STUB = Path(__file__).parent.parent / "python" / "ringtable" / "_ringtable.pyi"
LINE_LENGTH_MAX = 120

Documented = ast.ClassDef | ast.FunctionDef


def documented(tree: ast.Module) -> Iterator[tuple[Documented, Any]]:
    """What the stub has that has a docstring in the module: of overloads the first one.

    Not what has two underscores, which the interpreter documents for all classes.
    """
    for node in tree.body:
        if isinstance(node, Documented):
            found = getattr(_ringtable, node.name)
            yield node, found
            if isinstance(node, ast.ClassDef):
                seen: set[str] = set()
                for member in node.body:
                    if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                        if member.name not in seen:
                            yield member, getattr(found, member.name)
                        seen.add(member.name)


def docstring(found: Any) -> str:
    """The docstring as Python's own tools show it."""
    return inspect.cleandoc(found.__doc__ or "")


def written(source: str) -> str:
    """The stub with the docstrings of the module."""
    lines = source.splitlines()
    for node, found in reversed(list(documented(ast.parse(source)))):
        indent = " " * (node.col_offset + 4)
        text = docstring(found).splitlines()
        short = len(text) == 1 and len(indent) + len(text[0]) + 6 <= LINE_LENGTH_MAX
        new = (
            [f'{indent}"""{text[0]}"""']
            if short
            else [
                f'{indent}"""{text[0]}',
                *(f"{indent}{line}" if line else "" for line in text[1:]),
                f'{indent}"""',
            ]
        )
        first = node.body[0]
        has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        end = first.end_lineno if has_docstring else first.lineno - 1
        assert end is not None
        start = first.lineno - 1
        if lines[start].strip() not in {'"""', "..."} and not lines[start].lstrip().startswith('"""') and has_docstring:
            # The `...` behind the colon.
            new.insert(0, lines[start].removesuffix("...").rstrip())
        lines[start:end] = new
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    STUB.write_text(written(STUB.read_text()))
