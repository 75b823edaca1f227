"""Numbers as people read them: three digits that matter, and the unit."""

import re
from collections.abc import Sequence

NOISE = "within noise"


def number(value: float) -> str:
    """Three digits that matter, thousands set apart; whole numbers as they are."""
    if isinstance(value, int) or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


def ms(value: float) -> str:
    return f"{number(value)} ms"


def ns(value: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if value >= 0.9995 * size:
            return f"{number(value / size)} {unit}"
    return f"{value:.0f} ns"


def per_s(value: float) -> str:
    """Operations in a second."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{number(value / size)} {unit}/s"
    return f"{value:.0f} /s"


def gb_per_s(value: float) -> str:
    return f"{number(value)} GB/s"


def times(ratio: float) -> str:
    return f"{number(ratio)}x"


def size(value: int) -> str:
    return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value >> 10} KiB"


def tick(text: str) -> str:
    """The same for a scale, whose numbers are round."""
    return re.sub(r"\.0+(?!\d)", "", text)


def in_two_lines(text: str) -> str:
    """Folded in the middle, for a narrow column."""
    spaces = [place for place, letter in enumerate(text) if letter == " "]
    middle = min(spaces, key=lambda place: abs(2 * place - len(text)), default=None)
    return text if middle is None else f"{text[:middle]}\n{text[middle + 1 :]}"


def clients(count: int) -> str:
    return f"{count} {'client' if count == 1 else 'clients'}"


def listing(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
