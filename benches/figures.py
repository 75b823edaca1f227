"""The measured values, by scenario, rival and metric. A metric's name ends with its unit."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

WALL_NS = "wall_ns_per_operation"
CLIENT_CPU_NS = "client_cpu_ns_per_operation"
SERVER_CPU_NS = "server_cpu_ns_per_operation"

Name = tuple[str, str, str]
"""Scenario, rival, metric."""


@dataclass
class Figures:
    """One list of values, a value a round, for each (scenario, rival, metric)."""

    values: dict[Name, list[float]] = field(default_factory=dict)

    def add(self, scenario: str, rival: str, metric: str, value: float) -> None:
        self.values.setdefault((scenario, rival, metric), []).append(value)

    def median(self, scenario: str, rival: str, metric: str) -> float | None:
        """The median of the rounds; None if this was not measured."""
        values = self.values.get((scenario, rival, metric))
        return statistics.median(values) if values else None

    def speed(self, scenario: str, rival: str, reference: str) -> float | None:
        """How many operations `rival` does in the time in which `reference` does one."""
        rival_ns = self.median(scenario, rival, WALL_NS)
        reference_ns = self.median(scenario, reference, WALL_NS)
        return reference_ns / rival_ns if rival_ns and reference_ns else None

    def cpu_ns(self, scenario: str, rival: str) -> float | None:
        """User and system time an operation, clients and server together, ns."""
        client_ns = self.median(scenario, rival, CLIENT_CPU_NS)
        server_ns = self.median(scenario, rival, SERVER_CPU_NS)
        return None if client_ns is None or server_ns is None else client_ns + server_ns

    def metrics(self, scenario: str, rival: str) -> Iterator[tuple[str, float]]:
        """All metrics of a rival in a scenario, with their medians, in the order they were measured."""
        for (of_scenario, of_rival, metric), values in self.values.items():
            if (of_scenario, of_rival) == (scenario, rival):
                yield metric, statistics.median(values)

    def rivals(self, scenario: str) -> list[str]:
        """The rivals measured in a scenario."""
        return list(dict.fromkeys(rival for of_scenario, rival, _ in self.values if of_scenario == scenario))
