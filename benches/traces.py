"""What caches are asked for: sequences of key numbers, the same for the same seed."""

from dataclasses import dataclass
from typing import Any

EXPONENT = 1.0
"""Of Zipf's law: the second key is asked for half as often as the first, the third a third as often."""

SCAN_SHARE = 0.2
"""Of the requests of a polluted trace."""

SCANS_PER_ROOM = 5
"""So many scans are as long as the cache has room."""


@dataclass(frozen=True)
class Trace:
    name: str
    about: str
    keys: Any
    """An array of numbers."""


def zipf(seed: int, requests: int, keys: int) -> Trace:
    """Draws each request on its own, the most popular keys anywhere among the numbers."""
    return Trace(
        "zipf",
        f"Zipf({EXPONENT:g}), {requests:,} requests of {keys:,} keys",
        draw(seed, requests, keys),
    )


def polluted(seed: int, requests: int, keys: int, room: int) -> Trace:
    """The same, broken at random places by scans of keys that nobody asks for before or after."""
    import numpy

    noise = numpy.random.default_rng(seed + 1)
    scan_length = max(1, room // SCANS_PER_ROOM)
    scans = max(1, round(requests * SCAN_SHARE / scan_length))
    popular = draw(seed, requests - scans * scan_length, keys)
    places = numpy.sort(noise.integers(0, len(popular), scans))
    pieces = numpy.split(popular, places)
    whole = [pieces[0]]
    for number, piece in enumerate(pieces[1:]):
        first = keys + number * scan_length
        whole += [numpy.arange(first, first + scan_length), piece]
    return Trace(
        "polluted",
        f"the same with {scans:,} scans of {scan_length:,} keys used once, {scans * scan_length / requests:.0%} of all",
        numpy.concatenate(whole),
    )


def draw(seed: int, requests: int, keys: int) -> Any:
    import numpy

    noise = numpy.random.default_rng(seed)
    shares = numpy.cumsum(1.0 / numpy.arange(1, keys + 1) ** EXPONENT)
    ranks = numpy.searchsorted(shares, noise.random(requests) * shares[-1], side="right")
    return noise.permutation(keys)[numpy.minimum(ranks, keys - 1)]
