"""`ringtable server`: a server until it is told to stop."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from functools import partial
from typing import Any

from ringtable._cli.descriptors import raise_limit
from ringtable._cli.parser import number, whole_number
from ringtable._cli.serving import serve
from ringtable._options import OPTIONS, engine_options, parse_mode
from ringtable._range import check_range
from ringtable._ringtable import default_address

# So many deaths within ten seconds have a keeper give up: unless told otherwise, and at most.
DEATHS = 3
_DEATHS_MOST = 10_000
# So many seconds without a sign of life have it kill the server: unless told otherwise, and at most.
HANG_TIMEOUT_S = 30.0
_HANG_TIMEOUT_MOST_S = 86_400


def arguments(parser: ArgumentParser) -> None:
    # What is not given is left to the file, and then to `Server`: so no option has its default here.
    parser.add_argument(
        "-s",
        "--buckets",
        type=whole_number,
        metavar="COUNT",
        help="Buckets of 64 bytes that the table has at first, 10,000 unless given; it grows as needed.",
    )
    parser.add_argument(
        "-n", "--workers", type=whole_number, metavar="THREADS", help="Worker threads; one per CPU unless given."
    )
    parser.add_argument("--name", help="The name that clients connect to; $RINGTABLE_URL unless given, or default.")
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="The most memory that the table may take: 1GiB, which is the default, 512MiB, or a number of bytes.",
    )
    parser.add_argument(
        "--cache",
        action="store_true",
        default=None,
        help="The table is a cache: unless --eviction says otherwise, entries are evicted when it is full.",
    )
    parser.add_argument(
        "--eviction",
        choices=("noeviction", "allkeys-sieve", "volatile-ttl"),
        help="What happens to a write when the table is full: it is refused, which is the default; or it takes the"
        " place of entries that were not used lately, which is --cache; or of those that expire soonest.",
    )
    parser.add_argument(
        "--max-clients",
        type=whole_number,
        metavar="COUNT",
        help="The most clients that there may be at once, over all transports.",
    )
    parser.add_argument(
        "--spin-us",
        type=number,
        metavar="US",
        help="The most microseconds that a worker looks for work before it sleeps; measured unless given.",
    )
    parser.add_argument(
        "--strict-seal",
        action="store_true",
        default=None,
        help="Let no process, whatever its rights, get a writable view of the table. Memory is given back only at the"
        " end, then.",
    )
    parser.add_argument(
        "--tcp",
        metavar="HOST:PORT",
        help="Listen at a TCP port, too; the host is a loopback address or localhost, port 0 any free port. Every user"
        " of this machine may connect to it.",
    )
    parser.add_argument(
        "--udp",
        metavar="HOST:PORT",
        help="Listen at a UDP port, too, in the same way: for ringtable's own clients that have nothing else.",
    )
    parser.add_argument(
        "--mode",
        help="Who may connect, as the mode of the socket: 0600, this user alone (and root), which is the default; 0660,"
        " the group too; 0666, all users. Who may connect may read and write everything. Other users' clients say that"
        " they trust this one by --trust-user.",
    )
    parser.add_argument("--group", help="The group that the socket is given to; with it, --mode is 0660 unless given.")
    parser.add_argument(
        "--topology",
        choices=("lanes", "shared", "sharded"),
        help="What lies between clients and workers: a lane for each client, which is the default; one pair of rings"
        " that all share, which is the classic; or such a pair for each worker.",
    )
    parser.add_argument(
        "--ring-slots",
        type=whole_number,
        metavar="COUNT",
        help="Slots of each ring of a classic topology, a power of two; 2,048 unless given.",
    )
    parser.add_argument(
        "--slot-size",
        type=whole_number,
        metavar="BYTES",
        help="Bytes of such a slot, a power of two; 256 unless given.",
    )
    parser.add_argument(
        "--slow-consumer-timeout",
        type=number,
        metavar="SECONDS",
        help="Seconds for which one client may keep the others from replies, in a classic topology; 2 unless given.",
    )
    # Its name once.
    parser.add_argument("--laggard-timeout", dest="slow_consumer_timeout", type=number, help=SUPPRESS)
    parser.add_argument(
        "--max-unevictable",
        metavar="SIZE",
        help="The most memory of entries that are never evicted, as for --max-memory; half of that unless given.",
    )
    parser.add_argument(
        "--linger",
        type=number,
        metavar="SECONDS",
        help="End when nobody has been connected for so many seconds, since the start or since the last client left.",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="Keep the table on the disk, in a folder that is this server's alone: its newest snapshot is loaded at the"
        " start, and there is one at the end.",
    )
    parser.add_argument(
        "--snapshot-every",
        type=number,
        metavar="SECONDS",
        help="Write a snapshot there so often, if something was written to the table; 300 unless given, 0 for none but"
        " that at the end.",
    )
    parser.add_argument(
        "--snapshots-kept",
        type=whole_number,
        metavar="COUNT",
        help="How many snapshots are kept there, 2 unless given; older ones are removed.",
    )
    parser.add_argument(
        "--log",
        action="store_true",
        default=None,
        help="Log each change there, too, in the files of Redis 7: the death of the machine costs a second then, or"
        " what --fsync says.",
    )
    parser.add_argument(
        "--fsync",
        choices=("always", "everysec", "no"),
        help="When the log is synced: before a write is answered; once a second, which is the default; or when the"
        " system likes.",
    )
    parser.add_argument(
        "--on-disk-error",
        choices=("refuse", "keep-serving"),
        help="What happens to writes when the log cannot be written: they are refused, which is the default, or go on"
        " without it.",
    )
    parser.add_argument(
        "--keeper",
        action="store_true",
        default=None,
        help="Have a second process hold all that the server has. If the server dies, another one goes on with the"
        " table, the locks and the connections of clients that share its memory.",
    )
    parser.add_argument(
        "--max-deaths",
        type=whole_number,
        metavar="COUNT",
        help="The keeper gives up when its servers die so often within 10 seconds; 3 unless given.",
    )
    parser.add_argument(
        "--hang-timeout",
        type=number,
        metavar="SECONDS",
        help="The keeper kills a server that shows no life for so many seconds, 30 unless given, and starts another"
        " one; 0 if nobody is to look.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="A file in TOML that has options by these names, with hyphens or underscores; what is given here counts"
        " more.",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="Print the options as they are, in such a file, and run no server.",
    )


def run(options: Namespace) -> None:
    typed = {name: value for name, value in vars(options).items() if value is not None}
    file, only_print = typed.pop("config", None), typed.pop("print_config")
    if "mode" in typed:
        typed["mode"] = parse_mode(typed["mode"])
    # Imported only where they are used, as all that not every start needs.
    if file is not None or only_print:
        from ringtable._cli import config
    from ringtable._server import defaults

    # What was typed counts more than what the file says, and that more than the defaults.
    of_keeper = {"keeper": False, "max_deaths": DEATHS, "hang_timeout": HANG_TIMEOUT_S}
    from_file: dict[str, Any] = {} if file is None else config.read(file)
    effective = {"name": default_address(), **of_keeper, **defaults(), **from_file, **typed}
    check_range("--max-deaths", effective["max_deaths"], 1, _DEATHS_MOST, "deaths")
    check_range("--hang-timeout", effective["hang_timeout"], 0, _HANG_TIMEOUT_MOST_S, "seconds")
    if only_print:
        engine_options({name: value for name, value in effective.items() if name in OPTIONS})
        print(config.written(effective))
        return
    raise_limit()
    of_server = {name: value for name, value in effective.items() if name not in of_keeper}
    if not effective["keeper"]:
        serve(of_server)
        return
    from ringtable._keeper.keeper import Keeper, serve_kept

    new_keeper = partial(Keeper, of_server, effective["max_deaths"], effective["hang_timeout"])
    serve_kept(new_keeper().keep(), new_keeper, partial(serve, of_server))
