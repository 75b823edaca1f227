"""What was measured, as values: every run of every part. All reports are made from these alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ringtable._bench.samples import Samples, samples

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True)
class ScenarioFigures:
    """One scenario of the analysis over one way: a value for each run."""

    scenario: str
    way: str
    seconds: list[float] = field(default_factory=list)
    user_s: list[float] = field(default_factory=list)
    system_s: list[float] = field(default_factory=list)
    server_s: list[float] = field(default_factory=list)
    """CPU time of the server during the run, whomever it worked for."""

    @property
    def ms(self) -> Samples:
        return samples([seconds * 1e3 for seconds in self.seconds])


@dataclass(frozen=True)
class ScalingFigures:
    """So many clients in tight loops over one way (or peer): a value for each round."""

    way: str
    clients: int
    operations_per_s: list[float] = field(default_factory=list)
    client_ns: list[float] = field(default_factory=list)
    """CPU time of the clients, for one operation."""

    server_ns: list[float] = field(default_factory=list)
    """CPU time of the server, for one operation."""

    latency_ns: dict[str, float] = field(default_factory=dict)
    """By percentile, over all rounds and clients."""

    latency_count: int = 0

    @property
    def throughput(self) -> Samples:
        return samples(self.operations_per_s)

    @property
    def cpu_ns(self) -> Samples:
        """CPU time of clients and server together, for one operation."""
        return samples([client + server for client, server in zip(self.client_ns, self.server_ns, strict=True)])


@dataclass(frozen=True)
class PayloadFigures:
    """So many clients that get or set large values: a value for each round."""

    way: str
    operation: str
    size: int
    clients: int
    gb_per_s: list[float] = field(default_factory=list)
    why_none: str = ""
    """Why there is no figure, if there cannot be one."""

    @property
    def rate(self) -> Samples:
        return samples(self.gb_per_s)


@dataclass(frozen=True)
class Results:
    """All of one run."""

    machine: dict[str, str]
    cores: int
    ways: dict[str, str]
    """What each is, in the order of the reports; peers come last."""

    scenarios: Sequence[ScenarioFigures] = ()
    scaling: Sequence[ScalingFigures] = ()
    payloads: Sequence[PayloadFigures] = ()
    seconds: float = 0.0
    """How long all of it took."""

    def scenario(self, scenario: str, way: str) -> ScenarioFigures | None:
        return next((of for of in self.scenarios if (of.scenario, of.way) == (scenario, way)), None)

    def scaled(self, way: str, clients: int) -> ScalingFigures | None:
        return next((of for of in self.scaling if (of.way, of.clients) == (way, clients)), None)

    def payload(self, way: str, operation: str, size: int, clients: int) -> PayloadFigures | None:
        name = (way, operation, size, clients)
        return next((of for of in self.payloads if (of.way, of.operation, of.size, of.clients) == name), None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> "Results":
        """What `to_json` gave."""
        fields: dict[str, Any] = json.loads(text)
        fields["scenarios"] = [ScenarioFigures(**of) for of in fields["scenarios"]]
        fields["scaling"] = [ScalingFigures(**of) for of in fields["scaling"]]
        fields["payloads"] = [PayloadFigures(**of) for of in fields["payloads"]]
        return Results(**fields)
