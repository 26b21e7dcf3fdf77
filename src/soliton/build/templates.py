"""`{{ name }}` in a definition file, and where the values come from: build arguments and `%arguments`.

Replacing is line by line, so that messages keep the numbers of the file as it was written. Text behind a `#` (that is
not `#!`) stays as it is, as the peers have it. This module does not know sections; it is given the lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from soliton.build.lines import MAX_EXPANDED, DefinitionError, Line, closest
from soliton.errors import BuildError, UsageError

_TEMPLATE = re.compile(r"\{\{\s*(\w+)\s*\}\}", re.ASCII)
_COMMENT = re.compile(r"#(?!!)")


@dataclass(frozen=True)
class Replaced:
    """lines: several may bear one number where a value had line ends. used: names that occurred."""

    lines: tuple[Line, ...]
    used: frozenset[str]


def read_assignments(text: str) -> tuple[dict[str, str], list[str]]:
    """`key=value` lines, blanks around both dropped, empty lines and `#` lines passed over.

    Returns the values, later lines winning, and the lines that are no assignments.
    """
    values: dict[str, str] = {}
    odd: list[str] = []
    for raw in text.split("\n"):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if equals and key.strip():
            values[key.strip()] = value.strip()
        else:
            odd.append(line)
    return values, odd


def read_build_args(arguments: Sequence[str]) -> dict[str, str]:
    """The values of `--build-arg KEY=VALUE`, later ones winning. Raises UsageError for anything else."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"`--build-arg {argument}` is not an assignment", remedy="write `--build-arg NAME=VALUE`"
            )
        values[key.strip()] = value.strip()
    return values


def replace(
    lines: Iterable[Line], given: Mapping[str, str], defaults: Mapping[str, str], name: str
) -> Replaced:
    """Every `{{ x }}` replaced by its value: `given`, else `defaults`. A value may hold templates one level deep.

    Raises DefinitionError for a name without a value.
    """
    values = {**defaults, **given}
    used: set[str] = set()
    result: list[Line] = []
    size = 0
    for line in lines:
        if "{{" in line.text:
            text, names = _replace_line(line, values, name)
            used |= names
        else:
            text = line.text
        size += len(text)
        if size > MAX_EXPANDED:
            raise DefinitionError(
                name,
                "the values of `{{ }}` make it too large",
                line=line.number,
                expected=f"at most {MAX_EXPANDED >> 20} MiB of text",
            )
        result.extend(Line(line.number, part) for part in text.split("\n"))
    return Replaced(tuple(result), frozenset(used))


def check_used(given: Iterable[str], used: Iterable[str]) -> None:
    """Raises BuildError if a build argument was given that the definition never names."""
    unused = sorted(set(given) - set(used))
    if unused:
        listed = ", ".join(f"`{name}`" for name in unused)
        raise BuildError(
            f"unused build argument{'s' if len(unused) > 1 else ''}: {listed}",
            why="the definition file has no `{{ }}` of that name",
            remedy=closest(unused[0], used)
            or "leave it out, or say `--warn-unused-build-args` to be warned instead",
        )


def _replace_line(line: Line, values: Mapping[str, str], name: str) -> tuple[str, set[str]]:
    comment = _COMMENT.search(line.text)
    end = comment.start() if comment else len(line.text)
    used: set[str] = set()
    parts: list[str] = []
    at = 0
    for match in _TEMPLATE.finditer(line.text, 0, end):
        key = match[1]
        if key not in values:
            raise DefinitionError(
                name,
                f"`{{{{ {key} }}}}` has no value",
                line=line.number,
                column=match.start() + 1,
                expected=f"`--build-arg {key}=VALUE` or a line `{key}=VALUE` in `%arguments`",
                remedy=closest(key, values),
            )
        used.add(key)
        value = values[key]
        used.update(inner[1] for inner in _TEMPLATE.finditer(value) if inner[1] in values)
        parts += line.text[at : match.start()], _TEMPLATE.sub(lambda m: values.get(m[1], m[0]), value)
        at = match.end()
    return "".join(parts) + line.text[at:], used
