"""The published analysis that this project descends from: its scenarios, and its figures on its machine."""

from dataclasses import dataclass

OUTER = 100
INNER = 10
CROWD = 16
"""How many clients are in the background of the last scenarios."""


@dataclass(frozen=True)
class Scenario:
    """One measured `client 100 10`, beside so many others that do the same without end."""

    name: str
    background: int
    workers: int
    published_ms: float | None = None
    """What the analysis measured for its shared rings."""

    @property
    def title(self) -> str:
        return f"{self.visitors} at {self.workers} {'thread' if self.workers == 1 else 'threads'}"

    @property
    def visitors(self) -> str:
        """Who is there, as the analysis says it."""
        if self.background == CROWD:
            return f"{CROWD} visitors"
        return "alone" if self.background == 0 else f"{self.background + 1} visitors"


ALONE_ST = Scenario("AloneSingleThread", 0, 1, 18.9)
TWO_ST = Scenario("TwoSingleThread", 1, 1)
ALONE_MT = Scenario("AloneMultiThread", 0, 4)
TWO_MT = Scenario("TwoMultiThread", 1, 4)
MANY_ST = Scenario("ManyClientsST", CROWD, 1, 183.7)
MANY_MT = Scenario("ManyClientsMT", CROWD, 16, 160.6)
SC_MANY = Scenario("SCManyThreads", 0, 16)

SCENARIOS = {scenario.name: scenario for scenario in (ALONE_ST, TWO_ST, ALONE_MT, TWO_MT, MANY_ST, MANY_MT, SC_MANY)}

COMPARED = ((MANY_MT, MANY_ST), (SC_MANY, ALONE_ST), (ALONE_MT, ALONE_ST), (TWO_MT, TWO_ST), (ALONE_ST, MANY_ST))
"""Pairs of scenarios whose ratio says something: do workers help, and what does a crowd cost?"""

NOTE = (
    "The analysis measured its shared rings on its own machine: client 100 10 alone 18.9 ms; with 16 background"
    " clients 183.7 ms at 1 thread and 160.6 ms at 16, so that 16 threads were 1.14x faster than 1. Times of two"
    " machines cannot be compared, ratios with care."
)
