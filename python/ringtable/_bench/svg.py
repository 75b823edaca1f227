"""The elements of a drawing, as text. Colours come from the page's style sheet, by class."""

from dataclasses import dataclass, field
from html import escape

Attribute = str | float | int


def element(name: str, text: str = "", /, **attributes: Attribute) -> str:
    """An element; `_` in an attribute's name stands for `-`, and `class_` for `class`."""
    parts = [name]
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return f"<{' '.join(parts)}>{text}</{name}>"


@dataclass
class Drawing:
    """Elements on a plane of this size; the page scales it."""

    width: float
    height: float
    title: str
    """What it shows, for those who cannot see it."""

    elements: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, **attributes: Attribute) -> None:
        self.elements.append(element("text", escape(text), x=x, y=y, **attributes))

    def line(self, x1: float, y1: float, x2: float, y2: float, **attributes: Attribute) -> None:
        self.elements.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes))

    def rectangle(self, x: float, y: float, width: float, height: float, **attributes: Attribute) -> None:
        self.elements.append(element("rect", x=x, y=y, width=max(width, 0.0), height=height, **attributes))

    def curve(self, points: list[tuple[float, float]], **attributes: Attribute) -> None:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.elements.append(element("polyline", points=joined, fill="none", **attributes))

    def marker(self, shape: int, x: float, y: float, size: float, **attributes: Attribute) -> None:
        """One of several shapes that differ without colours: disc, square, two triangles, diamond, cross."""
        outlines = (
            ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
            ((0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
            ((0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
            ((0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)),
        )
        if shape % (len(outlines) + 1) == 0:
            self.elements.append(element("circle", cx=x, cy=y, r=size, **attributes))
            return
        outline = outlines[shape % (len(outlines) + 1) - 1]
        joined = " ".join(f"{x + size * right:.1f},{y + size * down:.1f}" for right, down in outline)
        self.elements.append(element("polygon", points=joined, **attributes))

    def render(self) -> str:
        body = element("title", escape(self.title)) + "\n".join(self.elements)
        box = f"0 0 {self.width:g} {self.height:g}"
        return element("svg", body, xmlns="http://www.w3.org/2000/svg", viewBox=box, role="img")
