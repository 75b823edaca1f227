"""`ringtable stats`: the server's figures, grouped and with their units for people, plain for programs."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import cast

from ringtable._cli.connection import Connection
from ringtable._cli.figures import grouped, humane, named
from ringtable._errors import InvalidOption


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = "A full server answers, too."
    parser.add_argument("--json", action="store_true", help="Print them as one line of JSON.")
    parser.add_argument(
        "--plain", action="store_true", help="Print one figure on a line with its bare number, also in a terminal."
    )
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    if options.json and options.plain:
        raise InvalidOption("--json and --plain exclude each other: choose one")
    # What has no lane gets into the place that a full server has in reserve.
    with Connection(options).open(transport="socket") as table:
        figures = cast("dict[str, int]", table.stats())
    if options.json:
        print(json.dumps({name: named(name, value) for name, value in figures.items()}))
    elif options.plain or not sys.stdout.isatty():
        width = max(map(len, figures))
        for name, value in figures.items():
            print(f"{name:{width}}  {named(name, value)}")
    else:
        _show(figures)


def _show(figures: Mapping[str, int | float | str]) -> None:
    # Imported only here: it takes longer than asking the server.
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console(highlight=False)
    width = max(map(len, figures))
    for title, names in grouped(figures).items():
        grid = Grid(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
        grid.add_column(min_width=width)
        grid.add_column(justify="right", min_width=len("noeviction"), no_wrap=True)
        for name in names:
            # What has not happened is there, and does not ask for attention.
            grid.add_row(name, humane(name, figures[name]), style="dim" if figures[name] == 0 else "")
        console.print(grid)
        console.print()
