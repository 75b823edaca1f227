"""What a codec is: anything with `encode` and `decode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from ringtable._types import Value

T = TypeVar("T")


@runtime_checkable
class Codec(Protocol[T]):
    """Turns objects into the bytes of a value, and back: anything with these two methods.

        class Lines:
            def encode(self, value: list[str], /) -> bytes:
                return "\\n".join(value).encode()

            def decode(self, data: bytes, /) -> list[str]:
                return data.decode().split("\\n")

        table = ringtable.connect(codec=Lines())  # a Table[list[str]]

    It is asked about every value, whole numbers among them; for those to be counted with `incr` it has to write and
    read decimal digits. Whatever `decode` raises becomes a `DecodeError`; what `encode` raises passes as it is, with a
    note of which key it was. Threads may use one codec at the same time. A table is pickled with its codec.
    """

    def encode(self, value: T, /) -> Value:
        """Return the bytes of a value, as anything with the buffer protocol."""

    def decode(self, data: bytes, /) -> T:
        """Return the value that has these bytes."""


class Undecodable(ValueError):
    """What a codec of this package raises for bytes that are not its own, or damaged."""

    def __init__(self, position: int, reason: str) -> None:
        """Say why, and at which byte of the value."""
        super().__init__(reason)
        self.position = position
