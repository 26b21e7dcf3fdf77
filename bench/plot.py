"""The results as one SVG picture: a bar for each program, a group for each work, the limit as a line."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.table import Row, number

_BAR, _GAP, _LEFT, _WIDTH, _RIGHT = 16, 26, 230, 420, 110
_OWN, _OTHER, _FLOOR, _LIMIT = "#1f6f8b", "#b8c4c9", "#dfe5e8", "#b3261e"


def svg(rows: Sequence[Row]) -> str:
    """Bars of one work have one scale; works have different units and so scales of their own."""
    works: dict[str, list[Row]] = {}
    for row in rows:
        works.setdefault(row.work, []).append(row)
    parts: list[str] = []
    y = 30
    for work, members in works.items():
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(work)}</text>')
        y += 8
        largest = max(max(row.value for row in members), 1e-12)
        values = {row.who: row.value for row in members}
        for row in members:
            length = _WIDTH * row.value / largest
            colour = (
                _OWN if row.who.startswith("soliton") else _FLOOR if row.who.startswith("floor") else _OTHER
            )
            middle = y + _BAR - 4
            parts.append(f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(row.who)}</text>')
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 3}" fill="{colour}"/>'
            )
            text = number(row.value, row.unit)
            parts.append(f'<text x="{_LEFT + length + 5:.1f}" y="{middle}">{escape(text)}</text>')
            limit = _limit(row, values)
            if limit is not None and limit <= largest:
                x = _LEFT + _WIDTH * limit / largest
                parts.append(
                    f'<line x1="{x:.1f}" y1="{y - 2}" x2="{x:.1f}" y2="{y + _BAR - 1}" stroke="{_LIMIT}" stroke-width="2"/>'
                )
            y += _BAR
        y += _GAP
    width = _LEFT + _WIDTH + _RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{y}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _limit(row: Row, values: dict[str, float]) -> float | None:
    """The value that a row must not exceed, in the row's unit."""
    words = row.limit.replace("<=", "").split()
    if not words or not row.limit.startswith("<="):
        return None
    bound = float(words[0])
    if "x" in words[1:]:
        return bound * values[row.ratio_to] if row.ratio_to in values else None
    return bound / 1000 if words[1:] == ["ms"] else bound
