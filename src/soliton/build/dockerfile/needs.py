"""What a recipe needs: its stages and the images that `--from=` names, as headers that every bootstrap knows; how many steps that is. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from soliton.build.definition import Definition
from soliton.build.definition import Stage as DefinedStage
from soliton.build.dockerfile import words
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.stages import Recipe
from soliton.build.header import Entry, Header
from soliton.build.lines import DefinitionError

#: Instructions that write files.
STEPS = ("RUN", "COPY", "ADD", "WORKDIR")
#: A stage that starts from an earlier one, whose number is its `From`.
STAGE = "stage"
_SCHEMES = ("oci", "oci-archive", "docker-archive", "docker-daemon")


def definition(recipe: Recipe) -> Definition:
    """The stages in the form that everything else knows, and behind them the images that `--from=` names."""
    found = [
        DefinedStage(_header(stage.base, stage.name or str(number), stage.line, stage.platform))
        for number, stage in enumerate(recipe.stages)
    ]
    known: set[str] = set()
    for number, part in enumerate(recipe.stages):
        for item in part.instructions:
            for name in named(recipe, item):
                if recipe.find(name, number) is not None:
                    continue
                later = recipe.find(name, len(recipe.stages))
                if later is not None or name.isdigit():
                    which = "is the stage itself" if later == number else "is no earlier stage"
                    raise DefinitionError(
                        recipe.file.name,
                        f"`from={name[:40]}` {which}",
                        line=item.line,
                        expected="a stage that comes before, or an image",
                    )
                if name not in known:
                    known.add(name)
                    found.append(DefinedStage(_header(name, name, item.line)))
    return Definition(tuple(found), recipe.file.name, recipe.file.text)


def named(recipe: Recipe, item: Instruction) -> Iterator[str]:
    """The stages and images that an instruction takes files from."""
    for key, value in item.flags:
        texts = [value] if key == "from" else []
        if key == "mount":
            texts = [word.partition("=")[2] for word in value.split(",") if word.startswith("from=")]
        for text in texts:
            yield origin(recipe, text, item)


def origin(recipe: Recipe, text: str, item: Instruction) -> str:
    """The value of one `from=`. It is needed before any stage is built, so a stage's own arguments do not count in it."""
    file = recipe.file
    name = words.expand(text, recipe.arguments, file.escape, file.name, item.line)
    if not name:
        raise DefinitionError(
            file.name,
            f"`from={text[:40]}` names nothing",
            line=item.line,
            expected="an ARG before the first FROM",
        )
    return name


def count(recipe: Recipe) -> int:
    """How many steps are announced: every base, and every instruction that writes files, of the stages that the target needs."""
    needed: set[int] = set()
    images: set[str] = set()
    pending = [recipe.target]
    while pending:
        number = pending.pop()
        if number in needed:
            continue
        needed.add(number)
        part = recipe.stages[number]
        if isinstance(part.base, int):
            pending.append(part.base)
        for item in part.instructions:
            for name in named(recipe, item):
                found = recipe.find(name, number)
                if found is not None:
                    pending.append(found)
                else:
                    images.add(name)
    bases = sum(1 for number in needed if not isinstance(recipe.stages[number].base, int))
    steps = sum(1 for number in needed for item in recipe.stages[number].instructions if item.word in STEPS)
    return bases + len(images) + steps


def _header(base: str | int, name: str, line: int, platform: str = "") -> Header:
    if isinstance(base, int):
        entries = [("bootstrap", STAGE), ("from", str(base))]
    elif base == "scratch":
        entries = [("bootstrap", "scratch")]
    elif base.endswith(".sif") and "/" in base:
        entries = [("bootstrap", "localimage"), ("from", base)]
    else:
        scheme, _, rest = base.partition(":")
        entries = [("bootstrap", "docker"), ("from", base)]
        if rest and scheme in _SCHEMES:
            entries = [("bootstrap", scheme), ("from", rest)]
    if platform:
        entries.append(("platform", platform))
    return Header(tuple(Entry(key, value, line) for key, value in (*entries, ("stage", name))), line)
