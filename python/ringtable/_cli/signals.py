"""How the commands that run until they are told to stop are told."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def interrupt_on_termination() -> None:
    """Let SIGINT and SIGTERM both raise `KeyboardInterrupt`, once, so that one `except` or `finally` serves both.

    SIGINT is set, too: a shell without job control starts background commands with SIGINT ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    # A second signal would break off what the first one has begun: to end in order.
    for either in (signal.SIGINT, signal.SIGTERM):
        signal.signal(either, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hold SIGINT back until the end of the block. Processes that are started in it never get one.

    So Ctrl-C, which a terminal sends to all processes of a command, reaches only the one that ends the others; it does
    not even catch them in their start, where no handler is set yet.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
