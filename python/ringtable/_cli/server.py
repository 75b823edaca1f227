"""`ringtable server`: a server until it is told to stop."""

from typing import Annotated, Literal

from cyclopts import Parameter

from ringtable._cli.descriptors import raise_limit
from ringtable._cli.output import announce
from ringtable._cli.signals import interrupt_on_termination
from ringtable._options import format_size, parse_mode, parse_size
from ringtable._server import Server


def server(
    *,
    buckets: Annotated[int, Parameter(alias="-s")] = 10_000,
    workers: Annotated[int | None, Parameter(alias="-n")] = None,
    name: str = "default",
    max_memory: str = "1GiB",
    cache: bool = False,
    eviction: Literal["noeviction", "allkeys-sieve", "volatile-ttl"] | None = None,
    max_clients: int | None = None,
    spin_us: float | None = None,
    strict_seal: bool = False,
    tcp: str | None = None,
    udp: str | None = None,
    mode: str | None = None,
    group: str | None = None,
    topology: Literal["lanes", "shared", "sharded"] = "lanes",
    ring_slots: int = 2_048,
    slot_size: int = 256,
    slow_consumer_timeout: float = 2.0,
    max_unevictable: str | None = None,
    linger: float | None = None,
) -> None:
    """Run a server until SIGINT (Ctrl-C), SIGTERM or SIGHUP: a line when it is ready, then nothing.

    Args:
        buckets: Buckets of 64 bytes that the table has at first; it grows as needed.
        workers: Worker threads; one per CPU unless given.
        name: The name that clients connect to.
        max_memory: The most memory that the table may take: 1GiB, 512MiB, or a number of bytes.
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
        topology: What lies between clients and workers: a lane for each client; one pair of rings that all share, which
            is the classic; or such a pair for each worker.
        ring_slots: Slots of each ring of a classic topology, a power of two.
        slot_size: Bytes of such a slot, a power of two.
        slow_consumer_timeout: Seconds for which one client may keep the others from replies, in a classic topology.
        max_unevictable: The most memory of entries that are never evicted, as for --max-memory; half of that unless
            given.
        linger: End when nobody has been connected for so many seconds, since the start or since the last client left.
    """
    interrupt_on_termination()
    raise_limit()
    size = parse_size("max_memory", max_memory)
    try:
        with Server(
            name,
            buckets=buckets,
            workers=workers,
            max_memory=size,
            cache=cache,
            eviction=eviction,
            max_clients=max_clients,
            spin_us=spin_us,
            strict_seal=strict_seal,
            tcp=tcp,
            udp=udp,
            mode=None if mode is None else parse_mode(mode),
            group=group,
            topology=topology,
            ring_slots=ring_slots,
            slot_size=slot_size,
            slow_consumer_timeout=slow_consumer_timeout,
            max_unevictable=max_unevictable,
            linger=linger,
        ) as running:
            announce(
                f"ringtable: ready: {name!r} at {running.path}, workers: {running.workers}, buckets: {buckets},"
                f" memory: at most {format_size(size)}, topology: {topology}"
                f"{f', tcp: {running.tcp}' if running.tcp else ''}{f', udp: {running.udp}' if running.udp else ''}"
            )
            running.wait()
    except KeyboardInterrupt:
        pass
