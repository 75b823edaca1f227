"""JSON as UTF-8, bare: what other languages write and read."""

from __future__ import annotations

import json
from typing import Any

from ringtable._codecs.codec import Undecodable

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ESCAPING = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder()


class JsonCodec:
    """Values are what JSON has: `None`, `bool`, numbers, `str`, lists, and dicts whose keys are `str`.

    As with `json.dumps`, tuples come back as lists, and other keys as `str`. An infinite number, or one that is none,
    is refused, since JSON has no such.
    """

    name = "json"

    def encode(self, value: Any, /) -> bytes:
        """Raises `TypeError` or `ValueError` for what JSON does not have."""
        try:
            return _ENCODER.encode(value).encode()
        except UnicodeEncodeError:
            # Half a character has an escape in JSON, and no bytes in UTF-8.
            return _ESCAPING.encode(value).encode()

    def decode(self, data: bytes, /) -> Any:
        text = data.decode()
        try:
            return _DECODER.decode(text)
        except json.JSONDecodeError as error:
            raise Undecodable(len(text[: error.pos].encode()), f"no JSON: {error.msg}") from None
