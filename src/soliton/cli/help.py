"""Help and usage as text, from the tables: commands in the order of work, options by subject, variables beside options."""

from __future__ import annotations

import sys

from soliton.cli import commands
from soliton.cli.commands import Command
from soliton.cli.tables.root import GLOBALS, HELP, VERSION
from soliton.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from soliton.cli.invocation import Invocation
    from soliton.cli.options import Option

WIDTH = 100
COLUMN = 32
ABOUT = "One image file, any machine, no root: containers for scientific computing."


def help_(invocation: Invocation) -> int:
    """`help [COMMAND…]`, and what `--help` becomes."""
    folder = invocation.text("man") if "man" in invocation.options else None
    if folder is not None:
        from soliton.cli.manpages import write

        write(folder)
        return 0
    path: tuple[str, ...] = ()
    command: Command | None = None
    for word in invocation.positionals:
        command = commands.find(word) if command is None else command.below(word)
        if command is None:
            from soliton.cli.parser import did_you_mean

            near = did_you_mean(
                word, [c.name for c in (commands.at(path).subcommands if path else commands.every())]
            )
            raise UsageError(f'there is no command "{" ".join((*path, word))}"', remedy=near)
        path = (*path, command.name)
    text = (
        program_help(invocation.program)
        if command is None
        else command_help(invocation.program, path, command)
    )
    sys.stdout.write(text)
    return 0


def usage(program: str, path: tuple[str, ...]) -> str:
    """How a call should look, and where to read more."""
    command = commands.at(path) if path else None
    lines = ["Usage:", f"  {usage_line(program, path, command)}", ""]
    below = command.subcommands if command else tuple(commands.every())
    if below and command:
        lines += ["Commands:", *_command_lines(below), ""]
    elif below:
        names = ", ".join(c.name for c in below if c.built() and not c.hidden)
        lines += ["Commands:", *_wrap(names, 2), ""]
    lines.append(f"`{' '.join((program, *path))} --help` explains more.")
    return "\n".join(lines) + "\n"


def usage_line(program: str, path: tuple[str, ...], command: Command | None) -> str:
    if command is None:
        return f"{program} [global options] COMMAND …"
    if command.subcommands:
        return f"{program} [global options] {' '.join(path)} COMMAND …"
    options = " [options]" if command.options else ""
    return f"{program} [global options] {' '.join(path)}{options} {command.positionals}".rstrip()


def program_help(program: str) -> str:
    lines = [ABOUT, "", "Usage:", f"  {usage_line(program, (), None)}", ""]
    everything = tuple(commands.every())
    shown = [c for c in everything if c.built() and not c.hidden]
    for group in _in_order(c.group for c in shown):
        lines += [f"{group}:", *_command_lines(c for c in shown if c.group == group), ""]
    missing = [c.name for c in everything if not c.built() and not c.hidden]
    if missing:
        lines += ["Known, not built yet:", *_wrap(", ".join(missing), 2), ""]
    shown_globals = [o for o in (*GLOBALS, VERSION, HELP) if o.supported and not o.hidden]
    lines += ["Global options, before the command:", *_option_lines(program, shown_globals), ""]
    lines.append(f"`{program} COMMAND --help` explains a command.")
    return "\n".join(lines) + "\n"


def command_help(program: str, path: tuple[str, ...], command: Command) -> str:
    summary = command.summary[0].upper() + command.summary[1:] + "."
    lines = [summary, "", "Usage:", f"  {usage_line(program, path, command)}", ""]
    if not command.built():
        lines += ["This is not built yet.", ""]
    if command.description:
        lines += [*_wrap(command.description, 0), ""]
    if command.subcommands:
        lines += ["Commands:", *_command_lines(command.subcommands), ""]
    if command.examples:
        lines.append("Examples:")
        for example in command.examples:
            line = f"  {as_program(program, example.line)}"
            lines.append(f"{line:<60} # {example.says}")
        lines.append("")
    shown = [o for o in command.options if o.supported and not o.hidden]
    for group in _in_order(o.group for o in shown):
        options = [o for o in shown if o.group == group]
        lines += [f"{group or 'Options'}:", *_option_lines(program, options), ""]
    missing = [f"--{o.name}" for o in command.options if not o.supported and not o.hidden]
    if missing and command.built():
        lines += ["Known, not built yet:", *_wrap(" ".join(missing), 2), ""]
    while lines[-1] == "":
        lines.pop()
    return "\n".join(lines) + "\n"


def as_program(program: str, line: str) -> str:
    """An example as it reads under another name of the program."""
    return line.replace("soliton ", f"{program} ", 1) if line.startswith("soliton ") else line


def spelled(option: Option) -> str:
    """`-B, --bind SRC[:DST]`."""
    short = f"-{option.short}, " if option.short else "    "
    return f"{short}--{option.name}" + (f" {option.metavar}" if option.metavar else "")


def explained(program: str, option: Option) -> str:
    """The help text with default and variable."""
    prefix = f"{program.upper()}_"
    text = option.help
    default = option.default
    if default not in (None, 0, -1):
        text += f" (default {','.join(default) if isinstance(default, tuple) else default})"
    if option.keys:
        names = [option.keys[0]] if option.bare else []
        names += [prefix + key for key in option.keys]
        text += f" [{', '.join(names)}]"
    return text


def _option_lines(program: str, options: Iterable[Option]) -> list[str]:
    return [
        line
        for option in options
        for line in _two_columns(f"  {spelled(option)}", explained(program, option), COLUMN)
    ]


def _command_lines(below: Iterable[Command]) -> list[str]:
    return [
        line
        for command in below
        if not command.hidden
        for line in _two_columns(
            f"  {command.name}", command.summary + ("" if command.built() else " (not built yet)"), 14
        )
    ]


def _two_columns(left: str, right: str, column: int) -> list[str]:
    lines = _wrap(right, column)
    if len(left) + 2 > column:
        return [left, *lines]
    return [f"{left:<{column}}{lines[0].lstrip()}", *lines[1:]]


def _wrap(text: str, indent: int) -> list[str]:
    """Lines of at most WIDTH columns, each indented; words are never broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and indent + len(line) + 1 + len(word) > WIDTH:
            lines.append(" " * indent + line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(" " * indent + line)
    return lines


def _in_order(groups: Iterable[str]) -> Sequence[str]:
    """Each once, in the order of their first appearance."""
    return tuple(dict.fromkeys(groups))
