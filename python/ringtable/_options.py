"""Checks of options that people write, with messages that name the value, the limit and the unit."""

import grp
import operator
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, SupportsFloat, SupportsIndex

from ringtable._errors import InvalidOption

# The number above stands for "no group" in system calls.
_GROUP_MAX = (1 << 32) - 2

_MODE_MAX = 0o7777
_PRIVATE_MODE = 0o600
_GROUP_MODE = 0o660

# Options of a server, by what they are.
_COUNTS = frozenset({"buckets", "workers", "max_clients", "ring_slots", "snapshots_kept"})
_SIZES = frozenset({"max_memory", "slot_size", "max_unevictable"})
_TIMES = frozenset({"slow_consumer_timeout", "linger", "snapshot_every"})
_PORTS = frozenset({"tcp", "udp"})
_OTHERS = frozenset({"cache", "eviction", "spin_us", "strict_seal", "mode", "group", "topology"})
_OF_DISK = frozenset({"data", "log", "fsync", "on_disk_error"})

OPTIONS = _COUNTS | _SIZES | _TIMES | _PORTS | _OTHERS | _OF_DISK
"""The names of all options of a server."""

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def whole_number(name: str, value: Any) -> int:
    """Return a whole number of any type as an `int`: numpy's are none, and 1e6 is one that people write.

    Raises:
        InvalidOption: It has a fraction, or is infinite or none.
        TypeError: It is no number.
    """
    try:
        return operator.index(value)
    except TypeError:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
            raise TypeError(f"{name} is a whole number, not {type(value).__name__}") from None
    if not float(value).is_integer():
        raise InvalidOption(f"{name} is {value}, but has to be a whole number")
    return int(float(value))


def parse_size(name: str, text: str | SupportsFloat | SupportsIndex) -> int:
    """Return a size in bytes, given as a number of bytes or as text such as "512MiB" or "1 GiB".

    Raises:
        InvalidOption: The text is no size. Only binary units are taken, since "1GB" means different sizes to different
            people.
    """
    if not isinstance(text, str):
        try:
            return whole_number(name, text)
        except TypeError:
            raise TypeError(
                f'{name} is a number of bytes, or text such as "512MiB", not {type(text).__name__}'
            ) from None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", text.strip())
    unit = (
        None
        if match is None
        else next((size for name, size in _UNITS.items() if name.lower() == match[2].lower()), None)
    )
    if match is None or unit is None:
        raise InvalidOption(
            f"{name} is {text!r}, which is no size: write bytes as a number, or with a unit: KiB, MiB, GiB or TiB"
        )
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def check_mode(mode: Any) -> int:
    """Return the mode of a socket, which is written in octal digits, as `0o660`.

    Raises:
        InvalidOption: It is none; or the prefix of octal numbers was forgotten.
        TypeError: It is no number.
    """
    try:
        number = operator.index(mode)
    except TypeError:
        raise TypeError(f"mode is a number such as 0o660, not {type(mode).__name__}") from None
    if not 0 <= number <= _MODE_MAX:
        raise InvalidOption(f"mode is {number}; allowed are numbers such as 0o660, up to 0o{_MODE_MAX:o}")
    if number in (600, 660, 666):
        raise InvalidOption(f"mode is {number}, which is 0o{number:o}: write it in octal digits, 0o{number}")
    return number


def parse_mode(text: str) -> int:
    """Return the mode of a file, which is written as in `chmod`: in octal digits.

    Raises:
        InvalidOption: The text is no mode.
    """
    if not re.fullmatch(r"(0o?)?[0-7]{1,4}", text):
        raise InvalidOption(f"--mode is {text!r}, which is no mode in octal digits, such as 0660")
    return int(text.removeprefix("0o"), 8)


def parse_group(group: int | str) -> int:
    """Return the number of a group, given as a number or by its name.

    Raises:
        InvalidOption: There is no such group.
    """
    if isinstance(group, int) and 0 <= group <= _GROUP_MAX:
        return group
    if isinstance(group, str) and group.isascii() and group.isdigit() and int(group) <= _GROUP_MAX:
        return int(group)
    try:
        return grp.getgrnam(group if isinstance(group, str) else "").gr_gid
    except (KeyError, ValueError):
        raise InvalidOption(f"group is {group!r}: there is no such group") from None


def engine_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a server as the engine takes them, plain values all of them; what is `None` is left out.

    The engine knows what is in range; here are types, and what people write in several ways.

    Raises:
        InvalidOption: A value means nothing, or contradicts another one.
        TypeError: A value is of another type.
    """
    options = {name: _plain(name, value) for name, value in given.items() if value is not None}
    cache = options.pop("cache", None)
    if cache is not None:
        options.setdefault("eviction", "allkeys-sieve" if cache else "noeviction")
    if "group" in options:
        if options.setdefault("mode", _GROUP_MODE) == _PRIVATE_MODE:
            raise InvalidOption(
                f"a socket of mode {_PRIVATE_MODE:04o} (octal) is for no group: leave mode or group out"
            )
        options["group"] = parse_group(options["group"])
    return options


def _plain(name: str, value: Any) -> Any:
    if name in _COUNTS:
        return whole_number(name, value)
    if name in _SIZES:
        return parse_size(name, value)
    if name in _TIMES and isinstance(value, timedelta):
        return value.total_seconds()
    if name in _PORTS and not isinstance(value, str):
        raise TypeError(f'{name} is text such as "localhost:6379", not {type(value).__name__}')
    if name == "data":
        # The same folder for a process that stands elsewhere.
        return os.path.realpath(os.fspath(value))
    return check_mode(value) if name == "mode" else value


def format_size(size: int) -> str:
    """Write a size in bytes in the largest unit in which it is a whole number."""
    name, unit = max(
        ((name, unit) for name, unit in _UNITS.items() if name and size % unit == 0), key=lambda pair: pair[1]
    )
    return f"{size // unit} {name}"
