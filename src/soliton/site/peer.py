"""The peers' configuration file: lines `directive = value`, as `soliton.toml` would say them. Pure.

There a scalar keeps its first value, lists grow over lines, an empty value is none, and a file without `bind path` binds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from soliton.errors import SolitonError
from soliton.site.config import DEFAULTS
from soliton.site.directives import DIRECTIVES, WITHOUT_MEANING, ValueProblem, value_of
from soliton.site.toml import written

if TYPE_CHECKING:
    from soliton.site.directives import Directive

#: Words for a flag on a command line and at the peers.
FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def lines(text: str, shown: str) -> dict[str, tuple[int, list[str]]]:
    """Every directive with the line of its first value, and its values. Raises SolitonError for a line that is none."""
    found: dict[str, tuple[int, list[str]]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = " ".join(name.split())
        if not equals or not name.replace(" ", "").replace("_", "").replace("-", "").isalnum():
            raise SolitonError(f"`{shown}:{number}` is not a line `directive = value`")
        values = [part.strip() for part in value.split(",") if part.strip()]
        if values:
            found.setdefault(name, (number, []))[1].extend(values)
    return found


def converted(text: str, shown: str) -> tuple[str, list[str]]:
    """The same as `soliton.toml`: only what differs from soliton's defaults; and warnings about what could not be taken over."""
    given = lines(text, shown)
    out = [f"# Taken over from {_comment(shown)}.\n"]
    warnings: list[str] = []
    for directive in DIRECTIVES:
        if directive.peer is None:
            continue
        number, words = given.pop(directive.peer, (0, []))
        if not words and directive.name != "bind-path":
            continue
        if directive.name == "root-default-capabilities" and words == ["file"]:
            # Who reads no such file gives root nothing rather than everything.
            warnings.append(
                f"`{directive.peer} = file` in {shown}:{number}: capability.json is not read, it becomes `no`"
            )
            words = ["no"]
        value = of_peer(directive, words, f"{shown}:{number}")
        if not directive.built:
            if directive.read(value) != value_of(DEFAULTS, directive):
                warnings.append(f"`{directive.peer}` in {shown}:{number} is not supported yet and left out")
            continue
        if directive.read(value) != value_of(DEFAULTS, directive):
            out.append(f"{directive.name} = {written(value)}\n")
    for name, (number, words) in given.items():
        why = WITHOUT_MEANING.get(name, "soliton does not know it")
        out.append(f"# {_comment(name)} = {_comment(', '.join(words))}  -- left out: {why}\n")
        if name not in WITHOUT_MEANING:
            warnings.append(f"`{name}` in {shown}:{number} is not known and left out")
    return "".join(out), warnings


def number(word: str) -> int | str:
    """The number that a word spells; the word itself where it is none, for the directive to refuse."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else word


def of_peer(directive: Directive, words: list[str], line: str) -> object:
    """The value as `soliton.toml` has it. Raises SolitonError."""
    value: object
    if directive.kind == "list":
        value = list(dict.fromkeys(words))
    elif directive.kind == "flag":
        value = FLAGS.get(words[0]) if words[0] in ("yes", "no") else words[0]
    elif directive.kind in ("mebibytes", "count"):
        value = number(words[0])
    else:
        value = words[0]
    try:
        directive.read(value)
    except ValueProblem as problem:
        raise SolitonError(
            f"`{directive.peer}` in `{line}` has the value `{', '.join(words)}`", why=str(problem)
        ) from None
    return value


def plain(directive: Directive, value: object) -> object:
    """A value of the configuration as its file has it."""
    if directive.kind == "mebibytes":
        assert isinstance(value, int)
        return value >> 20
    return list(value) if isinstance(value, tuple) else value


def spoken(value: object) -> str:
    """As the peers' file has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, list) else str(value)


def _comment(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\n", " ").replace("\r", " ")
