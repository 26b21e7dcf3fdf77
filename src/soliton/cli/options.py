"""An option as data, and the grammar of values: one record per option, read by parser, help, man pages and completion.

The tables themselves are in `soliton.cli.tables`. Written by hand rather than as dataclasses: a hundred of these are made
at the start of every container.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Literal

    from soliton.cli.invocation import Value

    Kind = Literal["flag", "text", "integer", "duration", "permissions", "list", "whole", "map"]

#: Kinds. A list is split at commas (CSV quoting); of a whole list each occurrence is one value as it stands.
FLAG: Final = "flag"
TEXT: Final = "text"
INTEGER: Final = "integer"
DURATION: Final = "duration"
PERMISSIONS: Final = "permissions"
LIST: Final = "list"
WHOLE: Final = "whole"
MAP: Final = "map"

#: Prefixes of variables that act as options, the strongest first.
PREFIXES = ("SOLITON_", "APPTAINER_", "SINGULARITY_")


class ValueProblem(Exception):
    """A value that its option cannot take; the text says what was expected."""


class Option:
    """One option of a command.

    name, short: without dashes. kind: see above. metavar: the value's name in help.
    keys: variables that set it, without prefix, the first one set wins. bare: the keys count without prefix too.
    additive: for lists, a variable's values come in addition to the command line's. separator: between values in a variable.
    default: None stands for false, nothing or empty, by kind.
    alias: this is another spelling of the option of that name. choices: the only values.
    hidden: not in help. deprecated: what to use instead. supported: False if giving it must be refused; instead: what
    the user can do then.
    """

    __slots__ = (
        "additive",
        "alias",
        "bare",
        "choices",
        "default",
        "deprecated",
        "group",
        "help",
        "hidden",
        "instead",
        "keys",
        "kind",
        "metavar",
        "name",
        "separator",
        "short",
        "supported",
    )

    def __init__(
        self,
        name: str,
        short: str | None = None,
        kind: Kind = "flag",
        metavar: str | None = None,
        *,
        help: str,
        group: str = "",
        keys: tuple[str, ...] = (),
        bare: bool = False,
        additive: bool = False,
        separator: str = ",",
        default: Value = None,
        alias: str | None = None,
        choices: tuple[str, ...] = (),
        hidden: bool = False,
        deprecated: str | None = None,
        supported: bool = True,
        instead: str | None = None,
    ) -> None:
        self.name: Final = name
        self.short: Final = short
        self.kind: Final[Kind] = kind
        self.metavar: Final = metavar
        self.help: Final = help
        self.group: Final = group
        self.keys: Final = keys
        self.bare: Final = bare
        self.additive: Final = additive
        self.separator: Final = separator
        self.default: Final = default
        self.alias: Final = alias
        self.choices: Final = choices
        self.hidden: Final = hidden
        self.deprecated: Final = deprecated
        self.supported: Final = supported
        self.instead: Final = instead

    def __repr__(self) -> str:
        return f"Option({self.spelling()})"

    def spelling(self) -> str:
        """`-B, --bind`, as messages name it."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"

    def repeats(self) -> bool:
        return self.kind in ("list", "whole", "map")

    def variables(self) -> tuple[str, ...]:
        """Every variable that sets it, in the order in which they are asked."""
        names: list[str] = []
        for key in self.keys:
            names.extend(prefix + key for prefix in PREFIXES)
            if self.bare:
                names.append(key)
        return tuple(names)

    def initial(self) -> Value:
        """The value when nobody sets it."""
        if self.default is not None:
            return self.default
        if self.kind == "flag":
            return False
        if self.kind in ("list", "whole"):
            return ()
        if self.kind == "map":
            return {}
        return None

    def read(self, text: str) -> Value:
        """The value that one occurrence spells. Raises ValueProblem."""
        value = _READERS[self.kind](text)
        if self.choices:
            for word in value if isinstance(value, tuple) else (value,):
                if word not in self.choices:
                    raise ValueProblem(f"expected one of {', '.join(self.choices)}")
        return value


def changed(option: Option, **fields: object) -> Option:
    """The same option with some fields different, for a command that takes it in another way."""
    values: dict[str, object] = {slot: getattr(option, slot) for slot in Option.__slots__}
    values.update(fields)
    return Option(**values)  # type: ignore[arg-type]


_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def boolean(text: str) -> bool:
    """The words of Go's ParseBool, as the peers have them."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueProblem("expected true or false")


def integer(text: str) -> int:
    """A whole number of at most 64 bits, decimal or with 0x, 0o, 0b in front."""
    if len(text) <= 66 and text.isascii() and "_" not in text and text == text.strip():
        try:
            number = int(text, 10 if text.lstrip("+-").isdigit() else 0)
        except ValueError:
            pass
        else:
            if -(2**63) <= number < 2**63:
                return number
    raise ValueProblem("expected a whole number")


_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds in a duration as Go writes them: `90s`, `1m30s`, `1.5h`; a sum of numbers, each with its unit."""
    rest = text.lstrip("+")
    if rest == "0":
        return 0.0
    total = 0.0
    while rest:
        number = ""
        while rest and (rest[0] in "0123456789."):
            number, rest = number + rest[0], rest[1:]
        unit = ""
        while rest and rest[0] not in "0123456789.":
            unit, rest = unit + rest[0], rest[1:]
        if unit not in _SECONDS or number.count(".") > 1 or not number.strip("."):
            break
        total += float(number) * _SECONDS[unit]
    else:
        if text:
            return total
    raise ValueProblem("expected a duration like 90s or 1m30s")


def permissions(text: str) -> int:
    """Permission bits in octal digits, as chmod and umask take them: `27`, `027`, `0027`, `0o27`."""
    digits = text.removeprefix("0o")
    if 1 <= len(digits) <= 4 and not digits.strip("01234567") and int(digits, 8) <= 0o777:
        return int(digits, 8)
    raise ValueProblem("expected octal digits from 0 to 777, as 027")


def fields(text: str) -> tuple[str, ...]:
    """The fields of one CSV record: separated by commas; one in double quotes may hold commas, and quotes doubled."""
    found: list[str] = []
    at = 0
    if not text:
        return ()
    while True:
        if text.startswith('"', at):
            field, at = _quoted(text, at + 1)
            if at < len(text) and text[at] != ",":
                raise ValueProblem('expected a comma behind the closing `"`')
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            field, at = text[at:end], end
            if '"' in field:
                raise ValueProblem('a `"` inside a value needs the whole value in quotes')
        found.append(field)
        if at >= len(text):
            return tuple(found)
        at += 1


def _quoted(text: str, at: int) -> tuple[str, int]:
    """The field whose opening quote is before `at`, and the place behind its closing one."""
    parts: list[str] = []
    while True:
        end = text.find('"', at)
        if end < 0:
            raise ValueProblem('a closing `"` is missing')
        parts.append(text[at:end])
        if not text.startswith('""', end):
            return '"'.join(parts), end + 1
        at = end + 2


def assignments(text: str) -> dict[str, str]:
    """`K=V,K=V`; a text with a single `=` is one assignment, whose value keeps its commas."""
    parts = (text,) if text.count("=") == 1 else fields(text)
    found: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ValueProblem(f"expected NAME=VALUE, found `{part}`")
        found[name] = value
    return found


_READERS: dict[str, Callable[[str], Value]] = {
    "flag": boolean,
    "text": str,
    "integer": integer,
    "duration": duration,
    "permissions": permissions,
    "list": fields,
    "whole": lambda text: (text,),
    "map": assignments,
}
