"""Four processes count into one table, and no count is lost.

    python examples/shared_counters.py

The server runs in this process. Each worker is handed the table itself: it pickles as its address, and the worker opens
a connection of its own.
"""

import multiprocessing
import random
import tempfile

import ringtable

WORKERS = 4
VISITS = 10_000
PAGES = [f"/page/{number}" for number in range(20)]
VISITS_PER_ROUND_TRIP = 500


def visit(table: ringtable.Table, seed: int) -> None:
    """Count visits of random pages. An increment is one step: no two workers read the same count and write it twice."""
    generator = random.Random(seed)
    for _ in range(VISITS // VISITS_PER_ROUND_TRIP):
        with table.pipeline() as pipeline:
            for page in generator.choices(PAGES, k=VISITS_PER_ROUND_TRIP):
                pipeline.incr(page)


def main() -> None:
    # Spawned, as anywhere. A process with a server in it may also fork: the server stays the parent's. But Python 3.12
    # and later warn of every fork of a process that has threads.
    context = multiprocessing.get_context("spawn")
    # A folder of its own, so that no other server of this user is in the way.
    with (
        tempfile.TemporaryDirectory() as folder,
        ringtable.Server(f"{folder}/counters.sock", max_memory="64MiB") as server,
        ringtable.connect(server.path) as table,
    ):
        workers = [context.Process(target=visit, args=(table, seed)) for seed in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        counts = {page.decode(): int(count) for page, count in table.items()}
        for page, count in sorted(counts.items(), key=lambda item: -item[1])[:3]:
            print(f"{page:10} {count:,}")
        print(f"{sum(counts.values()):,} visits counted, {WORKERS * VISITS:,} made")
        if sum(counts.values()) != WORKERS * VISITS:
            raise SystemExit("counts are missing")


if __name__ == "__main__":
    main()
