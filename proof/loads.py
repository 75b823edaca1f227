"""The loads of a soak: programs of their own that work on one server, each as a command line."""

import importlib.util
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """A program that takes `--seconds`, `--seed` and `--address`, and whose exit status is 0 only if all was well.

    One that ends early and well is started again, with another seed.
    """

    name: str
    about: str
    module: str
    arguments: tuple[str, ...] = ()
    has_servers_of_its_own: bool = False
    """Then it takes no `--address`, and only keeps the machine busy beside the server."""

    def command(self, address: str, seconds: float, seed: int) -> list[str]:
        where = [] if self.has_servers_of_its_own else ["--address", address]
        how = ["--seconds", f"{seconds:.1f}", "--seed", str(seed), *self.arguments]
        return [sys.executable, "-m", self.module, *where, *how]

    def is_there(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


LOADS = {
    load.name: load
    for load in (
        Load("honest", "clients of all kinds that check every answer", "proof.clients"),
        Load("churn", "clients that come and go in all ways", "proof.churn"),
        Load("kills", "clients killed and stopped at random instants", "proof.kills"),
        Load("hostile", "a client that breaks every rule", "proof.hostile", ("--pace", "0.25", "--rate", "50")),
        Load("histories", "an order has to explain what processes do to the same keys", "proof.histories", (), True),
    )
}
