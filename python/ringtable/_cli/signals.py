"""The signals that end commands which run until they are told to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_OF_TERMINALS = (signal.SIGINT, signal.SIGHUP)
"""What a terminal sends to all processes of a command: at Ctrl-C, and when it goes itself."""

TERMINATION = (signal.SIGTERM, *_OF_TERMINALS)
"""The signals by which commands are told to end."""


def interrupt_on_termination() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise `KeyboardInterrupt`, once, so that one `except` or `finally` serves all.

    SIGINT is set, too: a shell without job control starts background commands with SIGINT ignored. `nohup` has SIGHUP
    ignored on purpose, and that stays so.
    """
    for number in _numbers():
        signal.signal(number, _interrupt_once)


def admit_termination() -> None:
    """Let SIGINT, SIGTERM and SIGHUP in, where they were held back until this process can end in order."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION)


def _numbers() -> list[signal.Signals]:
    """The signals by which commands are told to end."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM] + [signal.SIGHUP] * (not ignored)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    # A second signal would break off what the first one has begun: to end in order.
    for other in _numbers():
        # Not SIG_IGN: of one that has come already Python would say that it is ignored "due to race condition".
        signal.signal(other, _pass_over)
    raise KeyboardInterrupt


def _pass_over(number: int, frame: FrameType | None) -> None:
    """What a signal does that comes too late."""


@contextmanager
def interrupts_held_back() -> Iterator[list[int]]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the end of the block.

    Processes that are started in it never get a SIGINT or a SIGHUP. So Ctrl-C, which a terminal sends to all processes
    of a command, reaches only the one that ends the others; it does not even catch them in their start, where no
    handler is set yet.

    The block gets a list of the signals that came; those that are left in it take effect at its end.
    """
    held: list[int] = []
    # Blocking is what the new processes inherit. Here it is not enough: another thread may take the signal, and the
    # handler runs in this one all the same.
    handlers = {number: signal.signal(number, lambda number, _: held.append(number)) for number in _numbers()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
    try:
        yield held
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
