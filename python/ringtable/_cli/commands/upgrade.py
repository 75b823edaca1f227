"""`ringtable upgrade`: another program takes over from a server with a keeper, under load."""

import os
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, cast

from ringtable._cli.connection import Connection
from ringtable._cli.output import announce
from ringtable._errors import Error, ServerGone, Timeout
from ringtable._keeper.messages import UPGRADE

if TYPE_CHECKING:
    from ringtable._table import Table

# Seconds after which one looks again whether it is done.
_PAUSE_S = 0.01
# Seconds that it may take, a move of the table included; the keeper gives it up before.
_LIMIT_S = 1_300.0
# Seconds that a server may take whose keeper has died, until another one serves.
_LIMIT_WITHOUT_KEEPER_S = 5.0


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "The server has to have a keeper. Install the new version first, in the place of the old one. Clients that"
        " share memory with the server keep their connection, and what was acknowledged stays. If the new version does"
        " not start, the old one goes on."
    )
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    with Connection(options).open(transport="socket") as table:
        before = _figures(table)
        keeper = before["keeper_process_id"]
        if keeper == 0:
            raise Error(
                "the server has no keeper, so that nothing outlives it: only `ringtable server --keeper` can be"
                " upgraded while it serves"
            )
        try:
            os.kill(keeper, UPGRADE)
        except OSError as error:
            raise Error(f"telling the keeper, which is process {keeper}: {error.strerror}") from None
        now = _awaited(table, before)
    announce(
        f"ringtable: upgraded: process {now['process_id']} has taken over from process {before['process_id']}, of"
        f" {now['entries']} entries and {now['clients']} clients"
    )


def _awaited(table: "Table", before: dict[str, int]) -> dict[str, int]:
    """Wait until another server serves, and return its figures.

    Raises:
        Error: There will be none.
    """
    deadline = time.monotonic() + _LIMIT_S
    gone_since: float | None = None
    while time.monotonic() < deadline:
        try:
            now = _figures(table)
        except (ServerGone, Timeout):
            # Over a socket: it has just ended. The next call finds the other one, if there is one; or waits for that in
            # its queue.
            if not _is_there(before["keeper_process_id"]):
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > _LIMIT_WITHOUT_KEEPER_S:
                    raise
            time.sleep(_PAUSE_S)
            continue
        if now["upgrades"] > before["upgrades"]:
            return now
        if now["keeper_process_id"] not in (0, before["keeper_process_id"]):
            raise Error("the keeper has died meanwhile, and another one has followed: order the upgrade once more")
        if now["upgrades_failed"] != before["upgrades_failed"]:
            raise Error("the new version could not take over, and the old one goes on: the keeper says why")
        time.sleep(_PAUSE_S)
    raise Error(f"no other server has taken over within {_LIMIT_S:g} seconds: the keeper may say why")


def _is_there(process: int) -> bool:
    """Whether a process has not ended, whoever is to hear of that."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _figures(table: "Table") -> dict[str, int]:
    return cast("dict[str, int]", table.stats())
