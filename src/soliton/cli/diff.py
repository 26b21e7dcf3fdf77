"""`diff`: the differences of two images as text or JSON; the status says whether there are any, as that of diff(1)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from soliton.cli.inspect import write
from soliton.messages import printable

if TYPE_CHECKING:
    from soliton.api.diff import Difference
    from soliton.cli.invocation import Invocation
    from soliton.images.compare import Change

PARTS = ("files", "packages", "environment", "labels")
_MARKS = {"added": "+", "removed": "-", "changed": "~"}


def diff(invocation: Invocation) -> int:
    from soliton.api.diff import diff as compare

    before, after = invocation.positionals
    found = compare(before, after, invocation.words("ignore"))
    write(as_json(found) if invocation.flag("json") else as_text(found))
    return 1 if found else 0


def as_json(found: Difference) -> str:
    from soliton.images.compare import as_json as record

    return (
        json.dumps(
            {part: [record(change) for change in getattr(found, part)] for part in PARTS},
            indent="\t",
            ensure_ascii=False,
        )
        + "\n"
    )


def as_text(found: Difference) -> str:
    lines: list[str] = []
    for part in PARTS:
        changes: Sequence[Change] = getattr(found, part)
        if changes:
            lines.append(f"{part.capitalize()}: {counted(changes)}")
            lines += lines_of(changes)
    return "".join(f"{line}\n" for line in lines)


def counted(changes: Sequence[Change]) -> str:
    counts = {word: sum(change.change == word for change in changes) for word in _MARKS}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def lines_of(changes: Sequence[Change]) -> Iterator[str]:
    """`~ /etc/passwd  content (913 bytes → 950 bytes), mode (0644 → 0600)`."""
    for change in changes:
        told = []
        for aspect, (before, after) in change.aspects.items():
            pair = f"{before} → {after}" if change.change == "changed" else before or after
            told.append(pair if aspect == "is" else f"{aspect} ({pair})")
        yield f"  {_MARKS[change.change]} {_one_line(change.name)}  {_one_line(', '.join(told))}".rstrip()


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
