"""The one table of a run."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """work: what was done. who: by which program. value, unit: the median. ratio_to: the row of the same work that it
    is compared with. limit: the ratio (or value) that must hold, as text."""

    work: str
    who: str
    value: float
    unit: str = "s"
    ratio: float | None = None
    ratio_to: str = ""
    limit: str = ""
    holds: bool | None = None


def number(value: float, unit: str) -> str:
    """A value with its unit, as people read it."""
    if unit == "s":
        return f"{value * 1000:.2f} ms" if value < 0.5 else f"{value:.2f} s"
    return f"{value:.1f} {unit}"


def render(rows: list[Row]) -> str:
    """Plain text, one line a row; a work's name stands on its first line only."""
    lines = [("work", "program", "value", "ratio", "required", "holds")]
    previous = None
    for row in rows:
        ratio = f"{row.ratio:.2f} x {row.ratio_to}" if row.ratio is not None else ""
        verdict = "" if row.holds is None else "yes" if row.holds else "NO"
        lines.append(
            (
                row.work if row.work != previous else "",
                row.who,
                number(row.value, row.unit),
                ratio,
                row.limit,
                verdict,
            )
        )
        previous = row.work
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)
