"""A command line after parsing: what handlers of commands receive. Plain data, knows nothing of how it was read.

Written by hand rather than as a dataclass: this module is on the start path of every container.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    #: What an option may hold: flag, integer, duration in seconds, text, list, map, or nothing.
    Value = bool | int | float | str | tuple[str, ...] | Mapping[str, str] | None


class Invocation:
    """One call of the program.

    program: `soliton`, `apptainer` or `singularity`: whose defaults and version line apply.
    command: the path of the command by its full names, `("exec",)`, `("sif", "list")`.
    options: every option of the command by its long name, dashes kept; defaults filled in, variables of the environment
        already taken into account.
    global_options: the same for the options before the command (`config`, `debug`, …).
    given: long names of the options set by the user, on the command line or by a variable.
    origins: for each given option where its values come from (`--bind`, `APPTAINER_BIND`), one for each value of a list.
    positionals: the words after the options, untouched.
    notices: (level, text) to be said before anything happens, see `soliton.messages`.
    """

    __slots__ = (
        "command",
        "given",
        "global_options",
        "notices",
        "options",
        "origins",
        "positionals",
        "program",
    )

    def __init__(
        self,
        program: str,
        command: tuple[str, ...],
        options: Mapping[str, Value],
        positionals: tuple[str, ...] = (),
        *,
        global_options: Mapping[str, Value] | None = None,
        origins: Mapping[str, tuple[str, ...]] | None = None,
        notices: tuple[tuple[int, str], ...] = (),
    ) -> None:
        self.program: Final = program
        self.command: Final = command
        self.options: Final = options
        self.positionals: Final = positionals
        self.global_options: Final[Mapping[str, Value]] = {} if global_options is None else global_options
        self.origins: Final[Mapping[str, tuple[str, ...]]] = {} if origins is None else origins
        self.given: Final = frozenset(self.origins)
        self.notices: Final = notices

    def __repr__(self) -> str:
        shown = {name: self.options[name] for name in sorted(self.given)}
        return f"Invocation({self.program} {' '.join(self.command)} {shown} {self.positionals})"

    def flag(self, name: str) -> bool:
        value = self.options[name]
        assert isinstance(value, bool), name
        return value

    def text(self, name: str) -> str | None:
        value = self.options[name]
        assert value is None or isinstance(value, str), name
        return value

    def integer(self, name: str) -> int | None:
        value = self.options[name]
        assert value is None or isinstance(value, int), name
        return value

    def seconds(self, name: str) -> float | None:
        value = self.options[name]
        assert value is None or isinstance(value, float), name
        return value

    def words(self, name: str) -> tuple[str, ...]:
        """The values of a list option, in order, those of a variable last."""
        value = self.options[name]
        assert isinstance(value, tuple), name
        return value

    def pairs(self, name: str) -> Mapping[str, str]:
        value = self.options[name]
        assert not isinstance(value, (bool, int, float, str, tuple)) and value is not None, name
        return value
