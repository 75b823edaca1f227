"""The service manager that has started this process, if it is one that listens: systemd, by its `sd_notify` protocol.

It is told when the server serves, and that it lives. If it has a store for descriptors, it gets what is held for the
server as a whole, and gives it to the process that it starts next: so a table outlives its keeper. Clients' lanes do
not: nobody could map them again.

The protocol is that of systemd's manual pages sd_notify(3), sd_listen_fds(3) and sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from ringtable._keeper.messages import rights

_FIRST = 3
"""The first descriptor that it gives."""

_NAME = "ringtable-"

# Seconds for which it may take no messages; then it does without one.
_PATIENCE_S = 1.0


class Manager:
    """It, or nobody."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        # An abstract name begins with a zero byte.
        self._address = "\0" + address[1:] if address[:1] == "@" else address
        # It says how many descriptors it stores, from version 254 on.
        self.stores = bool(self._address) and _whole(os.environ.pop("FDSTORE", "")) > 0
        microseconds = _whole(os.environ.pop("WATCHDOG_USEC", ""))
        is_for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = microseconds / 1e6 if self._address and is_for_us else 0.0
        """Seconds after which it takes us for dead if it hears nothing; 0 for never."""

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def say(self, *lines: str, descriptors: Sequence[int] = ()) -> None:
        """Tell it something. Its queue holds few messages: this waits for room, for a while."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.settimeout(_PATIENCE_S)
            way.sendmsg(["\n".join(lines).encode()], rights(descriptors), socket.MSG_NOSIGNAL, self._address)

    def store(self, number: int, descriptor: int) -> None:
        """Have it hold a descriptor, in the place of the one before of the same number."""
        if self.stores:
            name = f"FDNAME={_NAME}{number}"
            self.say("FDSTOREREMOVE=1", name)
            self.say("FDSTORE=1", name, descriptors=[descriptor])

    @staticmethod
    def stored() -> dict[int, int]:
        """What it has held, by those numbers, if this process is the one that gets it."""
        count, names = _whole(os.environ.pop("LISTEN_FDS", "")), os.environ.pop("LISTEN_FDNAMES", "").split(":")
        if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
            return {}
        found = {}
        for descriptor, name in zip(range(_FIRST, _FIRST + count), names, strict=False):
            os.set_inheritable(descriptor, False)
            number = _whole(name.removeprefix(_NAME), -1)
            if name.startswith(_NAME) and number >= 0:
                found[number] = descriptor
        return found


def _whole(text: str, otherwise: int = 0) -> int:
    return int(text) if text.isascii() and text.isdigit() else otherwise
