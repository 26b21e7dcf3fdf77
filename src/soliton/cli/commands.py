"""Commands as data, and the way from a name to its record. A family's table is loaded when one of its names is asked for.

The tables are in `soliton.cli.tables`; handlers are named there and imported when called.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from soliton.cli.invocation import Invocation
    from soliton.cli.options import Option


class Example:
    """A command line and what it is for. needs: what must be there for it to run (`image.sif`, `registry`, …).
    status: its exit status then.
    """

    __slots__ = ("line", "needs", "says", "status")

    def __init__(self, line: str, says: str, *needs: str, status: int = 0) -> None:
        self.line: Final = line
        self.says: Final = says
        self.needs: Final = needs
        self.status: Final = status


class Command:
    """One command, or a group of them.

    positionals: as usage shows them. least, most: how many there may be; most None: any number, all that follow the options.
    handler: `module:function`, called with the Invocation and returning the exit status; None: not built yet.
    immediate: it answers at once or becomes a container: nothing to clean up if it is ended from outside.
    """

    __slots__ = (
        "aliases",
        "deprecated",
        "description",
        "examples",
        "group",
        "handler",
        "hidden",
        "immediate",
        "instead",
        "least",
        "most",
        "name",
        "options",
        "positionals",
        "subcommands",
        "summary",
    )

    def __init__(
        self,
        name: str,
        positionals: str,
        summary: str,
        *,
        least: int = 0,
        most: int | None = 0,
        options: tuple[Option, ...] = (),
        handler: str | None = None,
        description: str = "",
        examples: tuple[Example, ...] = (),
        aliases: tuple[str, ...] = (),
        subcommands: tuple[Command, ...] = (),
        group: str = "",
        hidden: bool = False,
        deprecated: str | None = None,
        instead: str | None = None,
        immediate: bool = False,
    ) -> None:
        self.name: Final = name
        self.positionals: Final = positionals
        self.summary: Final = summary
        self.least: Final = least
        self.most: Final = most
        self.options: Final = options
        self.handler: Final = handler
        self.description: Final = description
        self.examples: Final = examples
        self.aliases: Final = aliases
        self.subcommands: Final = subcommands
        self.group: Final = group
        self.hidden: Final = hidden
        self.deprecated: Final = deprecated
        self.instead: Final = instead
        self.immediate: Final = immediate

    def __repr__(self) -> str:
        return f"Command({self.name})"

    def built(self) -> bool:
        """Whether it, or a command below it, does something."""
        return self.handler is not None or any(command.built() for command in self.subcommands)

    def below(self, name: str) -> Command | None:
        for command in self.subcommands:
            if name == command.name or name in command.aliases:
                return command
        return None


#: Which table of `soliton.cli.tables` holds a command, in the order in which help shows them: the order of work.
TABLES = {
    "build": "build",
    "pull": "transfer",
    "exec": "action",
    "run": "action",
    "shell": "action",
    "test": "action",
    "instance": "instance",
    "inspect": "look",
    "run-help": "look",
    "diff": "look",
    "rebuild": "build",
    "sif": "sif",
    "overlay": "overlay",
    "push": "transfer",
    "search": "transfer",
    "delete": "transfer",
    "sign": "trust",
    "verify": "trust",
    "key": "trust",
    "keyserver": "remote",
    "registry": "remote",
    "remote": "remote",
    "cache": "cache",
    "mounts": "mounts",
    "checkpoint": "checkpoint",
    "data": "overlay",
    "oci": "oci",
    "doctor": "site",
    "config": "site",
    "capability": "site",
    "plugin": "plugin",
    "version": "about",
    "help": "about",
    "completion": "about",
    "buildcfg": "about",
    "confgen": "about",
}

ALIASES = {"caps": "capability", "keys": "key", "plugins": "plugin", "siftool": "sif"}


def find(name: str) -> Command | None:
    """The command of the top level that is called so."""
    name = ALIASES.get(name, name)
    table = TABLES.get(name)
    if table is None:
        return None
    module = __import__(f"soliton.cli.tables.{table}", fromlist=("COMMANDS",))
    commands: tuple[Command, ...] = module.COMMANDS
    for command in commands:
        if command.name == name:
            return command
    raise LookupError(f"{name} is not in soliton.cli.tables.{table}")


def at(path: tuple[str, ...]) -> Command:
    """The command with this path of full names. Raises LookupError."""
    command = find(path[0])
    for name in path[1:]:
        command = command.below(name) if command else None
    if command is None:
        raise LookupError(" ".join(path))
    return command


def every() -> Iterator[Command]:
    """All commands of the top level, in the order of work. Loads every table."""
    for name in TABLES:
        command = find(name)
        assert command is not None
        yield command


def walk() -> Iterator[tuple[tuple[str, ...], Command]]:
    """Every command and group with its path, depth first."""

    def below(path: tuple[str, ...], command: Command) -> Iterator[tuple[tuple[str, ...], Command]]:
        yield path, command
        for child in command.subcommands:
            yield from below((*path, child.name), child)

    for command in every():
        yield from below((command.name,), command)


def handler(named: str) -> Callable[[Invocation], int]:
    """The function that `module:function` names."""
    module, _, function = named.partition(":")
    loaded = __import__(module, fromlist=(function,))
    found: Callable[[Invocation], int] = getattr(loaded, function)
    return found
