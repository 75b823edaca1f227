"""How the commands that run until they are told to stop are told."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def interrupt_on_termination() -> None:
    """Let SIGINT and SIGTERM both raise `KeyboardInterrupt`, once, so that one `except` or `finally` serves both.

    SIGINT is set, too: a shell without job control starts background commands with SIGINT ignored.
    """
    for number in _NUMBERS:
        signal.signal(number, _interrupt_once)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    # A second signal would break off what the first one has begun: to end in order.
    for either in _NUMBERS:
        signal.signal(either, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def interrupts_held_back() -> Iterator[list[int]]:
    """Hold SIGINT and SIGTERM back until the end of the block. Processes that are started in it never get a SIGINT.

    So Ctrl-C, which a terminal sends to all processes of a command, reaches only the one that ends the others; it does
    not even catch them in their start, where no handler is set yet.

    The block gets a list of the signals that came; those that are left in it take effect at its end.
    """
    held: list[int] = []
    # Blocking is what the new processes inherit. Here it is not enough: another thread may take the signal, and the
    # handler runs in this one all the same.
    handlers = {number: signal.signal(number, lambda number, _: held.append(number)) for number in _NUMBERS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield held
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
