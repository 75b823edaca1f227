"""Rate limiters, for asyncio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringtable._types import Key
    from ringtable.aio._driver import Driver


@dataclass(frozen=True)
class Allowance:
    """What a limiter says to a call: true if it is within the rate."""

    allowed: bool
    """Whether the call is within the rate."""

    remaining: int
    """How many more calls would be within the rate now."""

    retry_after: float
    """Seconds after which to ask again; 0.0 if the call is within the rate."""

    def __bool__(self) -> bool:
        return self.allowed


class AsyncRateLimiter:
    """Lets so many calls through in a period, of all processes together. `AsyncTable.rate_limiter` makes one.

        limit = table.rate_limiter("100/minute")
        if not (allowed := await limit("10.0.0.7")):
            print("try again in", allowed.retry_after)

    It is that of `ringtable.Table.rate_limiter`: they count together.
    """

    def __init__(self, driver: Driver, rate: str, prefix: bytes, words: tuple[int, int, str]) -> None:
        """Make it; `AsyncTable.rate_limiter` does so."""
        self.rate = rate
        """What it was made with."""
        self._driver, self._prefix, self._words = driver, prefix, words

    async def __call__(self, key: Key, cost: int = 1) -> Allowance:
        """Count a call for `key`, or `cost` of them, if that is within the rate; return whether it is."""
        raw = self._prefix + (key.encode() if isinstance(key, str) else key)
        allowed, remaining, retry_ns = await self._driver.call("RING.LIMIT", raw, *self._words, cost)
        return Allowance(allowed == 1, remaining, retry_ns / 1e9)

    def __repr__(self) -> str:
        return f"<ringtable.aio.AsyncRateLimiter {self.rate!r}>"
