"""`ringtable client`: the classic client, which checks and measures a table, and the printing of the table."""

import itertools
import json
import random
import resource
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, NamedTuple, cast

from ringtable import _ringtable
from ringtable._cli.built import require_bench
from ringtable._cli.connection import Connection
from ringtable._cli.parser import whole_number
from ringtable._cli.signals import interrupt_on_termination
from ringtable._errors import Error, InvalidOption
from ringtable._range import check_range

if TYPE_CHECKING:
    from ringtable._table import Table

# Beyond this a value is named by its size alone: a longer one says little on a line of a terminal.
PRINTED_SIZE_MAX = 64
_U32_COUNT = 1 << 32
_U64_MAX = (1 << 64) - 1


class Figures(NamedTuple):
    """What one run of the classic client measured: its loop, without start-up and connecting."""

    seconds: float
    user_s: float
    system_s: float
    operations: int

    @property
    def operations_per_s(self) -> float:
        return self.operations / self.seconds if self.seconds else 0.0


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = "Any mismatch is an error and exit status 1."
    parser.add_argument(
        "outer", metavar="OUTER", nargs="?", type=whole_number, help="How many times; 0 for until Ctrl-C."
    )
    parser.add_argument("inner", metavar="INNER", nargs="?", type=whole_number, help="Keys each time.")
    parser.usage = "%(prog)s [OPTIONS] [OUTER INNER]"
    parser.add_argument("--seed", type=whole_number, help="The seed of the random keys; a random one unless given.")
    parser.add_argument(
        "--reads",
        choices=("direct", "server"),
        default="direct",
        help="Read in place, or through the server; direct unless given.",
    )
    parser.add_argument(
        "--transport",
        choices=("auto", "lane", "rings", "socket"),
        default="auto",
        help="Use the shared memory that the server has for its clients (a lane, or rings), or the plain socket; the"
        " memory where there is any, unless given.",
    )
    parser.add_argument(
        "--python",
        action="store_true",
        help="Run the loop through the public Python API instead of in the engine.",
    )
    parser.add_argument("--json", action="store_true", help="Print the figures as one line of JSON.")
    parser.add_argument("--debug-print", action="store_true", help="Print the table, bucket by bucket.")
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    at = Connection(options)
    outer: int | None = options.outer
    inner: int | None = options.inner
    if outer is None and not options.debug_print:
        raise InvalidOption("nothing to do: give OUTER and INNER, as in `ringtable client 100 10`, or --debug-print")
    if outer is not None:
        if inner is None:
            raise InvalidOption("INNER is missing: give OUTER and INNER, as in `ringtable client 100 10`")
        seed: int = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
        check_range("OUTER", outer, 0, _U64_MAX, "rounds")
        check_range("INNER", inner, 1, _U32_COUNT, "keys")
        check_range("--seed", seed, 0, _U64_MAX, "as a number")
        interrupt_on_termination()
        figures = _classic_client(at, outer, inner, seed, options)
        print(_as_json(seed, figures) if options.json else _as_text(seed, figures))
    if options.debug_print:
        with at.open(transport=options.transport) as table:
            print_table(table)


def _classic_client(at: Connection, outer: int, inner: int, seed: int, options: Namespace) -> Figures:
    if options.python:
        with at.open(reads=options.reads, transport=options.transport) as table:
            return classic_client_python(table, outer, inner, seed)
    require_bench("ringtable client (without --python)")
    measured = _ringtable.classic_client(
        at.address,
        outer,
        inner,
        seed=seed,
        reads=options.reads,
        transport=options.transport,
        timeout=at.timeout,
        trust_user=at.trust_user,
    )
    return Figures(measured["seconds"], measured["user_s"], measured["system_s"], int(measured["operations"]))


def classic_client_python(table: "Table", outer: int, inner: int, seed: int) -> Figures:
    """The loop of the classic client through the public Python API.

    Args:
        table: The table to check.
        outer: How many times; 0 for until Ctrl-C.
        inner: Keys each time.
        seed: The seed of the random keys.

    Raises:
        Error: The table did not hold what was written, or did not delete it.
    """
    generator = random.Random(seed)
    rounds = 0
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    try:
        for _ in itertools.count() if outer == 0 else range(outer):
            _insert_read_delete(table, _random_entries(generator, seed, inner))
            rounds += 1
    except KeyboardInterrupt:
        if outer:
            raise
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Figures(seconds, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, 3 * rounds * inner)


def print_table(table: "Table") -> None:
    """Print the entries of the server's table, bucket by bucket, without the empty buckets."""
    start = 0
    while True:
        start, *buckets = cast("tuple[int, *tuple[tuple[int, list[bytes | int]], ...]]", table.call("RING.DUMP", start))
        for index, flat in buckets:
            entries = cast("list[tuple[bytes, int]]", list(zip(flat[::2], flat[1::2], strict=True)))
            print(f"bucket {index}: {len(entries)} {'entry' if len(entries) == 1 else 'entries'}")
            short = [key for key, size in entries if size <= PRINTED_SIZE_MAX]
            values = dict(zip(short, table.get_many(short), strict=True))
            for key, size in entries:
                value = values.get(key)
                print(f"  {key!r}: {f'{size} bytes' if value is None else repr(value)}")
        if start == 0:
            return


def _random_entries(generator: random.Random, seed: int, count: int) -> dict[bytes, bytes]:
    """Entries with distinct keys `ht{seed}{u32}`; the u32 is also the value, as four bytes, the lowest first."""
    numbers = generator.sample(range(_U32_COUNT), count)
    return {b"ht%d%d" % (seed, number): number.to_bytes(4, "little") for number in numbers}


def _insert_read_delete(table: "Table", entries: dict[bytes, bytes]) -> None:
    table.set_many(entries)
    if table.reads == "direct":
        buckets = [table.read_bucket(key) for key in entries]
    else:
        pipeline = table.pipeline()
        for key in entries:
            pipeline.read_bucket(key)
        buckets = pipeline.execute()
    for (key, value), bucket in zip(entries.items(), buckets, strict=True):
        found = dict(bucket).get(key)
        if found != value:
            raise Error(f"mismatch: {key!r} was written as {value!r}, but its bucket has {found!r}")
    deleted = table.delete_many(entries)
    if deleted != len(entries):
        raise Error(f"mismatch: {len(entries)} keys were written, but {deleted} deleted")


def _as_json(seed: int, figures: Figures) -> str:
    return json.dumps(
        {
            "seed": seed,
            "seconds": figures.seconds,
            "user_s": figures.user_s,
            "system_s": figures.system_s,
            "operations": figures.operations,
            "operations_per_s": figures.operations_per_s,
        }
    )


def _as_text(seed: int, figures: Figures) -> str:
    return (
        f"seed {seed}: {figures.operations:,} operations in {figures.seconds * 1e3:,.2f} ms"
        f" (user {figures.user_s * 1e3:,.2f} ms, system {figures.system_s * 1e3:,.2f} ms),"
        f" {figures.operations_per_s:,.0f} operations/s"
    )
