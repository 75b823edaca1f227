"""One connected client, as statements that are written into the timed loops.

All loops are the same lines of Python, with the statements of what is measured written in place, as `timeit` does: so
nobody pays for a wrapper.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Session:
    """The statements that a good user of the library would write, and the objects that they name."""

    names: Mapping[str, Any]
    """The objects that the statements name; they become local variables."""

    get: str
    """Puts the value of `key`, or None, into `value`."""

    set: str
    """Stores `value` under `key`."""

    get_many: str
    """Puts the values of the list `keys` into `values`, in the order of the keys, None for what is absent."""

    set_many: str
    """Stores the dict `items`."""

    get_into: str = ""
    """Copies the value of `key` into `target`, a buffer of the caller's; empty where nothing does, as the next two."""

    view: str = ""
    """Opens the value of `key` in place, and lets it go again."""

    memory: str = ""
    """The same with a `memoryview` of it, which most views are from the start."""

    finish: str = "pass"
    """Run once after the loop, inside the measured time."""

    close: Callable[[], object] = lambda: None
    """Ends the connection."""

    def execute(self, statement: str, **names: Any) -> dict[str, Any]:
        """Runs one of the statements; gives back the variables afterwards."""
        variables = {**self.names, **names}
        exec(statement, variables)
        return variables

    def weave(self, source: str, parameters: Sequence[str]) -> Callable[..., Any]:
        """Makes a function of `source`, its body, in which a line `{get}` stands for the statement `get`, and so on."""
        lines = [f"def woven({', '.join([*parameters, *self.names])}):"]
        for line in textwrap.dedent(source).strip().splitlines():
            code = line.lstrip()
            statement = getattr(self, code.strip("{}")) if code.startswith("{") else code
            lines.append(textwrap.indent(statement, "    " + line[: -len(code)] if code else ""))
        variables: dict[str, Any] = {}
        exec(compile("\n".join(lines), "<woven loop>", "exec"), variables)
        return partial(variables["woven"], **self.names)
