"""How much is measured: rounds and seconds. More of either makes the medians steadier; nothing else depends on it."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """In each round, every way has its turn."""

    scenario_rounds: int
    scenario_runs: int
    """Measured runs in a turn; one more before them is not counted."""

    scenario_turn_s: float
    """A turn ends after this time, though with fewer runs, but not with none."""

    scaling_rounds: int
    scaling_loop_s: float
    """Of a turn's two loops, one for throughput and one for latencies."""

    payload_rounds: int
    payload_loop_s: float

    def with_runs(self, runs: int) -> "Settings":
        """The same with so many runs of each scenario, and as many rounds of all else."""
        rounds = min(self.scenario_rounds, runs)
        return replace(
            self,
            scenario_rounds=rounds,
            scenario_runs=-(-runs // rounds),
            scaling_rounds=runs,
            payload_rounds=runs,
        )


FULL = Settings(
    scenario_rounds=5,
    scenario_runs=10,
    scenario_turn_s=3.0,
    scaling_rounds=5,
    scaling_loop_s=0.4,
    payload_rounds=5,
    payload_loop_s=0.2,
)
QUICK = Settings(
    scenario_rounds=3,
    scenario_runs=5,
    scenario_turn_s=0.8,
    scaling_rounds=3,
    scaling_loop_s=0.1,
    payload_rounds=3,
    payload_loop_s=0.08,
)
