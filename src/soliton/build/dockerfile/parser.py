"""A Dockerfile's text as instructions, or an error that names file and line. A pure function.

    file        ::= directive… instruction…
    directive   ::= `# escape=\\``                          in the first lines only
    instruction ::= WORD flags… rest heredoc…              continued by the escape character at a line's end

What an instruction means is told in `recipe`; variables are replaced there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from soliton.build.lines import MAX_SIZE, DefinitionError, Line, closest, split

INSTRUCTIONS = (
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)
#: Those that may have here-documents.
_WITH_HEREDOCS = ("ADD", "COPY", "RUN")
MAX_INSTRUCTIONS = 10_000

__all__ = ["MAX_SIZE", "Dockerfile", "Heredoc", "Instruction", "parse", "single"]
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.*?)\s*$")
_HEREDOC = re.compile(r"(?<![<\w\"'])<<(-?)([\"']?)([A-Za-z_][A-Za-z0-9_.]*)\2(?![<\w])")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(.*))?$", re.DOTALL)


@dataclass(frozen=True)
class Heredoc:
    """name: the word that ends it. expand: variables count in it. mark: as written, `<<-"EOF"`."""

    name: str
    body: str
    expand: bool
    mark: str


@dataclass(frozen=True)
class Instruction:
    """word: upper case. flags: in order. rest: what follows, continuation lines joined. text: as written, all of it.

    json: the rest as a list of words, where it is one.
    """

    word: str
    flags: tuple[tuple[str, str], ...]
    rest: str
    line: int
    text: str
    json: tuple[str, ...] | None = None
    heredocs: tuple[Heredoc, ...] = ()

    def flag(self, name: str) -> str | None:
        return next((value for key, value in reversed(self.flags) if key == name), None)


@dataclass(frozen=True)
class Dockerfile:
    """name: for messages. escape: the character. text: whole."""

    name: str
    instructions: tuple[Instruction, ...]
    escape: str
    text: str


def parse(data: bytes, name: str) -> Dockerfile:
    """Raises DefinitionError for what is no Dockerfile."""
    lines = split(data, name)
    escape, at = _directives(lines, name)
    found: list[Instruction] = []
    while at < len(lines):
        if not lines[at].text.strip() or lines[at].text.lstrip().startswith("#"):
            at += 1
            continue
        instruction, at = _instruction(lines, at, escape, name)
        found.append(instruction)
        if len(found) > MAX_INSTRUCTIONS:
            raise DefinitionError(name, "too many instructions", line=instruction.line)
    if not found:
        raise DefinitionError(name, "no instruction at all", expected="`FROM IMAGE` in the first line")
    return Dockerfile(name, tuple(found), escape, "".join(f"{line.text}\n" for line in lines))


def single(text: str, line: int, escape: str, name: str) -> Instruction:
    """One instruction that stands inside another: what `ONBUILD` or a base image says."""
    return _instruction((Line(line, text),), 0, escape, name)[0]


def _directives(lines: Sequence[Line], name: str) -> tuple[str, int]:
    escape = "\\"
    for at, line in enumerate(lines):
        match = _DIRECTIVE.match(line.text.strip())
        if match is None or match[1].lower() not in ("syntax", "escape", "check"):
            return escape, at
        if match[1].lower() == "escape":
            if match[2] not in ("\\", "`"):
                raise DefinitionError(
                    name,
                    f"`{match[2][:20]}` cannot be the escape character",
                    line=line.number,
                    expected="`\\` or a backquote",
                )
            escape = match[2]
    return escape, len(lines)


def _instruction(lines: Sequence[Line], at: int, escape: str, name: str) -> tuple[Instruction, int]:
    """The instruction at a line, and the number of the line behind it."""
    first, start = lines[at], at
    joined = ""
    while at < len(lines):
        text = lines[at].text
        if at > start and (not text.strip() or text.lstrip().startswith("#")):
            at += 1  # comments and empty lines do not end it
            continue
        at += 1
        stripped = text.rstrip()
        if stripped.endswith(escape) and not _is_escaped(stripped, escape):
            joined += stripped[:-1]
            continue
        joined += text
        break
    word, _, rest = joined.strip().partition(" ")
    head = re.match(r"\S+", joined.strip())
    word = head[0] if head else ""
    rest = joined.strip()[len(word) :].strip()
    if word.upper() not in INSTRUCTIONS:
        raise DefinitionError(
            name,
            f"`{word[:40]}` is no instruction",
            line=first.number,
            expected="one such as RUN, COPY or ENV",
            remedy=closest(word, INSTRUCTIONS),
        )
    word = word.upper()
    flags, rest = _flags(word, rest, first.number, name)
    heredocs: list[Heredoc] = []
    if word in _WITH_HEREDOCS or word == "ONBUILD":
        for match in _HEREDOC.finditer(rest):
            if _is_quoted(rest, match.start(), escape):
                continue
            body, at = _heredoc(lines, at, match[3], match[1] == "-", first.number, name)
            heredocs.append(Heredoc(match[3], body, not match[2], match[0]))
    text = "\n".join(line.text for line in lines[start:at])
    if not rest:
        raise DefinitionError(name, f"{word} without anything behind it", line=first.number)
    return Instruction(word, flags, rest, first.number, text, _json(rest), tuple(heredocs)), at


def _is_quoted(text: str, end: int, escape: str) -> bool:
    """Whether quotes are open at a place of a text."""
    quote, at = "", 0
    while at < end:
        char = text[at]
        if char == escape and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        at += 1
    return bool(quote)


def _is_escaped(text: str, escape: str) -> bool:
    """Whether the escape character at the end stands for itself: an even number of backslashes is none at all."""
    count = len(text) - len(text.rstrip(escape))
    return escape == "\\" and count % 2 == 0


def _flags(word: str, rest: str, line: int, name: str) -> tuple[tuple[tuple[str, str], ...], str]:
    if word not in ("ADD", "COPY", "FROM", "HEALTHCHECK", "RUN", "ONBUILD"):
        return (), rest
    flags: list[tuple[str, str]] = []
    while rest.startswith("--"):
        text, *more = rest.split(None, 1)
        rest = more[0] if more else ""
        match = _FLAG.match(text)
        if match is None:
            raise DefinitionError(name, f"`{text[:40]}` is no option of {word}", line=line)
        flags.append((match[1], match[2] if match[2] is not None else "true"))
        rest = rest.lstrip()
    return tuple(flags), rest


def _heredoc(lines: Sequence[Line], at: int, end: str, tabs: bool, line: int, name: str) -> tuple[str, int]:
    body: list[str] = []
    while at < len(lines):
        text = lines[at].text.lstrip("\t") if tabs else lines[at].text
        at += 1
        if text == end:
            return "".join(f"{part}\n" for part in body), at
        body.append(text)
    raise DefinitionError(
        name, f"the here-document `{end}` is never ended", line=line, expected=f"a line with `{end}` alone"
    )


def _json(text: str) -> tuple[str, ...] | None:
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, list) and all(isinstance(word, str) for word in found):
        return tuple(found)
    return None
