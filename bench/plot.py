"""Stacked bars as SVG, by hand: a plotting library would be the largest dependency of the project."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

# Okabe and Ito's palette: told apart by those who do not see all colours.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_LEFT, _WIDTH, _BAR, _TOP = 260, 640, 26, 70


def bars(title: str, parts: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """One bar a row, one stretch of it a part, in the parts' order; the sum stands at its end."""
    longest = max((sum(figures) for _, figures in rows), default=0.0) or 1.0
    height = _TOP + len(rows) * (_BAR + 8) + 10
    drawn = [_text(10, 24, title, "16"), *_key(parts)]
    for number, (label, figures) in enumerate(rows):
        y = _TOP + number * (_BAR + 8)
        drawn.append(_text(10, y + _BAR * 0.7, label))
        x = float(_LEFT)
        for colour, figure in zip(_COLOURS, figures, strict=False):
            width = figure / longest * _WIDTH
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
            x += width
        drawn.append(_text(x + 6, y + _BAR * 0.7, f"{sum(figures):.2f}"))
    size = f'width="{_LEFT + _WIDTH + 70}" height="{height}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *drawn, "</svg>", ""])


def _key(parts: Sequence[str]) -> list[str]:
    drawn = []
    for number, (part, colour) in enumerate(zip(parts, _COLOURS, strict=False)):
        x = 10 + number * 118
        drawn.append(f'<rect x="{x}" y="38" width="12" height="12" fill="{colour}"/>')
        drawn.append(_text(x + 17, 49, part))
    return drawn


def _text(x: float, y: float, text: str, size: str = "13") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-family="sans-serif" font-size="{size}">{escape(text)}</text>'
