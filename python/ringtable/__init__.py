"""A hash table that every process of a machine shares, read in place.

`open` starts one if there is none: `Table` is the mapping that it returns, `Table.watch` tells of its changes. `Server`
runs a server in this process, and `connect` reaches one that runs. Values are bytes, or objects if either is given a
`codec`. Everything raised is an `Error`.
"""

import typing

from ringtable._codecs.codec import Codec
from ringtable._connect import connect
from ringtable._errors import (
    AccessDenied,
    BucketFull,
    BufferTooSmall,
    ClientOutOfMemory,
    Closed,
    CommandError,
    Conflict,
    DecodeError,
    Error,
    Expelled,
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
from ringtable._opening import log_path, open
from ringtable._pipeline import Pipeline
from ringtable._ringtable import KEY_SIZE_MAX, VALUE_SIZE_MAX, View, __version__
from ringtable._server import Server
from ringtable._table import Table
from ringtable._watch import Event, Lagged, Watch

if typing.TYPE_CHECKING:
    from ringtable._codecs.pickle import PickleCodec

__all__ = [
    "KEY_SIZE_MAX",
    "VALUE_SIZE_MAX",
    "AccessDenied",
    "BucketFull",
    "BufferTooSmall",
    "ClientOutOfMemory",
    "Closed",
    "Codec",
    "CommandError",
    "Conflict",
    "DecodeError",
    "Error",
    "Event",
    "Expelled",
    "InvalidOption",
    "KeyTooLong",
    "Lagged",
    "LockLost",
    "NotAFloat",
    "NotAnInteger",
    "NotOwned",
    "OutOfMemory",
    "OutOfResources",
    "PathTaken",
    "PickleCodec",
    "Pipeline",
    "ProtocolError",
    "Reentrant",
    "Server",
    "ServerExists",
    "ServerFailed",
    "ServerGone",
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


def __getattr__(name: str) -> typing.Any:
    """Import what most programs do not need when it is asked for."""
    if name != "PickleCodec":
        raise AttributeError(f"module 'ringtable' has no attribute {name!r}")
    from ringtable._codecs.pickle import PickleCodec

    globals()[name] = PickleCodec
    return PickleCodec
