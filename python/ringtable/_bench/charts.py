"""Bars, curves and ranges. Everything is labelled where it stands; markers differ in shape as well as in colour."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ringtable._bench import wording
from ringtable._bench.samples import Samples
from ringtable._bench.svg import Drawing

Show = Callable[[float], str]

WIDTH = 520.0
NAME_WIDTH = 100.0
"""Room for the names on the left of bars and ranges, and on the right of curves."""

VALUE_WIDTH = 74.0
ROW_HEIGHT = 24.0
BAR_HEIGHT = 13.0
TEXT_DROP = 4.0
"""From the middle of a line of text to its base line."""

AXIS_HEIGHT = 22.0
"""Room for the numbers below bars."""

LABEL_DISTANCE = 15.0
CURVE_HEIGHT = 380.0
MARKER_SIZE = 4.0


def series(names: Sequence[str], name: str) -> str:
    """The class that the style sheet colours."""
    return f"s-{name.replace('+', '-')}" if name in names else "s-other"


@dataclass(frozen=True)
class Logarithmic:
    """A scale on which equal factors have equal lengths."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = math.log(self.high / self.low) or 1.0
        return self.start + (self.end - self.start) * math.log(max(value, self.low) / self.low) / span

    def ticks(self) -> list[float]:
        powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        return [10.0**power for power in powers]

    @staticmethod
    def around(values: Sequence[float], start: float, end: float) -> "Logarithmic":
        """One whose ends are whole powers of ten."""
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return Logarithmic(10.0**low, 10.0 ** max(high, low + 1), start, end)


@dataclass(frozen=True)
class Linear:
    """A scale from 0."""

    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * min(value / self.high, 1.0)

    def ticks(self) -> list[float]:
        """Round values, some three to six."""
        wanted = self.high / 4
        unit = 10.0 ** math.floor(math.log10(wanted))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= wanted)
        return [step * index for index in range(math.floor(self.high / step + 1e-9) + 1)]

    def draw(self, drawing: Drawing, bottom: float, show: Show) -> None:
        """The axis of bars that lie above `bottom`."""
        for value in self.ticks():
            x = self(value)
            drawing.line(x, 0.0, x, bottom, class_="grid" if value else "axis")
            drawing.text(x, bottom + 16, wording.tick(show(value)), text_anchor="middle", class_="tick")


def bars(title: str, entries: Mapping[str, Samples], high: float, show: Show) -> str:
    """A bar to the median of each, a whisker over the middle of its runs. `high` is the end of the scale.

    The medians stand in a column of their own: beside a bar they would seem to be where its whisker ends.
    """
    bottom = ROW_HEIGHT * len(entries) + 8
    drawing = Drawing(WIDTH, bottom + AXIS_HEIGHT, title)
    across = Linear(high, NAME_WIDTH, WIDTH - VALUE_WIDTH)
    left = across.start
    across.draw(drawing, bottom, show)
    for index, (name, samples) in enumerate(entries.items()):
        middle = ROW_HEIGHT * (index + 0.5) + 4
        median, low, end = (across(value) for value in (samples.median, *samples.middle))
        drawing.text(left - 8, middle + TEXT_DROP, name, text_anchor="end", class_="name")
        drawing.rectangle(
            left, middle - BAR_HEIGHT / 2, median - left, BAR_HEIGHT, class_=f"fill {series(list(entries), name)}"
        )
        drawing.line(low, middle, end, middle, class_="whisker")
        drawing.text(WIDTH, middle + TEXT_DROP, show(samples.median), text_anchor="end", class_="value")
    return drawing.render()


@dataclass(frozen=True)
class Curve:
    name: str
    points: Sequence[tuple[float, float]]


def curves(title: str, unit: str, lines: Sequence[Curve], show: Show, cores: int) -> str:
    """Curves over numbers of clients, both axes logarithmic, each labelled at its end."""
    drawing = Drawing(WIDTH, CURVE_HEIGHT, title)
    counts = sorted({count for line in lines for count, _ in line.points})
    left, right, top, bottom = 62.0, WIDTH - NAME_WIDTH - 12, 34.0, CURVE_HEIGHT - 40
    across = Logarithmic(counts[0], max(counts[-1], counts[0] * 1.01), left + 14, right - 6)
    up = Logarithmic.around([value for line in lines for _, value in line.points], bottom, top)
    crowded = [count for count in counts if count > cores]
    if crowded:
        calm = [count for count in counts if count <= cores]
        edge = (across(crowded[0]) + across(calm[-1])) / 2 if calm else left
        drawing.rectangle(edge, top, right - edge, bottom - top, class_="crowd")
        drawing.text(edge + 6, top + 14, f"more clients than cores ({cores})", class_="note")
    drawing.text(left - 50, 16.0, unit, class_="axis-name")
    for value in up.ticks():
        drawing.line(left, up(value), right, up(value), class_="grid")
        drawing.text(left - 8, up(value) + TEXT_DROP, wording.tick(show(value)), text_anchor="end", class_="tick")
    for count in counts:
        drawing.text(across(count), bottom + 18, f"{count:g}", text_anchor="middle", class_="tick")
    drawing.text((left + right) / 2, bottom + 35, "clients", text_anchor="middle", class_="axis-name")
    ends = spread([up(line.points[-1][1]) for line in lines], top, bottom)
    for index, (line, label_y) in enumerate(zip(lines, ends, strict=True)):
        of_series = series([line.name for line in lines], line.name)
        places = [(across(count), up(value)) for count, value in line.points]
        drawing.curve(places, class_=f"stroke {of_series}")
        for x, y in places:
            drawing.marker(index, x, y, MARKER_SIZE, class_=f"fill {of_series}")
        drawing.line(places[-1][0] + 6, places[-1][1], right + 8, label_y, class_=f"leader {of_series}")
        drawing.text(right + 11, label_y + TEXT_DROP, line.name, class_="name")
    return drawing.render()


def spread(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places near the wanted ones, far enough from each other to be read."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = list(wanted)
    for before, index in pairwise(order):
        places[index] = max(places[index], places[before] + LABEL_DISTANCE)
    if order and places[order[-1]] > high:
        places[order[-1]] = high
        for after, index in pairwise(reversed(order)):
            places[index] = min(places[index], places[after] - LABEL_DISTANCE)
    return [max(place, low) for place in places]


RANGE_SHAPES = {"50": 0, "99": 4, "99.9": 1}
"""The percentiles that are drawn, and their markers."""


def ranges(title: str, entries: Mapping[str, Mapping[str, float]], span: tuple[float, float], show: Show) -> str:
    """Three percentiles of each on one logarithmic axis."""
    top = 46.0
    drawing = Drawing(WIDTH, top + ROW_HEIGHT * len(entries) + 26, title)
    left, right, bottom = NAME_WIDTH, WIDTH - VALUE_WIDTH, drawing.height - 22
    across = Logarithmic.around(span, left + 8, right)
    for value in across.ticks():
        drawing.line(across(value), top - 8, across(value), bottom, class_="grid")
        drawing.text(across(value), bottom + 16, wording.tick(show(value)), text_anchor="middle", class_="tick")
    x = left + 8
    for percent, shape in RANGE_SHAPES.items():
        drawing.marker(shape, x, 14.0, MARKER_SIZE, class_="ink")
        drawing.text(x + 9, 14 + TEXT_DROP, f"p{percent}", class_="note")
        x += 62
    for index, (name, percentiles) in enumerate(entries.items()):
        middle = top + ROW_HEIGHT * (index + 0.5) - 4
        of_series = series(list(entries), name)
        places = {percent: across(percentiles[percent]) for percent in RANGE_SHAPES}
        drawing.text(left - 8, middle + TEXT_DROP, name, text_anchor="end", class_="name")
        drawing.line(min(places.values()), middle, max(places.values()), middle, class_=f"stroke {of_series}")
        for percent, shape in RANGE_SHAPES.items():
            drawing.marker(shape, places[percent], middle, MARKER_SIZE + 0.5, class_=f"fill {of_series}")
        drawing.text(max(places.values()) + 10, middle + TEXT_DROP, show(percentiles["99.9"]), class_="value")
    return drawing.render()


@dataclass(frozen=True)
class Group:
    """Some bars of one name."""

    name: str
    bars: Sequence[tuple[str, float, float | None]]
    """What each is for, its value, and the value it is held against."""

    words: str = ""
    """Why there are no bars, if there are none."""

    @property
    def lines(self) -> int:
        return len(self.bars) or 1


def grouped_bars(title: str, groups: Sequence[Group], high: float, show: Show) -> str:
    """Thin bars in groups, a mark on each where the value lies that it is held against; the values in a column."""
    thin, gap = 13.0, 9.0
    bottom = sum(thin * group.lines + gap for group in groups) + 4
    drawing = Drawing(WIDTH, bottom + AXIS_HEIGHT, title)
    across = Linear(high, NAME_WIDTH + 22, WIDTH - VALUE_WIDTH)
    left = across.start
    across.draw(drawing, bottom, show)
    y = gap / 2 + 2
    for group in groups:
        of_series = series([group.name for group in groups], group.name)
        middle = y + thin * group.lines / 2
        drawing.text(NAME_WIDTH - 14, middle + TEXT_DROP, group.name, text_anchor="end", class_="name")
        if not group.bars:
            drawing.text(left + 6, middle + TEXT_DROP, group.words, class_="note")
            y += thin
        for label, value, reference in group.bars:
            drawing.text(left - 6, y + thin / 2 + 3.5, label, text_anchor="end", class_="small")
            drawing.rectangle(left, y + 1.5, across(value) - left, thin - 3, class_=f"fill {of_series}")
            if reference is not None:
                drawing.rectangle(across(reference) - 1.5, y, 3.0, thin, class_="reference")
            drawing.text(WIDTH, y + thin / 2 + 3.5, show(value), text_anchor="end", class_="small value")
            y += thin
        y += gap
    return drawing.render()
