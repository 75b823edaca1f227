"""How a command finds its server, and for how long it waits for it: the options that such commands share."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ringtable._cli.parser import number
from ringtable._ringtable import default_address

if TYPE_CHECKING:
    from ringtable._table import Table
    from ringtable._types import Reads, RequestedTransport

TIMEOUT_S = 5.0


class Caller:
    """What is said once for all servers that a command asks."""

    @staticmethod
    def arguments(parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--timeout",
            type=number,
            default=TIMEOUT_S,
            metavar="SECONDS",
            help=f"Seconds that one answer of the server may take, {TIMEOUT_S:g} unless given; a server that was"
            " stopped answers nothing.",
        )
        parser.add_argument(
            "--trust-user",
            action="append",
            default=[],
            metavar="USER",
            help="A user whose server that may be, besides this user and root; may be given several times.",
        )

    def __init__(self, options: Namespace) -> None:
        """Take what was typed."""
        self.timeout: float = options.timeout
        self.trust_user: tuple[str, ...] = tuple(options.trust_user)

    def connect(self, name: str, *, reads: "Reads" = "direct", transport: "RequestedTransport" = "auto") -> "Table":
        """Connect to the server of that name."""
        # Imported only here: whoever asks for help needs no table.
        from ringtable._table import Table

        return Table(name, timeout=self.timeout, reads=reads, transport=transport, trust_user=self.trust_user)


class Connection(Caller):
    """Which server it is, besides."""

    @staticmethod
    def arguments(parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--name",
            help="The server's name, the path of its socket, a `unix://` or a `tcp://` URL; $RINGTABLE_URL unless"
            " given, or default.",
        )
        Caller.arguments(parser)

    def __init__(self, options: Namespace) -> None:
        """Take what was typed."""
        super().__init__(options)
        self.address: str = default_address() if options.name is None else options.name

    def open(self, *, reads: "Reads" = "direct", transport: "RequestedTransport" = "auto") -> "Table":
        """Connect to it."""
        return self.connect(self.address, reads=reads, transport=transport)
