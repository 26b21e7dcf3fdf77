"""Definition files: text in, a frozen `Definition` out, or an error that names file, line and column.

    definition ::= stage…
    stage      ::= header section…              a stage begins at a line that starts with `bootstrap:`, in any case
    header     ::= (`Keyword: value` | `#…`)…   see `header`
    section    ::= `%name arguments` line…      up to the next line whose first word begins with `%`

Nothing here looks at the machine, the network or the files named: `parse` is a pure function. What sections mean is
told in `stage` and `steps`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from soliton.build import secrets, templates
from soliton.build.header import Entry, Header, parse_header
from soliton.build.lines import DefinitionError, Line, closest, split
from soliton.build.transfers import Transfer, parse_transfer

SECTIONS = (
    "arguments",
    "pre",
    "setup",
    "files",
    "post",
    "environment",
    "runscript",
    "startscript",
    "test",
    "labels",
    "help",
)
APP_SECTIONS = (
    "appinstall",
    "appfiles",
    "appenv",
    "apptest",
    "apphelp",
    "apprun",
    "appstart",
    "applabels",
)
#: More than any definition has; a bound on what a hostile one makes us do.
MAX_STAGES = 100
MAX_SECTIONS = 10_000

_STAGE = re.compile(r"bootstrap:", re.IGNORECASE)
_APP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True)
class Section:
    """name: lower case. arguments: the rest of its line without comment. body: lines, each with its end.

    line: of `%name`; the body's first line is the next one. app: for sections of an app.
    """

    name: str
    arguments: str
    body: str
    line: int
    app: str | None = None


@dataclass(frozen=True)
class Files:
    """`%files [from STAGE]` or `%appfiles APP`. Targets of an app are relative to the app's directory."""

    transfers: tuple[Transfer, ...]
    line: int
    stage: str | None = None
    app: str | None = None


@dataclass(frozen=True)
class Stage:
    """sections: each name (and app) once, repeated ones joined. apps: in the order of their first mention.

    text: the lines of the stage after replacement, as they are kept: secrets are left as templates. told: the header in the same way.
    """

    header: Header
    sections: tuple[Section, ...] = ()
    files: tuple[Files, ...] = ()
    apps: tuple[str, ...] = ()
    text: str = ""
    kept_header: Header | None = None

    @property
    def told(self) -> Header:
        return self.kept_header or self.header

    @property
    def name(self) -> str:
        return self.header.get("stage")

    def section(self, name: str, app: str | None = None) -> Section | None:
        return next((s for s in self.sections if s.name == name and s.app == app), None)

    def body(self, name: str, app: str | None = None) -> str | None:
        """The section's text; None if the stage has no such section."""
        found = self.section(name, app)
        return None if found is None else found.body


@dataclass(frozen=True)
class Definition:
    """name: the file, as messages call it. text: after replacement, but for secrets: what an image records.

    used: names of `{{ }}` that occurred. warnings: what is odd but no error.
    """

    stages: tuple[Stage, ...]
    name: str
    text: str
    used: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


@dataclass
class _Draft:
    """A section while its lines are read."""

    name: str
    arguments: str
    app: str | None
    line: int
    body: list[Line] = field(default_factory=list)


def parse(data: bytes, name: str, arguments: Mapping[str, str] | None = None) -> Definition:
    """The definition in `data`.

    name: the file, for messages. arguments: values for `{{ }}` that beat `%arguments`. Raises DefinitionError.
    """
    lines = split(data, name)
    if not any(line.text.strip() for line in lines):
        raise DefinitionError(
            name, "an empty definition file", expected="`Bootstrap: AGENT` in the first line"
        )
    warnings: list[str] = []
    stages: list[Stage] = []
    used: set[str] = set()
    for part in _split_stages(lines, name):
        replaced = templates.replace(part, arguments or {}, _defaults(part, name, warnings), name)
        used |= replaced.used
        stage = _parse_stage(replaced.lines, name, warnings)
        kept = templates.replace(
            part, secrets.unfilled(arguments or {}), _defaults(part, name, []), name
        ).lines
        if kept != replaced.lines:
            text = "".join(line.text + "\n" for line in kept)
            stage = replace(stage, text=text, kept_header=parse_header(_head(kept), name))
        stages.append(stage)
    _check_references(stages, name, warnings)
    text = "".join(stage.text for stage in stages)
    return Definition(tuple(stages), name, text, frozenset(used), tuple(warnings))


def of_source(agent: str, source: str, name: str) -> Definition:
    """The definition that stands for a source given instead of a file, `docker://alpine` for example."""
    header = Header((Entry("bootstrap", agent, 1), Entry("from", source, 2)), 1)
    text = f"bootstrap: {agent}\nfrom: {source}\n"
    return Definition((Stage(header, text=text),), name, text)


def _split_stages(lines: Sequence[Line], name: str) -> list[Sequence[Line]]:
    starts = [index for index, line in enumerate(lines) if _STAGE.match(line.text)]
    if len(starts) > MAX_STAGES:
        raise DefinitionError(
            name,
            f"{len(starts)} stages",
            line=lines[starts[MAX_STAGES]].number,
            expected=f"at most {MAX_STAGES}",
        )
    if not starts:
        return [lines]
    early = next((line for line in lines[: starts[0]] if _is_section(line)), None)
    if early is not None:
        raise DefinitionError(
            name,
            f"`{early.text.split()[0][:60]}` stands before the header",
            line=early.number,
            expected="`Bootstrap: AGENT` and the rest of the header before the first section",
        )
    starts[0] = 0
    return [lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]


def _defaults(lines: Iterable[Line], name: str, warnings: list[str]) -> dict[str, str]:
    """The values in `%arguments`, which count in the whole stage, also above it."""
    body: list[str] = []
    inside = False
    for line in lines:
        if _is_section(line):
            inside = line.text.split()[0].lower() == "%arguments"
        elif inside:
            body.append(line.text)
    values, odd = templates.read_assignments("\n".join(body))
    warnings += [f"{name}: `{text[:60]}` in %arguments is no `key=value` and is passed over" for text in odd]
    return values


def _parse_stage(lines: Sequence[Line], name: str, warnings: list[str]) -> Stage:
    head = _head(lines)
    begin = len(head)
    header = parse_header(head, name)
    drafts: list[_Draft] = []
    for line in lines[begin:]:
        if _is_section(line):
            drafts.append(_open_section(line, name))
            if len(drafts) > MAX_SECTIONS:
                raise DefinitionError(
                    name, "too many sections", line=line.number, expected=f"at most {MAX_SECTIONS}"
                )
        else:
            drafts[-1].body.append(line)
    sections: dict[tuple[str, str | None], Section] = {}
    files: list[Files] = []
    for draft in drafts:
        if draft.name in ("files", "appfiles"):
            files.append(_files(draft, name))
            continue
        body = "".join(line.text + "\n" for line in draft.body)
        key = draft.name, draft.app
        before = sections.get(key)
        if before is None:
            sections[key] = Section(draft.name, draft.arguments, body, draft.line, draft.app)
        else:
            if before.arguments and draft.arguments and before.arguments != draft.arguments:
                warnings.append(
                    f"{name}:{draft.line}: the arguments of this `%{draft.name}` replace those in line {before.line}"
                )
            sections[key] = replace(
                before, arguments=draft.arguments or before.arguments, body=before.body + body
            )
    apps = dict.fromkeys(draft.app for draft in drafts if draft.app is not None)
    text = "".join(line.text + "\n" for line in lines)
    return Stage(header, tuple(sections.values()), tuple(files), tuple(apps), text)


def _head(lines: Sequence[Line]) -> Sequence[Line]:
    begin = next((index for index, line in enumerate(lines) if _is_section(line)), len(lines))
    return lines[:begin]


def _is_section(line: Line) -> bool:
    return line.text.lstrip().startswith("%")


def _open_section(line: Line, name: str) -> _Draft:
    indent = len(line.text) - len(line.text.lstrip())
    words = line.text.split(None, 1)
    title = words[0][1:].lower()
    rest = words[1].split("#", 1)[0].strip() if len(words) > 1 else ""
    if title in SECTIONS:
        if title in ("pre", "setup", "post") and rest.split()[-1:] == ["-c"]:
            raise DefinitionError(
                name,
                f"nothing follows `-c` of `%{title}`",
                line=line.number,
                column=line.text.rindex("-c") + 1,
                expected=f"an interpreter, such as `%{title} -c /bin/bash`",
            )
        return _Draft(title, rest, None, line.number)
    if title in APP_SECTIONS:
        app, _, arguments = rest.partition(" ")
        if not _APP_NAME.fullmatch(app):
            raise DefinitionError(
                name,
                f"`%{title}` names no app" if not app else f"`{app[:60]}` cannot be the name of an app",
                line=line.number,
                column=indent + len(words[0]) + 2,
                expected=f"`%{title} NAME`, the name being letters, digits and `_.+-`",
            )
        return _Draft(title, arguments.strip(), app, line.number)
    raise DefinitionError(
        name,
        f"unknown section `{words[0][:60]}`",
        line=line.number,
        column=indent + 1,
        expected="the name of a section; no line of a script may begin with `%`",
        remedy=closest(f"%{title}", (f"%{known}" for known in (*SECTIONS, *APP_SECTIONS))),
    )


def _files(draft: _Draft, name: str) -> Files:
    stage: str | None = None
    if draft.name == "files" and draft.arguments:
        words = draft.arguments.split()
        if len(words) != 2 or words[0].lower() != "from":
            raise DefinitionError(
                name,
                f"`%files {draft.arguments[:60]}` is not understood",
                line=draft.line,
                expected="`%files` or `%files from STAGE`",
            )
        stage = words[1]
    parsed = (parse_transfer(line, name) for line in draft.body)
    return Files(tuple(item for item in parsed if item is not None), draft.line, stage, draft.app)


def _check_references(stages: Sequence[Stage], name: str, warnings: list[str]) -> None:
    """Every `%files from X` names an earlier stage."""
    known: dict[str, Stage] = {}
    for stage in stages:
        for files in stage.files:
            if files.stage is not None and files.stage not in known:
                raise DefinitionError(
                    name,
                    f"`%files from {files.stage[:60]}`: there is no such stage before this one",
                    line=files.line,
                    expected="the name that an earlier stage has by `Stage: NAME`",
                    remedy=closest(files.stage, known),
                )
        if stage.name in known:
            warnings.append(
                f"{name}:{stage.header.line_of('stage')}: a second stage named `{stage.name}`; "
                "`%files from` means the first"
            )
        elif stage.name:
            known[stage.name] = stage
