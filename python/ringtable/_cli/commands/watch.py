"""`ringtable watch`: what happens to keys, as it happens."""

import json
import os
from argparse import ArgumentParser, Namespace
from contextlib import suppress

from ringtable._cli.connection import Connection
from ringtable._cli.output import printable
from ringtable._cli.parser import whole_number
from ringtable._cli.signals import interrupt_on_termination
from ringtable._range import check_range
from ringtable._watch import Event, Lagged, Watch

_COUNT_MAX = (1 << 63) - 1


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "A watcher that does not keep up is told how many events were missed. Ends with exit status 1 when the server"
        " does."
    )
    parser.add_argument(
        "prefix",
        metavar="PREFIX",
        nargs="?",
        default="",
        help="What the keys begin with; all keys, if it is left out.",
    )
    parser.add_argument("--count", type=whole_number, metavar="EVENTS", help="End after so many events.")
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print each as a line of JSON. Bytes of a key that are no text are in it as `\\udc80` to `\\udcff`.",
    )
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    if options.count is not None:
        check_range("--count", options.count, 1, _COUNT_MAX, "events")
    at = Connection(options)
    interrupt_on_termination()
    with (
        suppress(KeyboardInterrupt),
        Watch(at.address, os.fsencode(options.prefix), connect_timeout=at.timeout, trust_user=at.trust_user) as events,
    ):
        for number, event in enumerate(events, 1):
            print(_as_json(event) if options.json else _as_text(event), flush=True)
            if number == options.count:
                return


def _as_text(event: Event | Lagged) -> str:
    match event:
        case Lagged(count):
            return f"lagged: {count} events were missed"
        case Event("flush"):
            return "flush"
        case Event("set", key, _, size):
            return f"set {printable(key)}, {size} bytes"
        case Event(kind, key):
            return f"{kind} {printable(key)}"


def _as_json(event: Event | Lagged) -> str:
    if isinstance(event, Lagged):
        return json.dumps({"kind": event.kind, "count": event.count})
    key = event.key.decode(errors="surrogateescape")
    return json.dumps({"kind": event.kind, "key": key, "version": event.version, "size": event.size})
