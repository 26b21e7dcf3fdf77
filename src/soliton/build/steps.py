"""A build as a list of steps: what will be done, in which order, decided before anything is done.

    stage      %pre → bootstrap → %appfiles → %files from → %setup → %files → %post with every %appinstall → freeze → %test
    last stage the same, with the image itself in place of the frozen stage

Pure: from a definition and what the user chose to a tuple of `Step`. Carrying them out is `stage`'s work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from soliton.build.definition import Definition, Files, Section, Stage
from soliton.build.lines import closest
from soliton.errors import UsageError
from soliton.images import scripts

#: The line that begins a step of `%post`.
_MARK = re.compile(r"[ \t]*#[ \t]*soliton:[ \t]*step\b[ \t:]*(.*)")

Kind = Literal["pre", "bootstrap", "copy", "setup", "post", "freeze", "image", "test"]

#: Sections that `--section` can limit a build to.
LIMITED = ("setup", "files", "environment", "test", "labels", "help", "runscript", "startscript")
#: Words of `--section` that change nothing: these happen regardless.
REGARDLESS = ("pre", "post")


@dataclass(frozen=True)
class Step:
    """stage: index. title: for people. section: whose script it is. files: what a copy copies."""

    kind: Kind
    stage: int
    title: str
    section: Section | None = None
    files: Files | None = None


@dataclass(frozen=True)
class Choice:
    """sections: None is all. test: whether `%test` runs. update: the last stage is an existing sandbox."""

    sections: frozenset[str] | None = None
    test: bool = True
    update: bool = False

    def wants(self, section: str) -> bool:
        return self.sections is None or section in self.sections


def read_sections(words: Iterable[str]) -> frozenset[str] | None:
    """The value of `--section`; None for all. Raises UsageError for a word that is no section."""
    chosen = [word.strip().lower().removeprefix("%") for word in words if word.strip()]
    for word in chosen:
        if word not in (*LIMITED, *REGARDLESS, "all", "none"):
            raise UsageError(
                f"`--section {word}`: there is no such section to choose",
                why="it takes all, none, or some of " + ", ".join(LIMITED),
                remedy=closest(word, LIMITED),
            )
    if not chosen or "all" in chosen:
        return None
    return frozenset(chosen)


def plan_steps(definition: Definition, choice: Choice) -> tuple[Step, ...]:
    """Every step of the build, in order."""
    last = len(definition.stages) - 1
    steps: list[Step] = []
    for index, stage in enumerate(definition.stages):
        tested = choice.test and choice.wants("test") and _filled(stage.section("test"))
        steps += _before_post(index, stage, choice, update=choice.update and index == last)
        post = post_section(stage)
        if post is not None:
            parts = split_post(post)
            for number, (title, part) in enumerate(parts, 1):
                counted = f"%post {number}/{len(parts)}" if len(parts) > 1 else "%post"
                steps.append(Step("post", index, f"{counted}: {title}" if title else counted, part))
        if index == last:
            steps.append(Step("image", index, "image"))
        elif tested:
            steps.append(
                Step("freeze", index, f"keeping stage `{stage.name}`" if stage.name else "keeping stage")
            )
        if tested:
            steps.append(Step("test", index, "%test", stage.section("test")))
    return tuple(steps)


def _before_post(index: int, stage: Stage, choice: Choice, *, update: bool) -> Iterable[Step]:
    pre = stage.section("pre")
    if pre is not None and _filled(pre):
        yield Step("pre", index, "%pre", pre)
    if not update:
        source = " ".join(filter(None, (stage.header.agent, stage.header.get("from"))))
        yield Step("bootstrap", index, source)
    for files in stage.files:
        if files.app is not None and files.transfers:
            yield Step("copy", index, f"%appfiles {files.app}", files=files)
    if choice.wants("files"):
        for files in stage.files:
            if files.stage is not None and files.transfers:
                yield Step("copy", index, f"%files from {files.stage}", files=files)
    setup = stage.section("setup")
    if setup is not None and _filled(setup) and choice.wants("setup"):
        yield Step("setup", index, "%setup", setup)
    if choice.wants("files"):
        for files in stage.files:
            if files.stage is None and files.app is None and files.transfers:
                yield Step("copy", index, "%files", files=files)


def post_section(stage: Stage) -> Section | None:
    """`%post` with the `%appinstall` of every app behind it; None if there is nothing to run."""
    post = stage.section("post")
    installs = [
        scripts.app_install(app, section.body)
        for app in stage.apps
        if (section := stage.section("appinstall", app)) is not None and _filled(section)
    ]
    if not installs:
        return post if post is not None and _filled(post) else None
    if post is None:
        first = next(s for s in stage.sections if s.name == "appinstall")
        post = Section("post", "", "", first.line)
    return Section("post", post.arguments, post.body + "".join(installs), post.line)


def split_post(post: Section) -> list[tuple[str, Section]]:
    """`%post` as the steps that its author wants to be kept one by one: (title, section) of each.

    A step begins at a line `# soliton: step TITLE`, which is a comment to everybody else. What stands before the first one
    (variables, functions) is put before each, since every step has a shell of its own.
    """
    lines = post.body.splitlines(keepends=True)
    marks = [(at, match) for at, line in enumerate(lines) if (match := _MARK.match(line))]
    if not marks:
        return [("", post)]
    common = lines[: marks[0][0]]
    ends = [at for at, _ in marks[1:]] + [len(lines)]
    parts = []
    for (at, match), end in zip(marks, ends, strict=True):
        own = lines[at + 1 : end]
        if any(line.strip() for line in own):
            # As many empty lines as keep the numbers of lines right in what the shell says.
            gap = ["\n"] * (at + 1 - len(common))
            parts.append(
                (match[1].strip(), Section("post", post.arguments, "".join([*common, *gap, *own]), post.line))
            )
    return parts or [("", post)]


def _filled(section: Section | None) -> bool:
    return section is not None and bool(section.body.strip())
