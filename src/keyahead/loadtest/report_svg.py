"""What the pictures of a report are made of: an SVG for an HTML page, and an axis.

A chart is as wide as its place and of a fixed height. x is in percent, y in pixels, and curves lie in a frame of their own that alone is
stretched; so letters, dots and strokes look the same at every width. Colours are classes, which the page's style defines for light and
dark. ElementTree escapes what is written.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET  # only written, never parsed
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]
"""x in percent, y in pixels."""
_SHORT = 12
"""Letters for which there is always room beside a curve."""


class Chart:
    """An SVG that grows by what is drawn into it."""

    def __init__(self, height: int, label: str) -> None:
        self.height = height
        self._svg = ET.Element("svg", {"class": "chart", "width": "100%", "height": str(height), "role": "img", "aria-label": label})
        size = {"width": "100%", "height": str(height), "viewBox": f"0 0 100 {height}", "preserveAspectRatio": "none"}
        self._back = ET.SubElement(self._svg, "g")
        self._stretched = ET.SubElement(self._svg, "svg", size)
        self._front = ET.SubElement(self._svg, "g")

    def path(self, points: Points, look: str, title: str = "", *, closed: bool = False) -> None:
        """A curve, or an area."""
        steps = " L".join(f"{x:.2f} {y:.1f}" for x, y in points)
        self._titled(ET.SubElement(self._stretched, "path", {"d": f"M{steps}{' Z' if closed else ''}", "class": look}), title)

    def dots(self, points: Points, look: str, title: str = "") -> None:
        """Many small ones: lines without length, whose ends are round."""
        steps = "".join(f"M{x:.2f} {y:.1f}h0" for x, y in points)
        self._titled(ET.SubElement(self._stretched, "path", {"d": steps, "class": f"dots {look}"}), title)

    def dot(self, x: float, y: float, look: str, title: str = "") -> None:
        """A large one."""
        self._titled(ET.SubElement(self._front, "circle", {"cx": f"{x:.2f}%", "cy": f"{y:.1f}", "r": "5", "class": look}), title)

    def line(self, start: tuple[float, float], end: tuple[float, float], look: str) -> None:
        """A straight one."""
        ends = {"x1": f"{start[0]:.2f}%", "y1": f"{start[1]:.1f}", "x2": f"{end[0]:.2f}%", "y2": f"{end[1]:.1f}"}
        ET.SubElement(self._back, "line", {**ends, "class": look})

    def box(self, x: tuple[float, float], y: tuple[float, float], look: str, title: str = "") -> None:
        """An upright rectangle, from left to right and from top to bottom."""
        size = {"x": f"{x[0]:.4f}%", "width": f"{x[1] - x[0]:.4f}%", "y": f"{y[0]:.1f}", "height": f"{y[1] - y[0]:.1f}"}
        self._titled(ET.SubElement(self._back, "rect", {**size, "class": look}), title)

    def text(self, x: float, y: float, text: str, look: str = "") -> None:
        """A label, centred but at the ends."""
        self._text(x, y, 0, "start" if x < 4 else "end" if x > 96 else "middle", look).text = text

    def name(self, x: float, y: float, text: str, look: str, owner: str = "") -> None:
        """A label beside a curve, on the side where there is room; a narrow page leaves out a long owner."""
        side = -1 if x > 60 else 1
        label = self._text(x, y, 10 * side, "end" if side < 0 else "start", f"{look} name")
        label.text = text
        if owner:
            ET.SubElement(label, "tspan", {"class": "roomy" if len(owner) > _SHORT else ""}).text = f" {owner}"

    def _text(self, x: float, y: float, shift: int, anchor: str, look: str) -> ET.Element:
        attributes = {"x": f"{x:.2f}%", "y": f"{y:.1f}", "dx": str(shift), "text-anchor": anchor, "class": look}
        return ET.SubElement(self._front, "text", attributes)

    def level(self, y: float, text: str, look: str = "grid") -> None:
        """A line across, with its label standing on it at the left."""
        self.line((0, y), (100, y), look)
        self.text(0, y - 5, text, look)

    def svg(self) -> str:
        """The document."""
        return ET.tostring(self._svg, encoding="unicode")

    @staticmethod
    def _titled(element: ET.Element, title: str) -> None:
        if title:
            ET.SubElement(element, "title").text = title


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic axis of milliseconds, whose ends and marks are 1, 2 or 5 times a power of ten."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float]) -> Scale:
        """Wide enough for these, and for the promise in any case."""
        lowest, highest = max(1.0, min((*values, 20.0))), max((*values, 1000.0))
        marks = [base * 10.0**power for power in range(6) for base in (1, 2, 5)]
        return cls(max(mark for mark in marks if mark <= lowest), min((mark for mark in marks if mark >= highest), default=highest))

    def at(self, value: float) -> float:
        """From 0 to 1; what lies outside is put at the end."""
        inside = min(self.high, max(self.low, value))
        return math.log(inside / self.low) / math.log(self.high / self.low)

    @property
    def tens(self) -> list[float]:
        """The powers of ten for where room is scarce, without 100, which stands too near to the promise."""
        return [mark for mark in self.marks if f"{mark:g}".startswith("1") and mark != 100]

    @property
    def marks(self) -> list[float]:
        """From end to end."""
        return [base * 10.0**power for power in range(6) for base in (1, 2, 5) if self.low <= base * 10.0**power <= self.high]


def milliseconds(value: float) -> str:
    """As an axis has it."""
    return f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"
