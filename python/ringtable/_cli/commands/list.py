"""`ringtable list`: which servers there are."""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from typing import cast

from ringtable._cli.connection import Caller
from ringtable._cli.figures import humane
from ringtable._cli.output import complain
from ringtable._errors import Error, InvalidOption, TableNotFound
from ringtable._ringtable import check_timeout, folder_of_names, socket_path

_COLUMNS = {"name": "NAME", "process_id": "PID", "memory_resident": "MEMORY", "clients": "CLIENTS"}
_SUFFIX = ".sock"


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "Clients are those of all transports: over UDP, who was heard of in the last minute and has not left. A server"
        " that was given a path instead of a name is not among them. One that does not answer is told of on standard"
        " error, and makes the exit status 1."
    )
    parser.add_argument("--json", action="store_true", help="Print them as one line of JSON.")
    Caller.arguments(parser)


def run(options: Namespace) -> None:
    caller = Caller(options)
    check_timeout(caller.timeout)
    folder = folder_of_names(caller.trust_user)
    names = (
        [] if folder is None else sorted(file.removesuffix(_SUFFIX) for file in os.listdir(folder) if _is_name(file))
    )
    rows: list[dict[str, int | str]] = []
    failed = False
    for name in names:
        try:
            figures = {"name": name, **_ask(name, caller)}
        except TableNotFound:
            # The socket of a server that was killed, or of another program.
            continue
        except Error as error:
            complain(f"{name}: {error}")
            failed = True
            continue
        rows.append({column: figures[column] for column in _COLUMNS})
    if options.json:
        print(json.dumps(rows))
    else:
        _show([list(_COLUMNS.values()), *(_cells(row) for row in rows)])
    if failed:
        sys.exit(1)


def _is_name(file: str) -> bool:
    """Whether a file has the name of a server's socket."""
    try:
        socket_path(file.removesuffix(_SUFFIX))
    except InvalidOption:
        return False
    return file.endswith(_SUFFIX)


def _ask(name: str, caller: Caller) -> dict[str, int | str]:
    # What has no lane gets into the place that a full server has in reserve.
    with caller.connect(name, transport="socket") as table:
        return cast("dict[str, int | str]", table.stats())


def _cells(row: dict[str, int | str]) -> list[str]:
    return [str(value) if column in ("name", "process_id") else humane(column, value) for column, value in row.items()]


def _show(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *others in lines:
        figures = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print(name.ljust(widths[0]), *figures, sep="  ")
