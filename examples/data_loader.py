"""Training processes that share decoded samples: whoever needs a sample first decodes it, for all of them.

    python examples/data_loader.py

Each of four processes goes over the whole data set in an order of its own, several times. Decoding is slow; reading
what another process has decoded copies it out of shared memory. Where the table is full, a process decodes for itself.
"""

import multiprocessing
import random
import tempfile
import time
import zlib
from array import array
from contextlib import suppress

import ringtable

TRAINERS = 4
EPOCHS = 3
SAMPLES = 256
SAMPLE_FLOATS = 4_096
BATCH = 16
DECODE_S = 0.002


def stored(index: int) -> bytes:
    """Sample number `index` as it would lie on a disk."""
    return zlib.compress(array("f", (float(index + place) for place in range(SAMPLE_FLOATS))).tobytes())


def decode(index: int) -> "array[float]":
    """The slow part: decompressing, and what real decoders do besides."""
    time.sleep(DECODE_S)
    return array("f", zlib.decompress(stored(index)))


def load(table: ringtable.Table, indexes: list[int]) -> list["array[float]"]:
    """The samples of a batch: those that any process has decoded out of the table, the others decoded now."""
    found = table.get_many(f"sample {index}" for index in indexes)
    batch: list[array[float]] = []
    for index, data in zip(indexes, found, strict=True):
        if data is not None:
            batch.append(array("f", data))
            continue
        sample = decode(index)
        table.incr("decoded")
        batch.append(sample)
        # Where there is no room for it, everybody decodes it for himself.
        with suppress(ringtable.OutOfMemory):
            # Anything with the buffer protocol is a value.
            table[f"sample {index}"] = sample
    return batch


def train(address: str, seed: int) -> None:
    generator = random.Random(seed)
    with ringtable.connect(address) as table:
        for _ in range(EPOCHS):
            indexes = generator.sample(range(SAMPLES), SAMPLES)
            for first in range(0, SAMPLES, BATCH):
                chosen = indexes[first : first + BATCH]
                for index, sample in zip(chosen, load(table, chosen), strict=True):
                    assert (len(sample), sample[0]) == (SAMPLE_FLOATS, index)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ringtable.Server(f"{folder}/samples.sock", max_memory="64MiB") as server,
        ringtable.connect(server.path) as table,
    ):
        start = time.perf_counter()
        trainers = [context.Process(target=train, args=(server.path, seed)) for seed in range(TRAINERS)]
        for trainer in trainers:
            trainer.start()
        for trainer in trainers:
            trainer.join()
        if any(trainer.exitcode for trainer in trainers):
            raise SystemExit("a trainer has failed")

        needed = TRAINERS * EPOCHS * SAMPLES
        # More than SAMPLES, where two processes needed the same sample at the same time.
        decoded = int(table["decoded"])
        print(f"{needed:,} samples needed, {decoded:,} decoded, in {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
