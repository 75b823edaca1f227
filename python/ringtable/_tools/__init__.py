"""Tools for processes, each a file: locks, semaphores, events, barriers, once, rate limiters, memoize.

A tool is made by the method of `Table` of its name, and asks the server for single steps alone: what becomes of it when
a process dies, stops or forks is said in docs/design-tools.md. Tools use the table below its codec, so that it makes no
difference to them.
"""

from ringtable._tools.barrier import Barrier
from ringtable._tools.event import SharedEvent
from ringtable._tools.limiter import RateLimiter
from ringtable._tools.lock import Lock
from ringtable._tools.memoize import memoize
from ringtable._tools.once import Once
from ringtable._tools.semaphore import Semaphore

__all__ = ["Barrier", "Lock", "Once", "RateLimiter", "Semaphore", "SharedEvent", "memoize"]
