"""`soliton.toml` as text: lines `name = value`, no tables. Reading it must cost next to nothing, and say lines.

`scan` reads what such files usually hold and declines the rest; then `tomllib` reads the whole, which takes ten times as long as
the start of a container may, and no line of a value is known but by its name. `set_value` changes a text, comments kept.
"""

from __future__ import annotations

from soliton.errors import SolitonError
from soliton.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Nobody's configuration is larger.
LARGEST = 1 << 20


@record
class Entry:
    """One assignment, from line `line` to line `last`; the first line is 1."""

    name: str
    value: Any
    line: int
    last: int


class Unusual(Exception):
    """Something that `scan` does not read."""


def parse(text: str, shown: str) -> tuple[Entry, ...]:
    """All assignments. shown: the file's name for messages. Raises SolitonError."""
    try:
        return scan(text)
    except Unusual:
        return _whole(text, shown)


_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_ESCAPES = {'"': '"', "\\": "\\", "b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def scan(text: str) -> tuple[Entry, ...]:
    """Assignments of texts, whole numbers, true, false, and lists of these to plain names. Raises Unusual for anything else."""
    for character in text:
        if (character < " " and character not in "\n\t") or character == "\x7f":
            raise Unusual
    reader = _Reader(text)
    found: dict[str, Entry] = {}
    while reader.skip_to_next():
        line = reader.line
        name = reader.name()
        value = reader.value()
        last = reader.line
        reader.end_of_line()
        if name in found:
            raise Unusual
        found[name] = Entry(name, value, line, last)
    return tuple(found.values())


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def blanks(self) -> None:
        while self.peek() in (" ", "\t"):
            self.at += 1

    def comment(self) -> None:
        if self.peek() == "#":
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end

    def skip_to_next(self) -> bool:
        """Over blank lines and comments; whether anything follows."""
        while True:
            self.blanks()
            self.comment()
            if self.peek() != "\n":
                return self.at < len(self.text)
            self.at += 1
            self.line += 1

    def name(self) -> str:
        begin = self.at
        while self.peek() in _BARE and self.peek():
            self.at += 1
        name = self.text[begin : self.at]
        self.blanks()
        if not name or self.peek() != "=":
            raise Unusual
        self.at += 1
        self.blanks()
        return name

    def end_of_line(self) -> None:
        self.blanks()
        self.comment()
        if self.peek() not in ("", "\n"):
            raise Unusual

    def value(self) -> Any:
        first = self.peek()
        if first == "[":
            self.at += 1
            return self.items()
        if first in ('"', "'"):
            if self.text.startswith(first * 3, self.at):
                raise Unusual
            self.at += 1
            return self.quoted() if first == '"' else self.literal()
        begin = self.at
        while self.peek() in _BARE and self.peek():
            self.at += 1
        word = self.text[begin : self.at]
        if word in ("true", "false"):
            return word == "true"
        digits = word.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 19 and (digits == "0" or digits[0] != "0"):
            return int(word)
        raise Unusual

    def items(self) -> list[Any]:
        found: list[Any] = []
        while self.skip_to_next():
            if self.peek() == "]":
                self.at += 1
                return found
            found.append(self.value())
            if not self.skip_to_next():
                break
            if self.peek() == ",":
                self.at += 1
            elif self.peek() != "]":
                break
        raise Unusual

    def literal(self) -> str:
        end = self.text.find("'", self.at)
        found = self.text[self.at : end]
        if end < 0 or "\n" in found:
            raise Unusual
        self.at = end + 1
        return found

    def quoted(self) -> str:
        parts: list[str] = []
        while True:
            character = self.peek()
            if character in ("", "\n"):
                raise Unusual
            self.at += 1
            if character == '"':
                return "".join(parts)
            if character == "\\":
                escape = _ESCAPES.get(self.peek())
                if escape is None:
                    raise Unusual
                self.at += 1
                parts.append(escape)
            else:
                parts.append(character)


def _whole(text: str, shown: str) -> tuple[Entry, ...]:
    import tomllib

    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise SolitonError(
            f"`{shown}` cannot be read", why=str(error), remedy='a line is `name = "text"`, see toml.io'
        ) from None
    return tuple(Entry(name, value, _line_of(text, name), 0) for name, value in values.items())


def _line_of(text: str, name: str) -> int:
    """The line on which a name is assigned, or a table of that name begins, as far as can be told."""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip().lstrip("[").strip()
        if words.lstrip("\"'").startswith(name):
            return number
    return 1


def written(value: object) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(written(part) for part in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
    return (
        '"'
        + "".join(known.get(c) or (f"\\u{ord(c):04x}" if c < " " or c == "\x7f" else c) for c in text)
        + '"'
    )


def set_value(text: str, name: str, value: object, shown: str) -> str:
    """The text with `name` set to this value, or without it for None. Raises SolitonError where that takes a human."""
    try:
        entries = scan(text)
    except Unusual:
        _whole(text, shown)
        raise SolitonError(
            f"`{shown}` holds more than lines `name = value`, so it is not changed by a program",
            remedy="change it with an editor",
        ) from None
    # Not `splitlines`, which also splits at characters that TOML has inside texts.
    lines = [f"{line}\n" for line in text.split("\n")]
    if lines[-1] == "\n":
        lines.pop()
    line = [] if value is None else [f"{name} = {written(value)}\n"]
    for entry in entries:
        if entry.name == name:
            return "".join(lines[: entry.line - 1] + line + lines[entry.last :])
    return "".join(lines + line)
