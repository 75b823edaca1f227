"""A thread of another process, executed instruction by instruction: Linux's ptrace, on x86-64.

# Design

The thread is seized, and the rest of its process goes on. It stands between two calls of this module, and goes on by
one instruction (`step`), or until it comes to an address (`go_on`). That is a breakpoint of the processor, a debug
register, so that no instruction is replaced, and other threads that come there do not notice.

A thread that would wait in a system call for something that others have to do cannot be waited for in turn: so a step
over a system call takes a function that says whether waiting goes on. If not, the thread is interrupted there, and its
system call ends as by a signal.

# Not promised

Whoever calls has to do so from the thread that has seized: the kernel knows no other tracer.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from support import Child, Closing, state_of

_STEP, _CONTINUE, _TO_CALL, _GET_REGISTERS, _DETACH = 9, 7, 24, 12, 17
_PEEK_TEXT, _PEEK_USER, _POKE_USER = 1, 3, 6
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000
_EVENT_STOP = 128
_SIGTRAP = 5

# In the kernel's `struct user`: a word for each register, and the debug registers.
_REGISTERS = 27
_RAX, _ORIG_RAX, _RIP = 10, 15, 16
_DEBUG_REGISTERS_AT = 848
_CONTROL = 7

_SYSCALL = b"\x0f\x05"

_POLL_S = 0.0002
_TRIED_S = 60.0


# Numbers of system calls.
MAPPING = (9,)
THREADS = (56, 435)


class CannotTrace(Exception):
    """Threads cannot be traced here."""


class Ended(Exception):
    """The thread has ended."""


def why_not() -> str | None:
    """Why threads cannot be traced on this machine; `None` if they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it needs Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    with Child(time.sleep, _TRIED_S) as child:
        try:
            with Thread(child.pid) as thread:
                thread.break_at(thread.address())
                thread.break_at(None)
        except CannotTrace as error:
            return str(error)
    return None


if sys.platform == "linux":
    _ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    _ptrace.restype = ctypes.c_long
    _ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _asked(request: int, thread: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    answer = int(_ptrace(request, thread, address, data))
    if answer == -1 and (number := ctypes.get_errno()):
        if number == errno.ESRCH:
            raise Ended
        raise CannotTrace(f"ptrace is refused: {os.strerror(number)}")
    return answer


class Thread(Closing):
    """A thread that stands as long as this says nothing else; `close` lets it go."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._signal = 0
        self._is_there = True
        # Whether it stood when that was last looked at.
        self._is_standing = False
        # Addresses of instructions, and whether they are system calls.
        self._calls: dict[int, bool] = {}
        _asked(_SEIZE, number)
        _asked(_INTERRUPT, number)
        self._wait()

    def address(self) -> int:
        """The address of the next instruction."""
        return _asked(_PEEK_USER, self._number, 8 * _RIP) & (1 << 64) - 1

    def is_call(self, address: int) -> bool:
        """Whether the instruction at an address is a system call."""
        known = self._calls.get(address)
        if known is None:
            word = _asked(_PEEK_TEXT, self._number, address).to_bytes(8, "little", signed=True)
            known = self._calls[address] = word[:2] == _SYSCALL
        return known

    def call_number(self) -> int:
        """The number of the system call that is the next instruction."""
        return self._registers()[_RAX]

    def step(self) -> None:
        """Execute the next instruction, which is no system call that waits."""
        _asked(_STEP, self._number, 0, self._signal)
        self._wait()

    def step_call(self, goes_on: Callable[[], bool]) -> bool:
        """Execute the system call that is the next instruction. If it waits, ask again and again whether to go on.

        Returns whether it has come to its end, and was not interrupted.
        """
        _asked(_STEP, self._number, 0, self._signal)
        return self._wait_while(goes_on)

    def break_at(self, address: int | None) -> None:
        """Stand before the instruction at this address from now on, wherever that is come from; `None` for nowhere."""
        self._poke(_CONTROL, 0)
        if address is not None:
            self._poke(0, address)
            # The first register, for this thread, when an instruction there is to be executed.
            self._poke(_CONTROL, 1)

    def go_on(self, goes_on: Callable[[], bool]) -> bool:
        """Go on until the thread comes to the breakpoint. If it waits, ask again and again whether to go on.

        Returns whether it has come there.
        """
        _asked(_CONTINUE, self._number, 0, self._signal)
        return self._wait_while(goes_on)

    def watch_at(self, address: int) -> None:
        """Stand behind each instruction that stores to the word at this address from now on."""
        self._poke(_CONTROL, 0)
        self._poke(0, address)
        # The first register, for this thread: stores, of eight bytes.
        self._poke(_CONTROL, 1 | 0b1001 << 16)

    def go_to_call(self, numbers: tuple[int, ...], goes_on: Callable[[], bool]) -> bool:
        """Go on until the thread is about to make a system call of these numbers, or comes to the end of one.

        If it waits, ask again and again whether to go on. Returns whether it has come there.
        """
        while True:
            _asked(_TO_CALL, self._number, 0, self._signal)
            if not self._wait_while(goes_on):
                return False
            if self._registers()[_ORIG_RAX] in numbers:
                return True

    def close(self) -> None:
        """Let the thread go on by itself, or collect it if it has ended."""
        if not self._is_there:
            return
        try:
            if not self._is_standing:
                # Whatever has waited for it was broken off.
                _asked(_INTERRUPT, self._number)
                self._wait()
        except Ended:
            return
        self._is_there = False
        try:
            self._poke(_CONTROL, 0)
            _asked(_DETACH, self._number, 0, self._signal)
        except Ended:
            # It was killed as it stood. Its process does not end before that was noticed here.
            self._collect()

    def _poke(self, register: int, value: int) -> None:
        _asked(_POKE_USER, self._number, _DEBUG_REGISTERS_AT + 8 * register, value)

    def _registers(self) -> tuple[int, ...]:
        memory = ctypes.create_string_buffer(8 * _REGISTERS)
        _asked(_GET_REGISTERS, self._number, 0, ctypes.addressof(memory))
        return struct.unpack(f"={_REGISTERS}Q", memory.raw)

    def _wait_while(self, goes_on: Callable[[], bool]) -> bool:
        """Wait until it stands. Returns whether it does so by itself."""
        looks = 0
        while not self._stands(os.WNOHANG):
            looks += 1
            if looks < 50:
                os.sched_yield()
                continue
            if state_of(self._number) == "S" and not goes_on():
                _asked(_INTERRUPT, self._number)
                self._wait()
                # A trap of the last step, or at the breakpoint, may be yet to come, and would kill who is let go.
                self._poke(_CONTROL, 0)
                self.step()
                return False
            time.sleep(_POLL_S)
        return True

    def _wait(self) -> None:
        while not self._stands(0):
            pass

    def _stands(self, options: int) -> bool:
        try:
            number, status = os.waitpid(self._number, _WALL | options)
        except ChildProcessError:
            raise Ended from None
        if number == 0:
            self._is_standing = False
            return False
        if not os.WIFSTOPPED(status):
            self._is_there = False
            raise Ended
        self._is_standing = True
        signal = os.WSTOPSIG(status)
        is_ours = signal == _SIGTRAP or status >> 16 == _EVENT_STOP
        self._signal = 0 if is_ours else signal
        return True

    def _collect(self) -> None:
        try:
            while True:
                _, status = os.waitpid(self._number, _WALL)
                if not os.WIFSTOPPED(status):
                    return
        except ChildProcessError:
            pass


def thread_named(process: int, name: str) -> int:
    """The number of the thread of a process that has this name, of which the kernel keeps 15 letters.

    Raises:
        LookupError: There is none.
    """
    for task in Path(f"/proc/{process}/task").iterdir():
        if (task / "comm").read_text().strip() == name[:15]:
            return int(task.name)
    raise LookupError(f"process {process} has no thread {name!r}")


def has_thread(process: int, name: str) -> bool:
    """Whether a process has a thread of this name."""
    try:
        return thread_named(process, name) > 0
    except LookupError:
        return False
