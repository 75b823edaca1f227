"""Being a server until it is told to end: the work of `ringtable server`, and of each server that a keeper starts."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from ringtable._cli.output import announce
from ringtable._cli.signals import TERMINATION, admit_termination, interrupt_on_termination
from ringtable._options import format_size, parse_size

if TYPE_CHECKING:
    from ringtable._keeper.holdings import Estate, Kept
    from ringtable._server import Server

_SYNCED = {"always": "before each answer", "everysec": "each second", "no": "by the system"}


def serve(options: dict[str, Any], kept: Kept | None = None) -> Estate | None:
    """Be a server with these options until it ends; with a keeper, with what it holds for that.

    Return what it leaves to this process, if that is the next keeper from then on.
    """
    interrupt_on_termination()
    # Imported only here, as what not every command needs.
    from ringtable._server import Server

    is_first = kept is None or kept[3] == 0
    ready = "ready" if is_first else "ready again"
    size = parse_size("max_memory", options["max_memory"])
    running = None
    try:
        if is_first:
            # What it loads may take its time; what it takes over is left in order.
            admit_termination()
        with Server(**options, _kept=kept) as running:
            admit_termination()
            announce(
                f"ringtable: {ready}: {options['name']!r} at {running.path}, workers: {running.workers},"
                f" buckets: {options['buckets']}, memory: at most {format_size(size)},"
                f" topology: {options['topology']}"
                f"{f', tcp: {running.tcp}' if running.tcp else ''}{f', udp: {running.udp}' if running.udp else ''}"
                f"{_disk_of(options, running._core.loaded)}",
                # This process may be the keeper before it serves again, and nobody else forks the next server.
                waits=is_first,
            )
            running.wait()
            return estate_of(running)
    except KeyboardInterrupt:
        if running is None:
            return None
        # It has ended. What it could not bring to the disk in the end is raised here.
        running.wait()
        return estate_of(running)


def estate_of(server: Server) -> Estate | None:
    """What a server that has ended leaves to this process. Signals that end commands are held back then.

    To have stopped it counts as to have told it to end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION)
    estate = server._core.estate()
    if estate is None:
        admit_termination()
    return estate


def _disk_of(options: dict[str, Any], loaded: int | None) -> str:
    """Where the table is kept on the disk, and what the server has begun with."""
    if options.get("data") is None:
        return ""
    log = f", log: synced {_SYNCED[options['fsync']]}" if options.get("log") else ""
    return f", data: {options['data']}{log}, {loaded or 0} entries loaded"
