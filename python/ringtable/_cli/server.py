"""`ringtable server`: a server until it is told to stop."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ringtable._cli import config as configuration
from ringtable._cli.descriptors import raise_limit
from ringtable._cli.output import announce
from ringtable._cli.signals import interrupt_on_termination
from ringtable._options import engine_options, format_size, parse_mode, parse_size
from ringtable._ringtable import default_address
from ringtable._server import Server

# What is not given is left to the file, and then to `Server`: so no option has its default here.


def server(
    *,
    buckets: Annotated[int | None, Parameter(alias="-s")] = None,
    workers: Annotated[int | None, Parameter(alias="-n")] = None,
    name: str | None = None,
    max_memory: str | None = None,
    cache: bool | None = None,
    eviction: Literal["noeviction", "allkeys-sieve", "volatile-ttl"] | None = None,
    max_clients: int | None = None,
    spin_us: float | None = None,
    strict_seal: bool | None = None,
    tcp: str | None = None,
    udp: str | None = None,
    mode: str | None = None,
    group: str | None = None,
    topology: Literal["lanes", "shared", "sharded"] | None = None,
    ring_slots: int | None = None,
    slot_size: int | None = None,
    slow_consumer_timeout: float | None = None,
    max_unevictable: str | None = None,
    linger: float | None = None,
    config: Path | None = None,
    print_config: bool = False,
) -> None:
    """Run a server until SIGINT (Ctrl-C), SIGTERM or SIGHUP: a line when it is ready, then nothing.

    Args:
        buckets: Buckets of 64 bytes that the table has at first, 10,000 unless given; it grows as needed.
        workers: Worker threads; one per CPU unless given.
        name: The name that clients connect to; $RINGTABLE_URL unless given, or default.
        max_memory: The most memory that the table may take: 1GiB, which is the default, 512MiB, or a number of bytes.
        cache: The table is a cache: unless --eviction says otherwise, entries are evicted when it is full.
        eviction: What happens to a write when the table is full: it is refused, which is the default; or it takes the
            place of entries that were not used lately, which is --cache; or of those that expire soonest.
        max_clients: The most clients that there may be at once, over all transports.
        spin_us: The most microseconds that a worker looks for work before it sleeps; measured unless given.
        strict_seal: Let no process, whatever its rights, get a writable view of the table. Memory is given back only at
            the end, then.
        tcp: Listen at a TCP port, too, as HOST:PORT; the host is a loopback address or localhost, port 0 any free port.
            Every user of this machine may connect to it.
        udp: Listen at a UDP port, too, in the same way: for ringtable's own clients that have nothing else.
        mode: Who may connect, as the mode of the socket: 0600, this user alone (and root), which is the default; 0660,
            the group too; 0666, all users. Who may connect may read and write everything. Other users' clients say that
            they trust this one by --trust-user.
        group: The group that the socket is given to; with it, --mode is 0660 unless given.
        topology: What lies between clients and workers: a lane for each client, which is the default; one pair of rings
            that all share, which is the classic; or such a pair for each worker.
        ring_slots: Slots of each ring of a classic topology, a power of two; 2,048 unless given.
        slot_size: Bytes of such a slot, a power of two; 256 unless given.
        slow_consumer_timeout: Seconds for which one client may keep the others from replies, in a classic topology; 2
            unless given.
        max_unevictable: The most memory of entries that are never evicted, as for --max-memory; half of that unless
            given.
        linger: End when nobody has been connected for so many seconds, since the start or since the last client left.
        config: A file in TOML that has options by these names, with hyphens or underscores; what is given here counts
            more.
        print_config: Print the options as they are, in such a file, and run no server.
    """
    typed = {
        "name": name,
        "buckets": buckets,
        "workers": workers,
        "max_memory": max_memory,
        "cache": cache,
        "eviction": eviction,
        "max_clients": max_clients,
        "spin_us": spin_us,
        "strict_seal": strict_seal,
        "tcp": tcp,
        "udp": udp,
        "mode": None if mode is None else parse_mode(mode),
        "group": group,
        "topology": topology,
        "ring_slots": ring_slots,
        "slot_size": slot_size,
        "slow_consumer_timeout": slow_consumer_timeout,
        "max_unevictable": max_unevictable,
        "linger": linger,
    }
    options = _effective(typed, {} if config is None else configuration.read(config))
    if print_config:
        engine_options({option: value for option, value in options.items() if option != "name"})
        print(configuration.written(options))
        return
    interrupt_on_termination()
    raise_limit()
    size = parse_size("max_memory", options["max_memory"])
    try:
        with Server(**options) as running:
            announce(
                f"ringtable: ready: {options['name']!r} at {running.path}, workers: {running.workers},"
                f" buckets: {options['buckets']}, memory: at most {format_size(size)}, topology: {options['topology']}"
                f"{f', tcp: {running.tcp}' if running.tcp else ''}{f', udp: {running.udp}' if running.udp else ''}"
            )
            running.wait()
    except KeyboardInterrupt:
        pass


def _effective(typed: dict[str, Any], from_file: dict[str, Any]) -> dict[str, Any]:
    """All options: what was typed counts more than what the file says, and that more than the defaults."""
    defaults = {option: one.default for option, one in inspect.signature(Server).parameters.items()}
    defaults["name"] = default_address()
    given = {option: value for option, value in typed.items() if value is not None}
    return {**defaults, **from_file, **given}
