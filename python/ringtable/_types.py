"""The types in signatures. Only type checkers read this file: nothing imports it when the program runs."""

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol, SupportsFloat, SupportsIndex

from typing_extensions import Buffer

Address = str | os.PathLike[str]
"""Where a server is: its name, the path of its socket, or a URL; what is no string is a path."""

Count = SupportsIndex | SupportsFloat
"""A whole number, of any type: an `int`, one of numpy's, or a `float` without a fraction."""

Size = str | Count
"""A number of bytes, or text such as "512MiB"."""

Trusted = int | str | Iterable[int | str]
"""Users whose servers are trusted: a number, a name, or several."""

Key = str | bytes
Seconds = float | timedelta
"""A time to live: a number of seconds, or a `timedelta`."""

Items = Mapping[str, Buffer] | Mapping[bytes, Buffer] | Mapping[Key, Buffer] | Iterable[tuple[Key, Buffer]]
"""What can be written at once. A mapping's type is exact in its keys, so that each kind of key is named."""


class SupportsKeysAndGetItem(Protocol):
    """What `dict.update` takes for a mapping, too."""

    def keys(self) -> Iterable[Key]: ...
    def __getitem__(self, key: Any, /) -> Buffer: ...


Reads = Literal["direct", "server"]
Writes = Literal["acknowledged", "posted"]
Transport = Literal["lane", "rings", "socket"]
RequestedTransport = Literal["auto", "lane", "rings", "socket"]
Eviction = Literal["noeviction", "allkeys-sieve", "volatile-ttl"]
Topology = Literal["lanes", "shared", "sharded"]

Argument = Key | int | float | Buffer
Reply = None | bool | int | float | bytes | list[Any] | dict[Any, Any]
Stats = dict[str, int | float | str]
