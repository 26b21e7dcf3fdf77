"""Words of an instruction: quotes, the escape character, and `$VARIABLES` as Dockerfiles have them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from soliton.build.lines import DefinitionError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]")
#: Characters that one replacement may make.
LONGEST = 1 << 20
DEEPEST = 20
#: Characters of a value that a pattern is taken off from.
LONGEST_MATCHED = 512


def expand(
    text: str, variables: Mapping[str, str], escape: str, name: str, line: int, *, quotes: bool = True
) -> str:
    """Variables replaced, and with `quotes` quotes and escapes taken away."""
    return _Reader(text, variables, escape, name, line, quotes, 0).all()


def split(text: str, escape: str, name: str, line: int) -> list[str]:
    """The words of a text, as they are written: quotes and escapes still in them."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word = ""
            at += 1
            continue
        word += char
        at += 1
    if quote:
        raise DefinitionError(name, f"the quote {quote} is never closed", line=line)
    return [*words, word] if word else words


def _trimmed(value: str, pattern: str, front: bool, *, longest: bool) -> str:
    """`${X#pattern}` and `${X%pattern}`, doubled for as much as can be taken."""
    cuts = range(len(value) + 1) if front != longest else range(len(value), -1, -1)
    for cut in cuts:
        taken, left = (value[:cut], value[cut:]) if front else (value[cut:], value[:cut])
        if _matches(pattern, taken):
            return left
    return value


def _matches(pattern: str, text: str) -> bool:
    """A shell's `*` and `?`, in a time that the product of both lengths bounds."""
    at = here = 0
    star, resumed = -1, 0
    while at < len(text):
        if here < len(pattern) and pattern[here] == "*":
            star, resumed = here, at
            here += 1
        elif here < len(pattern) and pattern[here] in ("?", text[at]):
            at, here = at + 1, here + 1
        elif star >= 0:
            resumed += 1
            at, here = resumed, star + 1
        else:
            return False
    return not pattern[here:].strip("*")


class _Reader:
    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        escape: str,
        name: str,
        line: int,
        quotes: bool,
        depth: int,
    ) -> None:
        self.text, self.variables, self.escape = text, variables, escape
        self.name, self.line, self.quotes, self.depth = name, line, quotes, depth
        self.at = 0

    def error(self, what: str) -> DefinitionError:
        return DefinitionError(self.name, what, line=self.line)

    def all(self) -> str:
        out: list[str] = []
        size = 0
        quote = ""
        while self.at < len(self.text):
            char = self.text[self.at]
            piece = char
            if self.quotes and quote == "'" and char != "'":
                self.at += 1
            elif char == self.escape and self.at + 1 < len(self.text):
                following = self.text[self.at + 1]
                keep = not self.quotes or (quote == '"' and following not in f'"$\\`{self.escape}')
                piece = char + following if keep and following != "$" else following
                self.at += 2
            elif self.quotes and char in "\"'" and quote in ("", char):
                quote = "" if quote else char
                piece = ""
                self.at += 1
            elif char == "$":
                self.at += 1
                piece = self.variable()
            else:
                self.at += 1
            out.append(piece)
            size += len(piece)
            if size > LONGEST:
                raise self.error("replacing variables gives too long a text")
        if quote:
            raise self.error(f"the quote {quote} is never closed")
        return "".join(out)

    def variable(self) -> str:
        match = _NAME.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            return self.variables.get(match[0], "")
        if not self.text.startswith("{", self.at):
            return "$"
        end = self.closing()
        inner = self.text[self.at + 1 : end]
        match = _NAME.match(inner)
        if match is None:
            raise self.error(f"`${{{inner[:40]}}}` is no variable")
        key, rest = match[0], inner[match.end() :]
        self.at = end + 1
        value = self.variables.get(key)
        if not rest:
            return value or ""
        for operator in (":-", ":+", ":?", "-", "+", "?"):
            if rest.startswith(operator):
                there = bool(value) if operator.startswith(":") else value is not None
                word = rest[len(operator) :]
                if operator[-1] == "-":
                    return value or "" if there else self.inner(word)
                if operator[-1] == "+":
                    return self.inner(word) if there else ""
                if not there:
                    raise self.error(f"`{key}` is not set: {self.inner(word) or 'it has to be'}")
                return value or ""
        if rest[0] in "#%":
            double = rest.startswith(rest[0] * 2)
            pattern = self.inner(rest[2 if double else 1 :])
            if max(len(pattern), len(value or "")) > LONGEST_MATCHED:
                raise self.error(f"`{key}` is too long for a pattern")
            return _trimmed(value or "", pattern, rest[0] == "#", longest=double)
        if rest[0] == "/":
            every = rest.startswith("//")
            old, _, new = (self.inner(part) for part in rest[2 if every else 1 :].partition("/"))
            if old and not any(char in "*?" for char in old):
                count = (value or "").count(old) if every else 1
                if len(value or "") + count * len(new) > LONGEST:
                    raise self.error("replacing variables gives too long a text")
                return (value or "").replace(old, new, count)
        raise self.error(f"`${{{inner[:40]}}}` is not understood")

    def inner(self, text: str) -> str:
        if self.depth >= DEEPEST:
            raise self.error("variables are nested too deep")
        return _Reader(
            text, self.variables, self.escape, self.name, self.line, self.quotes, self.depth + 1
        ).all()

    def closing(self) -> int:
        depth = 0
        for at in range(self.at, len(self.text)):
            if self.text[at] == "{":
                depth += 1
            elif self.text[at] == "}":
                depth -= 1
                if depth == 0:
                    return at
        raise self.error("`${` is never closed")
