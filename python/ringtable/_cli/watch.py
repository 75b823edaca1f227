"""`ringtable watch`: what happens to keys, as it happens."""

import json as json_
import os
from contextlib import suppress

from ringtable._cli.connection import DEFAULT, Connection
from ringtable._cli.output import printable
from ringtable._cli.signals import interrupt_on_termination
from ringtable._options import check_range
from ringtable._watch import Event, Lagged, Watch

_COUNT_MAX = (1 << 63) - 1


def watch(prefix: str = "", /, *, count: int | None = None, json: bool = False, at: Connection = DEFAULT) -> None:
    """Print what happens to keys, one event on a line, until Ctrl-C.

    A watcher that does not keep up is told how many events were missed. Ends with exit status 1 when the server does.

    Args:
        prefix: What the keys begin with; all keys, if it is left out.
        count: End after so many events.
        json: Print each as a line of JSON. Bytes of a key that are no text are in it as `\\udc80` to `\\udcff`.
    """
    if count is not None:
        check_range("--count", count, 1, _COUNT_MAX, "events")
    interrupt_on_termination()
    with (
        suppress(KeyboardInterrupt),
        Watch(at.address, os.fsencode(prefix), connect_timeout=at.timeout, trust_user=at.trust_user) as events,
    ):
        for number, event in enumerate(events, 1):
            print(_as_json(event) if json else _as_text(event), flush=True)
            if number == count:
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
        return json_.dumps({"kind": event.kind, "count": event.count})
    key = event.key.decode(errors="surrogateescape")
    return json_.dumps({"kind": event.kind, "key": key, "version": event.version, "size": event.size})
