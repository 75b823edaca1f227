"""Limits for what is measured. Each is judged from the figures of this very run, never assumed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ringtable._bench.tabular import ABSENT, Section, cell

from benches.figures import Figures

MARKS = {True: "✓", False: "✗", None: "not measured"}


@dataclass(frozen=True)
class Goal:
    """A limit for one number. `sign` says on which side of it the number must be."""

    scenario: str
    text: str
    sign: str
    limit: float
    unit: str
    measure: Callable[[Figures], float | None]

    @property
    def bound(self) -> str:
        return f"{self.sign} {self.limit:g} {self.unit}"

    def judge(self, figures: Figures) -> "Verdict":
        value = self.measure(figures)
        if value is None:
            return Verdict(self, None, None)
        return Verdict(self, value, value >= self.limit if self.sign == "≥" else value <= self.limit)


@dataclass(frozen=True)
class Verdict:
    """A goal, what was measured, and whether that meets it; both None if it was not measured."""

    goal: Goal
    value: float | None
    met: bool | None


def section(verdicts: Iterable[Verdict]) -> Section:
    rows = [
        (
            verdict.goal.text,
            verdict.goal.bound,
            ABSENT if verdict.value is None else f"{cell(verdict.value)} {verdict.goal.unit}",
            MARKS[verdict.met],
        )
        for verdict in verdicts
    ]
    return Section("Goals", "Judged from this run.", ("Goal", "Limit", "Measured", "Met"), rows)


def to_json(verdicts: Iterable[Verdict]) -> list[dict[str, object]]:
    return [
        {"goal": verdict.goal.text, "limit": verdict.goal.bound, "value": verdict.value, "met": verdict.met}
        for verdict in verdicts
    ]
