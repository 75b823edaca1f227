"""A server's options in a file, in TOML: read, and written so that they can be read again."""

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from ringtable._cli.parser import nearest
from ringtable._errors import InvalidOption
from ringtable._options import OPTIONS, engine_options, parse_mode, whole_number

_KEYS = OPTIONS | {"name", "keeper", "max_deaths", "hang_timeout"}
_FLAGS = {"cache", "strict_seal", "keeper", "log"}
_TEXTS = {"name", "eviction", "topology", "tcp", "udp", "data", "fsync", "on_disk_error"}
_SIZES = {"max_memory", "slot_size", "max_unevictable", "mode", "group"}


def read(file: str) -> dict[str, Any]:
    """Return the options that a file has, by the names that they have in Python.

    Raises:
        InvalidOption: It is no TOML, has a key that is no option, or a value that is none of its option.
        OSError: It cannot be read.
    """
    try:
        with open(file, encoding="utf-8") as text:
            found = tomllib.loads(text.read())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{file} is no TOML: {error}") from None
    options: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in _KEYS:
            meant = "".join(f": is {near!r} meant?" for near in nearest(name, sorted(_KEYS)))
            raise InvalidOption(f"{file}: {key!r} is no option of a server{meant}")
        if name in options:
            raise InvalidOption(f"{file}: {key!r} is there twice, with an underscore and with a hyphen")
        options[name] = _checked(file, name, value)
    return options


def _checked(file: str, name: str, value: Any) -> Any:
    """A value as `Server` takes it. What is out of its range is found there."""
    try:
        if not _is_possible(name, value):
            words = "true or false" if name in _FLAGS else "text" if name in _TEXTS else "a number"
            raise InvalidOption(f"{name} is {value!r}, but has to be {words}{' or text' * (name in _SIZES)}")
        if name == "mode" and isinstance(value, str):
            value = parse_mode(value)
        if name == "max_deaths":
            value = whole_number(name, value)
        if name in OPTIONS:
            engine_options({name: value})
    except (InvalidOption, TypeError) as error:
        raise InvalidOption(f"{file}: {error}") from None
    return value


def _is_possible(name: str, value: Any) -> bool:
    if name in _FLAGS or isinstance(value, bool):
        return name in _FLAGS and isinstance(value, bool)
    if isinstance(value, str):
        return name in _TEXTS | _SIZES
    return isinstance(value, (int, float)) and name not in _TEXTS


def written(options: Mapping[str, Any]) -> str:
    """The options as TOML. What is left open is a comment."""
    lines = ["# The options of a server: `ringtable server --config FILE` reads them."]
    for name, value in options.items():
        if value is None:
            lines.append(f"# {name} is left open")
        else:
            lines.append(f"{name} = {_shown(name, value)}")
    return "\n".join(lines)


def _shown(name: str, value: Any) -> str:
    if name == "mode":
        return f"0o{value:o}"
    # Strings of JSON are strings of TOML, but for this letter.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
