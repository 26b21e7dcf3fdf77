"""Words of a command line → Invocation. A pure function of the words and the environment; prints nothing, imports little.

The grammar is the peers' (pflag): short options combine and take values as `-B x`, `-Bx`, `-B=x`; long ones as `--bind x`
or `--bind=x`; a flag takes a value only as `--contain=false`; options end at the first other word or behind `--`; nothing
may be abbreviated.
"""

from __future__ import annotations

from soliton.cli import commands
from soliton.cli.invocation import Invocation
from soliton.cli.options import ValueProblem
from soliton.cli.tables.root import GLOBALS, HELP, VERSION
from soliton.errors import FAILURE, NotSupported, SolitonError, UsageError
from soliton.messages import INFO, VERBOSE, WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from soliton.cli.commands import Command
    from soliton.cli.invocation import Value
    from soliton.cli.options import Option

    Occurrence = tuple[Option, Value, str]
    Notices = list[tuple[int, str]]


class CommandLineError(UsageError):
    """The command line cannot be understood. path: the command it is about, () for the program itself."""

    def __init__(self, what: str, path: tuple[str, ...] = (), *, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.path = path


class HelpAsked(Exception):
    """`--help` or `-h` stands among the options: nothing after it counts."""


def parse(program: str, words: Sequence[str], environment: Mapping[str, str]) -> Invocation:
    """What the user asks for.

    words: without the program's own name. `--help` becomes the command `help`, `--version` the command `--version`.
    Raises CommandLineError (status 1), NotSupported and SolitonError (status 255: a variable of the environment).
    """
    notices: Notices = []
    try:
        occurrences, rest = scan((*GLOBALS, VERSION), words, ())
    except HelpAsked:
        return Invocation(program, ("help",), {})
    if any(option is VERSION and value is True for option, value, _ in occurrences):
        return Invocation(program, ("--version",), {})
    occurrences = [occurrence for occurrence in occurrences if occurrence[0] is not VERSION]
    global_options, global_origins = settle(GLOBALS, occurrences, environment, program, notices)
    if not rest:
        raise CommandLineError("a command is missing")
    refuse_unbuilt_options(GLOBALS, global_options, global_origins)
    path: tuple[str, ...] = ()
    command = commands.find(rest[0])
    if command is None:
        raise CommandLineError(
            f'unknown command "{rest[0]}" for "{program}"',
            remedy=did_you_mean(rest[0], [*commands.TABLES, *commands.ALIASES]),
        )
    path, rest = (command.name,), rest[1:]
    while True:
        try:
            occurrences, rest = scan(command.options, rest, path)
        except HelpAsked:
            return Invocation(program, ("help",), {}, path, global_options=global_options)
        if not command.subcommands:
            break
        if not rest:
            raise CommandLineError("a command of this group is missing", path)
        below = command.below(rest[0])
        if below is None:
            names = [child.name for child in command.subcommands]
            raise CommandLineError(
                f'unknown command "{rest[0]}" for "{program} {" ".join(path)}"',
                path,
                remedy=did_you_mean(rest[0], names),
            )
        command, path, rest = below, (*path, below.name), rest[1:]
    count_positionals(command, path, rest)
    options, origins = settle(command.options, occurrences, environment, program, notices)
    if command.handler is None:
        raise NotSupported(
            f"`{program} {' '.join(path)}`", remedy=command.instead, yet=command.instead is None
        )
    refuse_unbuilt_options(command.options, options, origins)
    return Invocation(
        program,
        path,
        options,
        tuple(rest),
        global_options=global_options,
        origins=origins,
        notices=tuple(notices),
    )


def scan(
    options: Sequence[Option], words: Sequence[str], path: tuple[str, ...]
) -> tuple[list[Occurrence], Sequence[str]]:
    """The options in front of `words` as (option, value, spelling used), and the words behind them."""
    long = {option.name: option for option in options}
    short = {option.short: option for option in options if option.short}
    long.setdefault("help", HELP)
    short.setdefault("h", HELP)
    found: list[Occurrence] = []
    at = 0
    while at < len(words):
        word = words[at]
        if len(word) < 2 or word[0] != "-":
            break
        at += 1
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            if not name or name[0] == "-":
                raise CommandLineError(f"bad flag syntax: {word}", path)
            option = long.get(name)
            if option is None:
                raise CommandLineError(f"unknown flag: --{name}", path, remedy=hint(name, options, path))
            if not equals:
                if option.kind == "flag":
                    text = "true"
                elif at < len(words):
                    text, at = words[at], at + 1
                else:
                    raise CommandLineError(f"flag needs an argument: --{name}", path)
            if option is HELP:
                raise HelpAsked
            found.append((option, read(option, text, path), f"--{name}"))
            continue
        letters = word[1:]
        while letters:
            option = short.get(letters[0])
            if option is None:
                raise CommandLineError(
                    f"unknown shorthand flag: '{letters[0]}' in {word}",
                    path,
                    remedy=hint(letters[0], options, path),
                )
            if option is HELP:
                raise HelpAsked
            spelling, letters = f"-{letters[0]}", letters[1:]
            if len(letters) > 1 and letters[0] == "=":
                text, letters = letters[1:], ""
            elif option.kind == "flag":
                text = "true"
            elif letters:
                text, letters = letters, ""
            elif at < len(words):
                text, at = words[at], at + 1
            else:
                raise CommandLineError(f"flag needs an argument: '{option.short}' in {word}", path)
            found.append((option, read(option, text, path), spelling))
    return found, words[at:]


def read(option: Option, text: str, path: tuple[str, ...]) -> Value:
    try:
        return option.read(text)
    except ValueProblem as problem:
        raise CommandLineError(
            f'invalid argument "{text}" for "{option.spelling()}" flag: {problem}', path
        ) from None


def settle(
    options: Sequence[Option],
    occurrences: Sequence[Occurrence],
    environment: Mapping[str, str],
    program: str,
    notices: Notices,
) -> tuple[dict[str, Value], dict[str, tuple[str, ...]]]:
    """The value of each option from defaults, variables and the command line, and where the given ones come from."""
    values: dict[str, Value] = {}
    origins: dict[str, tuple[str, ...]] = {}
    for option in options:
        if option.alias is None:
            values[option.name] = option.initial()
    for option, value, spelling in occurrences:
        if option.deprecated:
            notices.append((WARNING, f"`--{option.name}` is deprecated, use {option.deprecated}"))
        _set(values, origins, option, value, spelling)
    for option in options:
        if not option.keys:
            continue
        target = option.alias or option.name
        on_command_line = any(origin[0] == "-" for origin in origins.get(target, ()))
        if target in origins and not (option.additive and on_command_line):
            continue
        found = variable(option, environment, program, notices)
        if found is None:
            continue
        name, text = found
        try:
            value = option.read(text)
        except ValueProblem as problem:
            raise SolitonError(
                f"the variable `{name}` has the value `{text}`",
                why=f"it stands for --{option.name}: {problem}",
                remedy=f"correct it or unset {name}",
                status=FAILURE,
            ) from None
        _set(values, origins, option, value, name)
    return values, origins


def _set(
    values: dict[str, Value],
    origins: dict[str, tuple[str, ...]],
    option: Option,
    value: Value,
    origin: str,
) -> None:
    """Gives an option a value: lists and maps grow, anything else is replaced."""
    name = option.alias or option.name
    before = values.get(name)
    if name not in origins or not option.repeats():
        values[name] = value
        count = len(value) if isinstance(value, (tuple, dict)) else 1
        origins[name] = (origin,) * max(1, count)
    elif isinstance(value, tuple) and isinstance(before, tuple):
        values[name] = before + value
        origins[name] += (origin,) * len(value)
    elif isinstance(value, dict) and isinstance(before, dict):
        values[name] = {**before, **value}
        origins[name] += (origin,) * len(value)


def variable(
    option: Option, environment: Mapping[str, str], program: str, notices: Notices
) -> tuple[str, str] | None:
    """The variable that sets this option, and its text: the first key that is set, by the strongest prefix."""
    for key in option.keys:
        chosen: tuple[str, str] | None = None
        for name in (f"SOLITON_{key}", f"APPTAINER_{key}", f"SINGULARITY_{key}", key if option.bare else ""):
            text = environment.get(name, "").strip()
            if not text:
                continue
            if chosen is None:
                chosen = name, text
            elif text != chosen[1] and name != key:
                notices.append((WARNING, f"{chosen[0]} and {name} differ, {chosen[0]} is used"))
        if chosen is None:
            continue
        name, text = chosen
        if name.startswith("SINGULARITY_"):
            at = VERBOSE if program == "soliton" else INFO
            notices.append((at, f"{name} is set and used; APPTAINER_{key} is the name in use now"))
        if option.repeats():
            separator = option.separator
            text = separator.join(part.strip() for part in text.split(separator))
        return name, text
    return None


def count_positionals(command: Command, path: tuple[str, ...], rest: Sequence[str]) -> None:
    count = len(rest)
    if count < command.least:
        word = "argument" if command.least == 1 else "arguments"
        raise CommandLineError(
            f"requires at least {command.least} {word} ({command.positionals}), received {count}", path
        )
    if command.most is not None and count > command.most:
        if command.most == 0:
            raise CommandLineError(f"takes no arguments, received `{rest[0]}`", path)
        word = "argument" if command.most == 1 else "arguments"
        raise CommandLineError(
            f"takes at most {command.most} {word} ({command.positionals}), received {count}", path
        )


def refuse_unbuilt_options(
    options: Sequence[Option], values: Mapping[str, Value], origins: Mapping[str, tuple[str, ...]]
) -> None:
    """No option that is not built may be taken silently; a flag that is explicitly off asks for nothing."""
    for option in options:
        if option.supported or option.name not in origins or values[option.name] is False:
            continue
        origin = origins[option.name][0]
        named = f"`--{option.name}`" if origin[0] == "-" else f"`--{option.name}` (from `{origin}`)"
        raise NotSupported(named, remedy=option.instead, yet=option.instead is None)


def hint(name: str, options: Sequence[Option], path: tuple[str, ...]) -> str | None:
    """What an unknown option may have been meant to be. name: long, or one letter."""
    dashes = "-" if len(name) == 1 else "--"
    if path and any(name in (option.name, option.short) for option in (*GLOBALS, VERSION)):
        return f"Write `{dashes}{name}` before the command: it is an option of the program."
    if len(name) == 1:
        return None
    return did_you_mean(name, [option.name for option in options if not option.hidden], "--")


def did_you_mean(word: str, known: Sequence[str], dashes: str = "") -> str | None:
    """A question naming the known word that is nearest to `word`, if one is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=1, cutoff=0.7)
    return f"Did you mean `{dashes}{near[0]}`?" if near else None
