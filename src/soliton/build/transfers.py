"""One line of `%files`: what is copied where. Looking for the files is not done here."""

from __future__ import annotations

from dataclasses import dataclass

from soliton.build.lines import DefinitionError, Line


@dataclass(frozen=True)
class Transfer:
    """source: a path or a pattern, quoted or not. target: inside the image, None: the path of the source."""

    source: str
    target: str | None
    line: int


def parse_transfer(line: Line, name: str) -> Transfer | None:
    """`source [target]` with "…" or '…' around names with blanks; None for an empty line or a comment.

    Raises DefinitionError for an open quote, an empty name, or a third name.
    """
    words = _words(line, name)
    if not words:
        return None
    if len(words) > 2:
        text, column = words[2]
        raise DefinitionError(
            name,
            f"`{text}` is one name too many",
            line=line.number,
            column=column,
            expected="`source` or `source target`",
            remedy="put names with blanks in quotes",
        )
    for text, column in words:
        if not text:
            raise DefinitionError(
                name, "an empty name", line=line.number, column=column, expected="the name of a file"
            )
    return Transfer(words[0][0], words[1][0] if len(words) == 2 else None, line.number)


def _words(line: Line, name: str) -> list[tuple[str, int]]:
    """(word, column) of each; a word that begins with `#` ends the line."""
    text = line.text
    words: list[tuple[str, int]] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        if text[at] == "#":
            break
        start = at
        word = ""
        while at < len(text) and not text[at].isspace():
            if text[at] in "\"'":
                end = text.find(text[at], at + 1)
                if end < 0:
                    raise DefinitionError(
                        name,
                        f"the quote {text[at]} is never closed",
                        line=line.number,
                        column=at + 1,
                        expected=f"another {text[at]} in this line",
                    )
                word += text[at + 1 : end]
                at = end + 1
            elif text[at] == "\\" and at + 1 < len(text) and text[at + 1] in " \t\"'\\#":
                word += text[at + 1]
                at += 2
            else:
                word += text[at]
                at += 1
        words.append((word, start + 1))
    return words
