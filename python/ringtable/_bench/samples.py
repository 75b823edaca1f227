"""Several runs of one thing: mean, spread and median; and whether two such things really differ."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NOISE_RATIO = 1.05
"""Medians closer than this are called equal, however steady both are."""

RUNS_MIN = 3
"""Fewer runs show no spread, so that any difference may be chance."""


@dataclass(frozen=True)
class Samples:
    """The values of all runs, at least one."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sigma(self) -> float:
        """The standard deviation; 0 for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    @property
    def middle(self) -> tuple[float, float]:
        """Where the middle four fifths of the runs lie; of few runs, nearly all."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, *_, high = statistics.quantiles(self.values, n=10, method="inclusive")
        return low, high


def samples(values: Sequence[float]) -> Samples:
    return Samples(tuple(values))


@dataclass(frozen=True)
class Comparison:
    """The ratio of two medians, `value` over `reference`."""

    ratio: float
    noise: bool
    """Whether it may be chance: the middles of the runs overlap, the medians are near, or the runs are few."""


def compare(value: Samples, reference: Samples) -> Comparison:
    ratio = value.median / reference.median if reference.median else float("inf")
    (low, high), (reference_low, reference_high) = value.middle, reference.middle
    overlap = low <= reference_high and reference_low <= high
    near = 1 / NOISE_RATIO < ratio < NOISE_RATIO
    few = min(len(value.values), len(reference.values)) < RUNS_MIN
    return Comparison(ratio, overlap or near or few)
