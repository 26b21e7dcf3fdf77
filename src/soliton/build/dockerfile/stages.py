"""From instructions to stages: what each starts from, which of them a target needs, and what build arguments are known. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from soliton.build.dockerfile import words
from soliton.build.dockerfile.parser import Dockerfile, Instruction
from soliton.build.lines import DefinitionError, closest
from soliton.images import architecture

#: Known everywhere without being declared, and no part of a step's key (docs.docker.com/reference/dockerfile).
PREDEFINED = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
MAX_STAGES = 100
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


@dataclass(frozen=True)
class Stage:
    """base: a reference, `scratch`, or the number of an earlier stage. line: of its FROM. platform: `arm64/v8`, where it is said."""

    name: str
    base: str | int
    line: int
    platform: str = ""
    instructions: tuple[Instruction, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """arguments: those before the first FROM, with their values. known: what an ARG of a stage may ask for, the platform's too.
    target: number of the stage that becomes the image. used: build arguments that something asked for.
    """

    file: Dockerfile
    stages: tuple[Stage, ...]
    arguments: Mapping[str, str]
    known: Mapping[str, str]
    target: int
    used: frozenset[str]

    def find(self, word: str, before: int) -> int | None:
        """The earlier stage that a name or number means."""
        for number in reversed(range(before)):
            if self.stages[number].name and self.stages[number].name == word.lower():
                return number
        return (
            int(word) if word.isascii() and word.isdigit() and len(word) < 4 and int(word) < before else None
        )


def platform_arguments(target: tuple[str, str], machine: str) -> dict[str, str]:
    """target: (architecture, variant) of the image. machine: what builds it."""
    found: dict[str, str] = {}
    for side, (name, variant) in (("TARGET", target), ("BUILD", (machine, ""))):
        found |= {
            f"{side}PLATFORM": "/".join(filter(None, ("linux", name, variant))),
            f"{side}OS": "linux",
            f"{side}ARCH": name,
            f"{side}VARIANT": variant,
        }
    return found


def read(
    file: Dockerfile, given: Mapping[str, str], platform: Mapping[str, str], target: str | None
) -> Recipe:
    """Raises DefinitionError. given: `--build-arg`. target: `--target`, a stage's name or number; None: the last one."""
    values: dict[str, str] = dict(platform)
    outer: dict[str, str] = {}
    used: set[str] = set()
    stages: list[Stage] = []
    collected: list[Instruction] = []
    names: dict[str, int] = {}

    def close() -> None:
        if stages:
            stages[-1] = replace(stages[-1], instructions=tuple(collected))
            collected.clear()

    for item in file.instructions:
        if item.word == "FROM":
            close()
            stages.append(_from(item, {**values, **outer}, names, file))
            if len(stages) > MAX_STAGES:
                raise DefinitionError(file.name, "too many stages", line=item.line)
            if stages[-1].name:
                names[stages[-1].name] = len(stages) - 1
        elif stages:
            if item.word == "ARG":
                used |= {key for key, _ in declared(item, file)} & given.keys()
            collected.append(item)
        elif item.word == "ARG":
            for key, default in declared(item, file):
                used |= {key} & given.keys()
                text = default if default is not None else values.get(key)
                if key in given:
                    outer[key] = given[key]
                elif text is not None:
                    outer[key] = words.expand(text, {**values, **outer}, file.escape, file.name, item.line)
        else:
            raise DefinitionError(
                file.name, f"{item.word} before the first FROM", line=item.line, expected="ARG or FROM"
            )
    close()
    if not stages:
        raise DefinitionError(
            file.name, "no FROM: nothing says what to start from", line=1, expected="`FROM IMAGE`"
        )
    recipe = Recipe(file, tuple(stages), outer, {**platform, **outer}, len(stages) - 1, frozenset(used))
    if target is None:
        return recipe
    number = recipe.find(target, len(stages))
    if number is None:
        raise DefinitionError(
            file.name,
            f"there is no stage `{target}`",
            remedy=closest(target, [s.name for s in stages if s.name]),
        )
    return replace(recipe, target=number)


def declared(item: Instruction, file: Dockerfile) -> list[tuple[str, str | None]]:
    """The names in an ARG, each with its default as written."""
    found: list[tuple[str, str | None]] = []
    for word in words.split(item.rest, file.escape, file.name, item.line):
        key, equals, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise DefinitionError(file.name, f"`{key[:40]}` is no name of an argument", line=item.line)
        found.append((key, value if equals else None))
    return found


def _from(item: Instruction, values: Mapping[str, str], names: Mapping[str, int], file: Dockerfile) -> Stage:
    platform = ""
    for key, value in item.flags:
        if key != "platform":
            raise DefinitionError(file.name, f"FROM has no option `--{key}`", line=item.line)
        text = words.expand(value, values, file.escape, file.name, item.line)
        found = architecture.of_platform(text)
        if found is None:
            raise DefinitionError(
                file.name,
                f"`--platform={text[:40]}` is not known",
                line=item.line,
                expected="one such as linux/arm64",
            )
        platform = "/".join(filter(None, found))
    parts = [
        words.expand(word, values, file.escape, file.name, item.line)
        for word in words.split(item.rest, file.escape, file.name, item.line)
    ]
    name = ""
    if len(parts) == 3 and parts[1].lower() == "as":
        name = parts[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise DefinitionError(
                file.name, f"`{parts[2][:40]}` cannot be the name of a stage", line=item.line
            )
    elif len(parts) != 1:
        raise DefinitionError(
            file.name, "FROM takes one image", line=item.line, expected="`FROM IMAGE AS NAME`"
        )
    if not parts[0]:
        raise DefinitionError(
            file.name,
            "FROM names no image: its variable is empty",
            line=item.line,
            expected="an ARG before the first FROM, with a value",
        )
    return Stage(name, names.get(parts[0].lower(), parts[0]), item.line, platform)
