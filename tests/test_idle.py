"""An idle server uses no CPU."""

import time
from contextlib import ExitStack

import pytest
import ringtable
from support import ServerProcess

CLIENTS = 16
WINDOW_S = 10.0
CORE_SHARE_MAX = 0.005


def cpu_share(server: ServerProcess, window_s: float) -> float:
    """The share of a core that the server uses while nobody asks anything of it."""
    before, start = server.cpu_s(), time.monotonic()
    # Not to wait for anything: this is the window that is measured.
    time.sleep(window_s)
    return (server.cpu_s() - before) / (time.monotonic() - start)


def use(server: ServerProcess, window_s: float) -> float:
    with ExitStack() as stack:
        for index in range(CLIENTS):
            table = stack.enter_context(ringtable.connect())
            table[f"key {index}"] = b"value"
            assert table[f"key {index}"] == b"value"
        return cpu_share(server, window_s)


def test_smoke(server_process: ServerProcess) -> None:
    # In so short a window a single timer weighs a lot: this finds a thread that spins, and no less.
    assert use(server_process, 0.5) < 0.1


@pytest.mark.slow
def test_an_idle_server_with_idle_clients(server_process: ServerProcess) -> None:
    share = use(server_process, WINDOW_S)
    print(f"{share:.4%} of a core")
    assert share < CORE_SHARE_MAX
