"""What is promised, and whether a soak has seen it held."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proof.vitals import Sample

WARM_UP = 1 / 3
"""Of the time: what memory and descriptors do in it is no leak, but what a server takes once."""

LINE_S_MIN = 60.0
"""A line through less time than this says nothing, since clients come and go; what they leave is seen at the end."""

MIB = 1 << 20
HOUR_S = 3_600.0


@dataclass(frozen=True)
class Promise:
    """What has to be so, and how it was."""

    name: str
    held: bool
    words: str


@dataclass(frozen=True)
class Bound:
    """How fast a figure may rise after the warm-up.

    What is seen in a short run goes up and down by more than that: so it must have risen by so much as well.
    """

    name: str
    figure: Callable[[Sample], float]
    unit: str
    size: float
    """Of a unit."""

    per_hour_max: float
    noise: float


BOUNDS = (
    Bound("Private memory of the server", lambda sample: sample.private, "MiB", MIB, 8.0, 16.0),
    Bound("Descriptors of the server", lambda sample: sample.descriptors, "descriptors", 1, 20.0, 60.0),
    Bound("Threads of the server", lambda sample: sample.threads, "threads", 1, 0.5, 0.5),
)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line that fits best."""
    count = len(points)
    if count < 2:
        return 0.0
    middle_x, middle_y = (sum(point[axis] for point in points) / count for axis in (0, 1))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def after_warm_up(samples: Sequence[Sample]) -> Sequence[Sample]:
    return [sample for sample in samples if sample.at_s >= WARM_UP * samples[-1].at_s] if samples else []


def does_not_rise(bound: Bound, samples: Sequence[Sample]) -> Promise:
    warm = after_warm_up(samples)
    per_s = slope([(sample.at_s, bound.figure(sample) / bound.size) for sample in warm])
    seconds = warm[-1].at_s - warm[0].at_s if warm else 0.0
    risen = per_s * seconds
    if seconds < LINE_S_MIN:
        words = f"{risen:+.1f} {bound.unit} in {seconds:.0f} s, which is too short a time to judge by"
        return Promise(f"{bound.name}: no leak", True, words)
    held = per_s * HOUR_S < bound.per_hour_max or risen < bound.noise
    words = f"{per_s * HOUR_S:+.1f} {bound.unit} an hour by the line through {seconds:.0f} s after the warm-up"
    words += f", which is {risen:+.1f} there (at most {bound.per_hour_max:g} an hour"
    return Promise(f"{bound.name}: no leak", held, f"{words}, or {bound.noise:g} in all)")


# What belongs to clients, and has to have gone with the last of them.
GONE_WITH_THE_CLIENTS = ("lanes", "watchers", "leases", "holds", "hazard_records", "entries_retired", "memory_drafts")


def is_as_before(before: Sample, after: Sample) -> list[Promise]:
    """What the server has to have given up when all clients have left."""
    left = {name: after.figure(name) for name in GONE_WITH_THE_CLIENTS if after.figure(name) > before.figure(name)}
    clients = after.figure("clients") - before.figure("clients")
    return [
        Promise(
            "Nothing is left of clients that have left",
            not left and clients <= 0,
            ", ".join(f"{name} {count:g}" for name, count in {**left, "clients": clients}.items() if count > 0)
            or "no lane, watch, lease, pin or draft",
        ),
        Promise(
            "Descriptors are given back",
            after.descriptors <= before.descriptors,
            f"{before.descriptors} before the first client, {after.descriptors} after the last",
        ),
        Promise(
            "The table's memory keeps its limit",
            after.segment <= after.figure("max_memory"),
            f"{after.segment / MIB:.0f} MiB of {after.figure('max_memory') / MIB:.0f} MiB at the end",
        ),
    ]
