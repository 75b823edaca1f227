"""The check of a number that people write, with a message that names the value, the limits and the unit."""

from ringtable._errors import InvalidOption


def check_range(name: str, value: int | float, lowest: int, highest: int, unit: str) -> None:
    """Refuse a value below `lowest` or above `highest`.

    Raises:
        InvalidOption: The value is out of its range.
    """
    if not lowest <= value <= highest:
        raise InvalidOption(f"{name} is {value} {unit}, but has to be from {lowest} to {highest} {unit}")
