"""Boxes, arrows and text as SVG: as much as the diagrams of the documentation need."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

LINE = 17
"""Height of a line of text."""

_COLOURS = {
    "going": ("#e8f0fb", "#3b6fb6"),
    "good": ("#e6f4ea", "#2e7d46"),
    "bad": ("#fbeaea", "#b3403a"),
    "odd": ("#fdf3e0", "#a9731b"),
    "plain": ("#f3f4f6", "#5b6470"),
    "none": ("none", "none"),
}
"""Background and outline of each kind of box."""

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
role="img" font-family="system-ui, sans-serif" font-size="13" fill="#1f2328">
<title>{title}</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" \
orient="auto-start-reverse">
<path d="M0 0L8 4L0 8z" fill="#5b6470"/></marker></defs>
<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>
"""


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas, to which arrows lead."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        """The middle of the left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        """The middle of the right side."""
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        """The middle of the upper side."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        """The middle of the lower side."""
        return self.x + self.width / 2, self.y + self.height


class Canvas:
    """A picture in the making.

    :param width: in pixels.
    :param height: in pixels.
    :param title: what it shows, for those who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [_HEAD.format(width=width, height=height, title=escape(title))]

    def text(self, x: float, y: float, text: str, *, weight: str = "normal", anchor: str = "start") -> None:
        """Write one line; ``y`` is its base line."""
        style = f' font-weight="{weight}"' if weight != "normal" else ""
        style += f' text-anchor="{anchor}"' if anchor != "start" else ""
        self._parts.append(f'<text x="{x:g}" y="{y:g}"{style}>{escape(text)}</text>\n')

    def box(self, x: float, y: float, width: float, lines: list[str], *, kind: str = "plain", title: str = "") -> Box:
        """Draw a box as high as its lines need, with a bold title, and return where it is."""
        rows = len(lines) + bool(title)
        shape = Box(x, y, width, rows * LINE + 14)
        fill, stroke = _COLOURS[kind]
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{shape.height:g}" rx="6" fill="{fill}" '
            f'stroke="{stroke}"/>\n'
        )
        base = y + LINE + 2
        if title:
            self.text(x + 10, base, title, weight="bold")
            base += LINE
        for number, line in enumerate(lines):
            self.text(x + 10, base + number * LINE, line)
        return shape

    def arrow(self, *points: tuple[float, float], label: str = "", dashed: bool = False, both: bool = False) -> None:
        """Draw a line through the points, with a head at its end; the label stands at the middle of its first part."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        style = ' stroke-dasharray="5 4"' if dashed else ""
        style += ' marker-start="url(#head)"' if both else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="#5b6470" stroke-width="1.3"{style} '
            'marker-end="url(#head)"/>\n'
        )
        if label:
            (x1, y1), (x2, y2) = points[0], points[1]
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - 5, label, anchor="middle")

    def svg(self) -> str:
        """Return the picture."""
        return "".join([*self._parts, "</svg>\n"])
