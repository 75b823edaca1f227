"""A hash table that every process of a machine shares, read in place.

`open` starts one if there is none: `Table` is the mapping that it returns, `Table.watch` tells of its changes. `Server`
runs a server in this process, and `connect` reaches one that runs. Values are bytes, or objects if either is given a
`codec`. Everything raised is an `Error`.
"""

from ringtable._connect import connect
from ringtable._errors import (
    AccessDenied,
    BucketFull,
    BufferTooSmall,
    ClientOutOfMemory,
    Closed,
    CommandError,
    Conflict,
    DamagedFile,
    DecodeError,
    Error,
    Expelled,
    FileError,
    InvalidOption,
    KeyTooLong,
    LockLost,
    NotAFloat,
    NotAnInteger,
    NotOwned,
    OutOfMemory,
    OutOfResources,
    PathTaken,
    ProtocolError,
    Reentrant,
    ServerExists,
    ServerFailed,
    ServerGone,
    TableNotFound,
    Timeout,
    TooManyClients,
    TooManyViews,
    UnevictableFull,
    Untrusted,
    ValueTooLarge,
    VersionMismatch,
)
from ringtable._later import imports as _imports
from ringtable._pipeline import Pipeline
from ringtable._ringtable import KEY_SIZE_MAX, VALUE_SIZE_MAX, View, __version__
from ringtable._table import Table
from ringtable._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ringtable._codecs.codec import Codec
    from ringtable._codecs.pickle import PickleCodec
    from ringtable._namespace import Namespace
    from ringtable._opening import log_path, open
    from ringtable._server import Server
    from ringtable._snapshots import Loaded
    from ringtable._tools import Barrier, Lock, Once, RateLimiter, Semaphore, SharedEvent
    from ringtable._watch import Event, Lagged, Watch
# Nobody's name for anything here.
del TYPE_CHECKING

__all__ = [
    "KEY_SIZE_MAX",
    "VALUE_SIZE_MAX",
    "AccessDenied",
    "Barrier",
    "BucketFull",
    "BufferTooSmall",
    "ClientOutOfMemory",
    "Closed",
    "Codec",
    "CommandError",
    "Conflict",
    "DamagedFile",
    "DecodeError",
    "Error",
    "Event",
    "Expelled",
    "FileError",
    "InvalidOption",
    "KeyTooLong",
    "Lagged",
    "Loaded",
    "Lock",
    "LockLost",
    "Namespace",
    "NotAFloat",
    "NotAnInteger",
    "NotOwned",
    "Once",
    "OutOfMemory",
    "OutOfResources",
    "PathTaken",
    "PickleCodec",
    "Pipeline",
    "ProtocolError",
    "RateLimiter",
    "Reentrant",
    "Semaphore",
    "Server",
    "ServerExists",
    "ServerFailed",
    "ServerGone",
    "SharedEvent",
    "Table",
    "TableNotFound",
    "Timeout",
    "TooManyClients",
    "TooManyViews",
    "UnevictableFull",
    "Untrusted",
    "ValueTooLarge",
    "VersionMismatch",
    "View",
    "Watch",
    "__version__",
    "connect",
    "log_path",
    "open",
]


# What `connect` does without is imported when it is asked for, with all that it needs itself.
_LATER = {
    "Barrier": "_tools.barrier",
    "Codec": "_codecs.codec",
    "Event": "_watch",
    "Lagged": "_watch",
    "Loaded": "_snapshots",
    "Lock": "_tools.lock",
    "Namespace": "_namespace",
    "Once": "_tools.once",
    "PickleCodec": "_codecs.pickle",
    "RateLimiter": "_tools.limiter",
    "Semaphore": "_tools.semaphore",
    "Server": "_server",
    "SharedEvent": "_tools.event",
    "Watch": "_watch",
    "log_path": "_opening",
    "open": "_opening",
}


def __getattr__(name: str) -> "Any":
    if name not in _LATER:
        raise AttributeError(f"module 'ringtable' has no attribute {name!r}")
    with _imports:
        from importlib import import_module

        module = import_module(f"ringtable.{_LATER[name]}")
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
