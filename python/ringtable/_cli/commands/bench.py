"""`ringtable bench`: what `bench.py` measures."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ringtable._cli.parser import whole_number


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "Three parts: the seven scenarios of the published analysis; tight loops of 1 to 16 clients; large values"
        " beside memcpy. Everything runs in processes of its own and ends with the command."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Fewer and shorter rounds: about two minutes on two cores, with unsteadier medians.",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=("scenarios", "scaling", "payloads"),
        help="A part, instead of all three; may be repeated.",
    )
    parser.add_argument(
        "--way",
        action="append",
        default=[],
        help="A way to ringtable, instead of all: shared, sharded, lanes, lanes+direct, unix, tcp, udp; may be"
        " repeated.",
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        help="Something else to measure in loops and large values: manager, valkey, lmdb; may be repeated.",
    )
    parser.add_argument(
        "--runs",
        type=whole_number,
        help="Runs of each scenario over each way, and rounds of the other parts, instead of the usual number.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="A file for all that was measured, run by run.")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="A file for the same as rows, one for each figure.")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="A file for the report as a page that needs no other file."
    )
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="Measure nothing: report what an earlier --json wrote."
    )


def run(options: Namespace) -> None:
    from ringtable._cli.bench import bench

    bench(**vars(options))
