"""`ringtable profile`: what `profile.py` samples."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ringtable._cli.parser import number, whole_number


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "Runs both, prints the shares, and writes flame graphs (server.svg, client.svg) and what they are drawn from"
        " (server.folded, client.folded). It needs no privileges: the two processes sample themselves."
    )
    parser.add_argument(
        "--topology",
        choices=("lanes", "shared", "sharded"),
        default="lanes",
        help="How requests and replies travel; over lanes unless given.",
    )
    parser.add_argument(
        "--reads",
        choices=("direct", "server"),
        default="direct",
        help="Clients read in place, or through the server; direct unless given.",
    )
    parser.add_argument(
        "--transport",
        choices=("auto", "socket"),
        default="auto",
        help="What clients talk through: a lane or the rings of the topology, which is auto and the default, or a"
        " socket.",
    )
    parser.add_argument(
        "--clients",
        type=whole_number,
        default=4,
        help="How many clients run, 4 unless given; the first one is profiled.",
    )
    parser.add_argument(
        "--workers", type=whole_number, metavar="THREADS", help="The server's worker threads; one per CPU unless given."
    )
    parser.add_argument("--seconds", type=number, default=5.0, help="For how long; 5 unless given.")
    parser.add_argument(
        "--hz",
        type=whole_number,
        default=997,
        metavar="SAMPLES",
        help="Samples for each second of CPU time, 997 unless given; the kernel's clock (100 to 1,000 ticks a second)"
        " may allow fewer.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("ringtable-profile"),
        metavar="FOLDER",
        help="The folder to write to, ringtable-profile unless given; it is made if it does not exist.",
    )


def run(options: Namespace) -> None:
    from ringtable._cli.profile import profile

    profile(**vars(options))
