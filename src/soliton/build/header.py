"""The header of a stage: `Keyword: value` lines, which keywords there are, and which a bootstrap agent needs.

Keywords belong to the contract as a whole; whether an agent is built yet is `bootstrap`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from soliton.build.lines import DefinitionError, Line, closest

KEYWORDS = (
    *(
        "Bootstrap",
        "From",
        "IncludeCmd",
        "MirrorURL",
        "UpdateURL",
        "OSVersion",
        "Include",
        "Library",
        "Registry",
    ),
    *("Namespace", "Stage", "Product", "User", "Regcode", "ProductPGP", "RegisterURL", "Modules", "OtherURL"),
    *("Fingerprints", "SetOpt", "ConfURL", "Target", "Frontend", "Filename", "BuildArgs"),
)
_KNOWN = {keyword.lower(): keyword for keyword in KEYWORDS}
_OTHER_URL = re.compile(r"otherurl[0-9]{1,4}")

#: Bootstrap agent → keywords without which it cannot work.
AGENTS: Mapping[str, tuple[str, ...]] = {
    "docker": ("from",),
    "docker-daemon": ("from",),
    "docker-archive": ("from",),
    "oci": ("from",),
    "oci-archive": ("from",),
    "library": ("from",),
    "oras": ("from",),
    "shub": ("from",),
    "localimage": ("from",),
    "yum": ("mirrorurl",),
    "dnf": ("mirrorurl",),
    "zypper": (),
    "debootstrap": ("osversion",),
    "arch": (),
    "busybox": (),
    "scratch": (),
    "buildkit": ("from",),
    "dockerfile": (),
}


@dataclass(frozen=True)
class Entry:
    """keyword: lower case. value: blanks around it and its comment dropped. line: where it starts."""

    keyword: str
    value: str
    line: int


@dataclass(frozen=True)
class Header:
    """entries: in the order of the file, each keyword once. line: of `Bootstrap:`."""

    entries: tuple[Entry, ...]
    line: int

    def get(self, keyword: str, default: str = "") -> str:
        """The value of a keyword given in lower case."""
        return next((entry.value for entry in self.entries if entry.keyword == keyword), default)

    def line_of(self, keyword: str) -> int:
        return next((entry.line for entry in self.entries if entry.keyword == keyword), self.line)

    @property
    def agent(self) -> str:
        return self.get("bootstrap").lower()

    @property
    def keywords(self) -> dict[str, str]:
        """As labels record them."""
        return {entry.keyword: entry.value for entry in self.entries}


def parse_header(lines: Iterable[Line], name: str) -> Header:
    """The header in `lines`, which end where the first section begins. Raises DefinitionError."""
    entries: dict[str, Entry] = {}
    last = 1
    for keyword, value, line in _logical_lines(lines, name):
        last = line.number
        _check_keyword(keyword, line, name)
        entries[keyword] = Entry(keyword, value, line.number)
    bootstrap = entries.get("bootstrap")
    if bootstrap is None:
        raise DefinitionError(
            name,
            "no bootstrap agent: the header does not say what to start from",
            line=last,
            expected="`Bootstrap: AGENT` before the first section",
        )
    _check_agent(bootstrap, entries, name)
    return Header(tuple(entries.values()), bootstrap.line)


def _logical_lines(lines: Iterable[Line], name: str) -> Iterable[tuple[str, str, Line]]:
    """(keyword, value, first line) with continuation lines joined."""
    pending: tuple[str, str, Line] | None = None
    for line in lines:
        text = line.text.strip()
        if not text or text.startswith("#"):
            if pending:
                yield pending
                pending = None
            continue
        content = text.split("#", 1)[0].strip()
        if pending:
            keyword, value, first = pending[0], pending[1] + content, pending[2]
        else:
            keyword, colon, value = content.partition(":")
            if not colon:
                raise DefinitionError(
                    name,
                    f"`{_short(content)}` is not a line of a header",
                    line=line.number,
                    column=_column(line),
                    expected="`Keyword: value`, or `%` and the name of a section",
                )
            keyword, value, first = keyword.strip().lower(), value.strip(), line
        if value.endswith("\\"):
            value = value[:-1]
            if value.endswith("\\n"):
                value = value[:-2] + "\n"
            pending = keyword, value, first
        else:
            pending = None
            yield keyword, value, first
    if pending:
        yield pending


def _check_keyword(keyword: str, line: Line, name: str) -> None:
    if keyword in _KNOWN or _OTHER_URL.fullmatch(keyword):
        return
    written = line.text.split(":", 1)[0].strip()
    raise DefinitionError(
        name,
        f"unknown keyword `{_short(written)}`",
        line=line.number,
        column=_column(line),
        expected="a keyword of a definition's header, such as `From` or `Include`",
        remedy=closest(keyword, KEYWORDS),
    )


def _check_agent(bootstrap: Entry, entries: Mapping[str, Entry], name: str) -> None:
    agent = bootstrap.value.lower()
    if agent not in AGENTS:
        raise DefinitionError(
            name,
            f"unknown bootstrap agent `{_short(bootstrap.value)}`"
            if agent
            else "`Bootstrap:` names no agent",
            line=bootstrap.line,
            expected="one of " + ", ".join(AGENTS),
            remedy=closest(agent, AGENTS),
        )
    for keyword in AGENTS[agent]:
        if keyword not in entries or not entries[keyword].value:
            raise DefinitionError(
                name,
                f"`Bootstrap: {agent}` needs `{_KNOWN[keyword]}`",
                line=bootstrap.line,
                expected=f"a line `{_KNOWN[keyword]}: …` in this header",
            )


def _column(line: Line) -> int:
    return len(line.text) - len(line.text.lstrip()) + 1


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
