"""Manual pages from the tables: `soliton help --man OUT` writes one page per command into the directory OUT.

The text is that of `--help`; what only a manual says (exit status, files, variables) is here.
"""

from __future__ import annotations

import os

from soliton import __version__
from soliton.cli import commands
from soliton.cli.commands import Command
from soliton.cli.help import ABOUT, explained, spelled, usage_line
from soliton.cli.tables.root import GLOBALS, HELP, VERSION
from soliton.errors import SolitonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from soliton.cli.options import Option

STATUS = (
    ("0", "success"),
    ("1", "a command line that makes no sense, or an app or test that the image does not have"),
    ("255", "soliton failed: the message on stderr says what, why and what to do"),
    ("128+N", "the program in the container was ended by signal N"),
    ("other", "exec, run, shell and test: the status of the program in the container"),
)
VARIABLES = (
    (
        "SOLITON_NAME",
        "Most options have a variable, named beside them. APPTAINER_NAME and SINGULARITY_NAME mean the same; the first of the"
        " three that is set counts, and the command line beats them all.",
    ),
    (
        "SOLITONENV_NAME",
        "With APPTAINERENV_NAME and SINGULARITYENV_NAME: the value of NAME inside the container.",
    ),
    (
        "SOLITON_CACHEDIR",
        "Where what is fetched is kept. Default: $XDG_CACHE_HOME/soliton, else ~/.cache/soliton.",
    ),
    ("SOLITON_TMPDIR, TMPDIR", "Where temporary files go. Default: /tmp."),
    ("SOLITON_MESSAGELEVEL", "How much is said: -4 only what is fatal, 1 the default, 5 everything."),
    ("NO_COLOR", "If not empty, no colours."),
    ("SOURCE_DATE_EPOCH", "The time, in seconds since 1970, that images made now are to bear."),
    ("http_proxy, https_proxy, no_proxy", "Proxies for reaching registries."),
)


def pages() -> dict[str, str]:
    """File name → text of each page."""
    built = [command for command in commands.every() if command.built() and not command.hidden]
    found = {"soliton.1": program_page(built)}
    for command in built:
        found[f"soliton-{command.name}.1"] = command_page(command)
    return found


def program_page(built: Iterable[Command]) -> str:
    lines = [
        *_head("soliton", ABOUT.rstrip(".")),
        ".SH SYNOPSIS",
        _bold_first(usage_line("soliton", (), None)),
        ".SH COMMANDS",
    ]
    for command in built:
        lines += [".TP", f"\\fBsoliton\\-{_escape(command.name)}\\fR(1)", _line(command.summary)]
    lines += [".SH OPTIONS", *_options((*GLOBALS, VERSION, HELP)), ".SH ENVIRONMENT"]
    for name, text in VARIABLES:
        lines += [".TP", f"\\fB{_escape(name)}\\fR", _line(text)]
    lines += _statuses()
    return "\n".join(lines) + "\n"


def command_page(command: Command) -> str:
    lines = _head(f"soliton-{command.name}", command.summary)
    if not command.subcommands:
        lines += [".SH SYNOPSIS", _bold_first(usage_line("soliton", (command.name,), command))]
        lines += _body(command, ".SH", ".SS")
    else:
        below = [child for child in command.subcommands if child.built() and not child.hidden]
        lines.append(".SH SYNOPSIS")
        for child in below:
            lines += [_bold_first(usage_line("soliton", (command.name, child.name), child)), ".br"]
        for child in below:
            lines += [f".SH {_escape(child.name.upper())}", _line(child.summary.capitalize() + ".")]
            lines += _body(child, ".SS", ".SS")
    lines += [*_statuses(), ".SH SEE ALSO", "\\fBsoliton\\fR(1)"]
    return "\n".join(lines) + "\n"


def _body(command: Command, heading: str, group_heading: str) -> list[str]:
    lines = [f"{heading} DESCRIPTION", _line(command.description)] if command.description else []
    shown = [option for option in command.options if option.supported and not option.hidden]
    if shown:
        lines.append(f"{heading} OPTIONS")
    for group in dict.fromkeys(option.group for option in shown):
        if group:
            lines.append(f"{group_heading} {_escape(group)}")
        lines += _options(option for option in shown if option.group == group)
    if command.examples:
        lines.append(f"{heading} EXAMPLES")
    for example in command.examples:
        lines += [
            ".TP",
            _line(example.says[0].upper() + example.says[1:]),
            f"\\fB{_escape(example.line)}\\fR",
        ]
    return lines


def _options(options: Iterable[Option]) -> list[str]:
    lines: list[str] = []
    for option in options:
        if option.supported and not option.hidden:
            lines += [
                ".TP",
                f"\\fB{_escape(spelled(option).strip())}\\fR",
                _line(explained("soliton", option)),
            ]
    return lines


def _statuses() -> list[str]:
    lines = [".SH EXIT STATUS"]
    for status, meaning in STATUS:
        lines += [".TP", f"\\fB{status}\\fR", _line(meaning)]
    return lines


def _head(name: str, summary: str) -> list[str]:
    return [
        f'.TH "{_escape(name.upper())}" 1 "" "soliton {__version__}" "soliton"',
        ".nh",
        ".SH NAME",
        f"{_escape(name)} \\- {_line(summary)}",
    ]


def _bold_first(usage: str) -> str:
    program, _, rest = usage.partition(" ")
    return f"\\fB{_escape(program)}\\fR {_escape(rest)}"


def _escape(text: str) -> str:
    """Text for a formatter: no escapes of its own, hyphens that can be copied, and only ASCII."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return plain if plain.isascii() else "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in plain)


def _line(text: str) -> str:
    """Text as one input line; one that begins with a dot or quote would be taken for a request."""
    escaped = _escape(text)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def write(folder: str) -> None:
    """Makes the directory, if it is missing, and the pages in it. Raises SolitonError."""
    try:
        os.makedirs(folder, exist_ok=True)
        for name, text in pages().items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise SolitonError(f"manual pages cannot be written to `{folder}`", why=error.strerror) from None
