"""The text of a definition file as numbered lines, and the error that points at one of them.

Decoding, line ends and limits happen here once, so that the grammar (`definition`, `header`, `transfers`, `templates`)
sees clean lines only. Bytes that are not UTF-8 are kept as surrogates: a script may hold them.
"""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from soliton.errors import BuildError

#: Bytes a definition file may have; the longest ones in public use have some 100 kB.
MAX_SIZE = 4 << 20
#: Characters in all that replacing `{{ }}` may make of it.
MAX_EXPANDED = 16 << 20

_FOREIGN = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True)
class Line:
    """number: in the file, from 1 on. text: without its end."""

    number: int
    text: str


class DefinitionError(BuildError):
    """A definition file that is not one. line, column: from 1 on, None where the whole file is meant."""

    def __init__(
        self,
        name: str,
        what: str,
        *,
        line: int | None = None,
        column: int | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        place = ":".join([name, *(str(number) for number in (line, column) if number is not None)])
        super().__init__(f"{place}: {what}", why=f"expected {expected}" if expected else None, remedy=remedy)
        self.line = line
        self.column = column


def split(data: bytes, name: str) -> tuple[Line, ...]:
    """The lines of a definition file; `\\r\\n` and `\\r` end lines as `\\n` does.

    name: the file, for messages. Raises DefinitionError for what cannot be the text of a definition.
    """
    if len(data) > MAX_SIZE:
        raise DefinitionError(
            name, f"larger than the {MAX_SIZE >> 20} MiB that a definition file may have", expected="text"
        )
    for mark, encoding in _FOREIGN:
        if data.startswith(mark):
            raise DefinitionError(
                name, f"written in {encoding}", line=1, expected="UTF-8", remedy="save it again as UTF-8"
            )
    data = data.removeprefix(codecs.BOM_UTF8)
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    zero = text.find("\0")
    if zero >= 0:
        line = text.count("\n", 0, zero) + 1
        raise DefinitionError(name, "a NUL byte", line=line, expected="text, as every definition file is")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return tuple(Line(number, content) for number, content in enumerate(lines, 1))


def closest(word: str, known: Iterable[str]) -> str | None:
    """`did you mean …` for a word that is close to one of `known`, else None."""
    candidates = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(word.lower()[:64], candidates, n=1, cutoff=0.6)
    return f"did you mean `{candidates[match[0]]}`?" if match else None
