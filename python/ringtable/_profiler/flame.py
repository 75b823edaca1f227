"""Flame graphs: a profile as an SVG picture that needs nothing but a browser.

Each box is a function on the stack, on top of the one that called it; its width is its share of the CPU time, and its
colour says what it was busy with. Boxes stand in alphabetical order: the horizontal axis is no time line. We draw them
ourselves, since it takes a page: the usual library for it would be the only one here without a permissive licence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from ringtable._profiler.stacks import Kind, Stack, kind_of, shares

# Pixels.
WIDTH = 1200
MARGIN = 12
ROW = 17
HEAD = 66
FOOT = 46
# Of a box that is drawn at all, and of one in which text finds room.
BOX_WIDTH_MIN = 0.4
LABEL_WIDTH_MIN = 24.0
CHARACTER = 6.65

COLOURS = {
    Kind.RECEIVE: "#7fb2e5",
    Kind.TABLE: "#f2a65a",
    Kind.SEND: "#8ccf7e",
    Kind.WAIT: "#c3c7cf",
    Kind.OTHER: "#efe3c2",
}


@dataclass
class _Box:
    """A function, all stacks together in which it stands on the same ones."""

    stack: Stack
    count: int = 0
    calls: dict[str, _Box] = field(default_factory=dict)


def flame_graph(profile: Mapping[Stack, int], title: str, subtitle: str) -> str:
    """Draw a profile.

    Args:
        profile: How often each stack was seen.
        title: What was profiled.
        subtitle: How, and for how long.
    """
    root = _Box(("all",))
    for stack, count in profile.items():
        root.count += count
        box = root
        for name in stack:
            box = box.calls.setdefault(name, _Box((*box.stack, name)))
            box.count += count
    height = HEAD + ROW * _depth(root) + FOOT
    floor = height - FOOT
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="11">',
        "<style>g:hover rect { stroke: #222; stroke-width: 1; }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="39" fill="#555">{escape(subtitle)}</text>',
        *_legend(profile),
        *_boxes(root, MARGIN, (WIDTH - 2 * MARGIN) / max(root.count, 1), floor),
        *_axis(floor),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _depth(box: _Box) -> int:
    return 1 + max((_depth(called) for called in box.calls.values()), default=0)


def _boxes(box: _Box, left: float, scale: float, bottom: int) -> Iterator[str]:
    """A box, and above it those of the functions that it called."""
    width = box.count * scale
    if width < BOX_WIDTH_MIN:
        return
    kind = kind_of(box.stack)
    all_samples = (WIDTH - 2 * MARGIN) / scale
    share = f"{100 * box.count / all_samples:.1f} % of the CPU time"
    about = f"{box.stack[-1]}: {share}, {box.count:,} {'sample' if box.count == 1 else 'samples'}, {kind.value}"
    label = _label(box.stack[-1], width)
    yield (
        f"<g><title>{escape(about)}</title>"
        f'<rect x="{left:.2f}" y="{bottom - ROW}" width="{max(width - 0.5, 0.2):.2f}" height="{ROW - 1}" rx="1.5"'
        f" fill={quoteattr(COLOURS[kind])}/>"
        + (f'<text x="{left + 3:.2f}" y="{bottom - 5}">{escape(label)}</text>' if label else "")
        + "</g>"
    )
    for name in sorted(box.calls):
        yield from _boxes(box.calls[name], left, scale, bottom - ROW)
        left += box.calls[name].count * scale


def _label(name: str, width: float) -> str:
    """As much of a name as finds room: its end, which tells most."""
    if width < LABEL_WIDTH_MIN:
        return ""
    room = int((width - 6) / CHARACTER)
    name = name.removeprefix("ringtable::")
    while len(name) > room and "::" in name:
        name = name.partition("::")[2]
    return name if len(name) <= room else name[: room - 1] + "…"


def _legend(profile: Mapping[Stack, int]) -> Iterator[str]:
    left = MARGIN
    for kind, share in shares(profile).items():
        text = f"{kind.value} {share:.1f} %"
        yield f'<rect x="{left}" y="47" width="11" height="11" rx="1.5" fill={quoteattr(COLOURS[kind])}/>'
        yield f'<text x="{left + 16}" y="56.5">{text}</text>'
        left += 16 + round(CHARACTER * len(text)) + 22


def _axis(floor: int) -> Iterator[str]:
    """The share of the CPU time, in percent, below the boxes."""
    for percent in range(0, 101, 10):
        x = MARGIN + (WIDTH - 2 * MARGIN) * percent / 100
        anchor = "start" if percent == 0 else "end" if percent == 100 else "middle"
        yield f'<line x1="{x:.1f}" y1="{floor + 3}" x2="{x:.1f}" y2="{floor + 8}" stroke="#888"/>'
        yield f'<text x="{x:.1f}" y="{floor + 20}" fill="#555" text-anchor="{anchor}">{percent} %</text>'
    yield (
        f'<text x="{WIDTH / 2:.0f}" y="{floor + 37}" fill="#555" text-anchor="middle">'
        "share of the CPU time (each box stands on its caller; order is alphabetical, not time)</text>"
    )
