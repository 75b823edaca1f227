"""How a command finds its server, and for how long it waits for it: the options that such commands share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ringtable._ringtable import default_address
from ringtable._table import Table

if TYPE_CHECKING:
    from ringtable._types import Reads, RequestedTransport


@Parameter(name="*")
@dataclass(frozen=True)
class Caller:
    """What is said once for all servers that a command asks."""

    timeout: float = 5.0
    """Seconds that one answer of the server may take; a server that was stopped answers nothing."""

    trust_user: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    """A user whose server that may be, besides this user and root; may be given several times."""

    def connect(self, name: str, *, reads: "Reads" = "direct", transport: "RequestedTransport" = "auto") -> Table:
        """Connect to the server of that name."""
        return Table(name, timeout=self.timeout, reads=reads, transport=transport, trust_user=self.trust_user)


@Parameter(name="*")
@dataclass(frozen=True)
class Connection(Caller):
    """Which server it is."""

    name: str | None = None
    """The server's name, the path of its socket, a `unix://` or a `tcp://` URL; $RINGTABLE_URL unless given, or
    default."""

    def open(self, *, reads: "Reads" = "direct", transport: "RequestedTransport" = "auto") -> Table:
        """Connect to it."""
        return self.connect(self.address, reads=reads, transport=transport)

    @property
    def address(self) -> str:
        """Where that is."""
        return default_address() if self.name is None else self.name


DEFAULT = Connection()
"""The server that a command means unless it is told which."""
