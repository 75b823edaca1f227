"""Checks of options that people write, with messages that name the value, the limit and the unit."""

import re

from ringtable._errors import InvalidOption

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_size(text: str | int) -> int:
    """Return a size in bytes, given as a number of bytes or as text such as "512MiB" or "1 GiB".

    Raises:
        InvalidOption: The text is no size. Only binary units are taken, since "1GB" means different sizes to different
            people.
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", text.strip())
    unit = (
        None
        if match is None
        else next((size for name, size in _UNITS.items() if name.lower() == match[2].lower()), None)
    )
    if match is None or unit is None:
        raise InvalidOption(
            f"{text!r} is no size: write bytes as a number, or with one of the units KiB, MiB, GiB, TiB"
        )
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def format_size(size: int) -> str:
    """Write a size in bytes in the largest unit in which it is a whole number."""
    name, unit = max(
        ((name, unit) for name, unit in _UNITS.items() if name and size % unit == 0), key=lambda pair: pair[1]
    )
    return f"{size // unit} {name}"


def check_range(name: str, value: int | float, lowest: int, highest: int, unit: str) -> None:
    """Refuse a value below `lowest` or above `highest`.

    Raises:
        InvalidOption: The value is out of its range.
    """
    if not lowest <= value <= highest:
        raise InvalidOption(f"{name} is {value} {unit}, but has to be from {lowest} to {highest} {unit}")
