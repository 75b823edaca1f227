"""Rate limiters that all processes of the machine share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, Self

from ringtable._errors import InvalidOption
from ringtable._ringtable import RateLimiter as LimiterCore
from ringtable._tools.names import key_in

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key

_UNITS_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9, "d": 86_400 * 10**9}
_WORDS = {"second": "s", "sec": "s", "minute": "m", "min": "m", "hour": "h", "day": "d", "s": "s", "m": "m", "h": "h"}
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
        count, period_ns = parse(rate)
        if algorithm not in ("fixed", "sliding"):
            raise InvalidOption(f"algorithm is {algorithm!r}; allowed are 'fixed' and 'sliding'")
        # Another rate has other keys: what was counted for one says nothing of another.
        prefix = key_in(table, "limit", name) + f":{algorithm}:{count}/{period_ns}:".encode()
        self = super().__new__(cls, table, prefix, count, period_ns, algorithm == "sliding")
        self.rate = rate
        return self

    def __repr__(self) -> str:
        return f"<ringtable.RateLimiter {self.rate!r}>"


def parse(rate: str) -> tuple[int, int]:
    """How many, and in how many nanoseconds: "100/minute", "5/s", "1000/15m".

    Raises:
        InvalidOption: It says something else, or too much.
    """
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d*)\s*([a-z]+)\s*", str(rate))
    unit = _WORDS.get(found[3].removesuffix("s") or "s", found[3]) if found else ""
    if found is None or unit not in _UNITS_NS:
        raise InvalidOption(f"a rate is text such as '100/minute', '5/s' or '1000/15m' (s, m, h, d), not {rate!r}")
    count, period_ns = int(found[1]), int(found[2] or 1) * _UNITS_NS[unit]
    if not (1 <= count <= _COUNT_MAX and 1 <= period_ns <= _PERIOD_NS_MAX):
        raise InvalidOption(
            f"the rate is {rate!r}; allowed are from 1 to {_COUNT_MAX} in up to {_PERIOD_NS_MAX // 10**9} seconds"
        )
    return count, period_ns
