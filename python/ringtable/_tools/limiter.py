"""Rate limiters that all processes of the machine share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, Self

from ringtable._errors import InvalidOption
from ringtable._ringtable import RateLimiter as LimiterCore
from ringtable._tools.names import beginning_in

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key

_UNITS_NS = {
    word: ns
    for ns, words in {
        10**6: "ms millisecond milliseconds",
        10**9: "s sec secs second seconds",
        60 * 10**9: "m min mins minute minutes",
        3_600 * 10**9: "h hour hours",
        86_400 * 10**9: "d day days",
    }.items()
    for word in words.split()
}
_COUNT_MAX, _PERIOD_NS_MAX = 1 << 32, 1 << 55


class RateLimiter(LimiterCore):
    """Lets so many calls through in a period, of all processes together. `Table.rate_limiter` makes one.

        limit = table.rate_limiter("100/minute")
        if not (allowed := limit("10.0.0.7")):
            print("try again in", allowed.retry_after)

    Each call is one step of the server: whoever dies, no more are let through than the rate says. What was counted is
    in the table, in a key that is never evicted and goes by itself; `Table.clear` and the end of the server forget it.
    """

    rate: str

    def __new__(
        cls,
        table: TableCore[Any],
        rate: str,
        *,
        name: Key = b"",
        algorithm: Literal["fixed", "sliding"] = "fixed",
    ) -> Self:
        """See `Table.rate_limiter`."""
        prefix, count, period_ns = counted(table, rate, name, algorithm)
        self = super().__new__(cls, table, prefix, count, period_ns, algorithm == "sliding")
        self.rate = rate
        return self

    def __repr__(self) -> str:
        return f"<ringtable.RateLimiter {self.rate!r}>"


def counted(table: TableCore[Any], rate: str, name: Key, algorithm: str) -> tuple[bytes, int, int]:
    """What the keys of a limiter begin with; how many it lets through, and in how many nanoseconds.

    Raises:
        InvalidOption: The rate or the algorithm is none.
    """
    count, period_ns = parse(rate)
    if algorithm not in ("fixed", "sliding"):
        raise InvalidOption(f"algorithm is {algorithm!r}; allowed are 'fixed' and 'sliding'")
    # Another rate has other keys: what was counted for one says nothing of another.
    prefix = beginning_in(table, "limit", name) + f"{algorithm}:{count}/{period_ns}:".encode()
    return prefix, count, period_ns


def parse(rate: str) -> tuple[int, int]:
    """How many, and in how many nanoseconds: "100/minute", "100 per minute", "5/s", "1000/15m".

    Raises:
        InvalidOption: It says something else, or too much.
    """
    found = re.fullmatch(r"\s*(\d+)(?:\s*/\s*|\s+per\s+)(\d*)\s*([a-z]+)\s*", str(rate))
    if found is None or found[3] not in _UNITS_NS:
        raise InvalidOption(
            f"a rate is text such as '100/minute', '100 per minute' or '1000/15m' (ms, s, m, h, d), not {rate!r}"
        )
    count, period_ns = int(found[1]), int(found[2] or 1) * _UNITS_NS[found[3]]
    if not (1 <= count <= _COUNT_MAX and 1 <= period_ns <= _PERIOD_NS_MAX):
        raise InvalidOption(
            f"the rate is {rate!r}; allowed are from 1 to {_COUNT_MAX} in up to {_PERIOD_NS_MAX // 10**9} seconds"
        )
    return count, period_ns
