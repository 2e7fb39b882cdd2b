"""Inline SVG, as much as the report's plots need. Colors are classes of the page's style sheet.

Text is escaped wherever it enters; only what these functions return is :class:`markupsafe.Markup`, which a template
inserts as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Number = int | float


def element(tag: str, *content: str, **attributes: str | Number) -> Markup:
    """An element; attributes and text are escaped, ``Markup`` is not. ``class_`` is class, ``_`` in names ``-``."""
    pairs = (Markup(' {}="{}"').format(_name(key), _value(value)) for key, value in attributes.items())
    return Markup("<{}{}>{}</{}>").format(tag, Markup("").join(pairs), Markup("").join(content), tag)


def text(words: str, x: Number, y: Number, **attributes: str | Number) -> Markup:
    return element("text", words, x=x, y=y, **attributes)


def title(words: str) -> Markup:
    """The tooltip of the element that contains it."""
    return element("title", words)


def line(x1: Number, y1: Number, x2: Number, y2: Number, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def drawing(width: Number, height: Number, label: str, *content: str) -> Markup:
    """A drawing that shrinks with the page; ``label`` is its text for screen readers."""
    size = {"viewBox": f"0 0 {_value(width)} {_value(height)}", "width": width, "height": height}
    return element("svg", *content, role="img", aria_label=label, **size)


@dataclass(frozen=True)
class Scale:
    """Data from ``low`` to ``high`` on pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the scale, steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / about
        power: float = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class LogScale:
    """Positive data on pixels, each power of ten as wide as the next; what is not positive lies at the start."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Powers of ten inside the scale, every second or third where there are many."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        step = max(1, math.ceil((last - first) / max(1, about)))
        return [10.0**power for power in range(first, last + 1, step)]


def log_scale(values: Sequence[float], start: float, end: float) -> LogScale:
    """From the power of ten below the least of the positive ``values`` to the one above the largest."""
    positive = [value for value in values if value > 0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return LogScale(10.0**low, 10.0 ** max(high, low + 1), start, end)


def scale(values: Sequence[float], start: float, end: float, *, from_zero: bool = False, room: float = 0.06) -> Scale:
    """A scale that holds all values, with some room around them."""
    low, high = (min(0.0, *values) if from_zero else min(values)), max(values)
    if math.isclose(low, high):
        low, high = (low, low + 1.0) if from_zero else (low - 0.5, high + 0.5)
    margin = room * (high - low)
    return Scale(low if from_zero and low == 0 else low - margin, high + margin, start, end)


def axes(
    x: Scale, y: Scale | LogScale, x_label: str, y_label: str, x_ticks: Sequence[float], suffix: str = ""
) -> list[Markup]:
    """Horizontal grid lines with their values, the x axis with its ticks, and both labels."""
    parts = []
    for value in y.ticks(4):
        parts += [
            line(x.start, y(value), x.end, y(value), "grid"),
            text(f"{value:g}", x.start - 8, y(value) + 4, class_="tick", text_anchor="end"),
        ]
    for value in x_ticks:
        parts.append(text(f"{value:g}{suffix}", x(value), y.start + 18, class_="tick", text_anchor="middle"))
    parts += [
        line(x.start, y.start, x.end, y.start, "axis"),
        text(x_label, (x.start + x.end) / 2, y.start + 38, class_="label", text_anchor="middle"),
        text(y_label, x.start - 44, y.end - 12, class_="label"),
    ]
    return parts


def _name(key: str) -> str:
    return "class" if key == "class_" else key.replace("_", "-")


def _value(value: str | Number) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
