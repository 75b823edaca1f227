"""`str` as UTF-8, bare: what other languages write and read."""

from __future__ import annotations

from ringtable._codecs.formats import written_integer


class TextCodec:
    """Values are `str`. An `int` is written as its digits, with which `incr` counts, and comes back as such a `str`.

    It does not come back as an `int`, since then no text of digits would come back as what it was.
    """

    name = "text"

    def encode(self, value: object, /) -> bytes:
        """Raises `TypeError` for what is no text, `UnicodeEncodeError` for one with half a character in it."""
        if not isinstance(value, str):
            digits = written_integer(value)
            if digits is None:
                raise TypeError(f"values of codec='text' are str, not {type(value).__name__}")
            return digits
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        return data.decode()
