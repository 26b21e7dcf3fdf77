"""What soliton says on stderr: one line a message, the level's word in front. Results go to stdout and not through here.

Levels have the peers' numbers, so `APPTAINER_MESSAGELEVEL` means the same. The level is set once, by `soliton.cli.main`.
This module never raises: a message that cannot be written must not fail the work it speaks of.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from soliton.errors import SolitonError

FATAL, ERROR, WARNING, LOG, INFO, VERBOSE, DEBUG = -4, -3, -2, -1, 1, 2, 5

_WORDS = {FATAL: "FATAL", ERROR: "ERROR", WARNING: "WARNING", LOG: "LOG", INFO: "INFO", DEBUG: "DEBUG"}
_COLOURS = {FATAL: "31", ERROR: "31", WARNING: "33", INFO: "34"}

#: Column at which text starts: the word with its colon, padded, and a blank.
_INDENT = " " * 9

_level = INFO
_colour = False
_before: Callable[[], None] | None = None
_spoken = False


def configure(level: int, *, colour: bool) -> None:
    """Sets how much is said, and whether a terminal may be coloured (it is only ever if stderr is one)."""
    global _level, _colour
    _level = level
    _colour = colour and is_terminal() and not os.environ.get("NO_COLOR")


def level() -> int:
    """The number of the least important level that is shown."""
    return _level


def spoken() -> bool:
    """Whether anything has been said so far."""
    return _spoken


def shows(at: int) -> bool:
    return at <= _level


def coloured() -> bool:
    return _colour


def is_terminal() -> bool:
    """Whether stderr is a terminal that understands cursor movement."""
    try:
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:
        return False


def set_before(call: Callable[[], None] | None) -> Callable[[], None] | None:
    """From now on `call` runs before each message: a progress line takes itself away. Returns what ran before."""
    global _before
    previous, _before = _before, call
    return previous


def plain(at: int, text: str) -> str:
    """A message as it stands on a stderr that is no terminal."""
    return f"{_WORDS.get(at, 'VERBOSE') + ':':<8} " + f"\n{_INDENT}".join(printable(text).split("\n")) + "\n"


def debug(text: str) -> None:
    _say(DEBUG, text)


def verbose(text: str) -> None:
    _say(VERBOSE, text)


def info(text: str) -> None:
    _say(INFO, text)


def warning(text: str) -> None:
    _say(WARNING, text)


def error(text: str) -> None:
    _say(ERROR, text)


def say(at: int, text: str) -> None:
    """A message of a level that is known only at run time."""
    _say(at, text)


def failure(problem: SolitonError) -> None:
    """The one form in which a failure is told: what, then why and remedy below it."""
    parts = (problem.what, problem.why, problem.remedy)
    _say(FATAL, "\n".join(_one_line(part) for part in parts if part))


def printable(text: str) -> str:
    """`text` with control characters escaped, so that no name from outside can steer a terminal.

    Bytes of a name that are no text (lone surrogates) show as `\\xe4`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return ascii(character)[1:-1]


def write(text: str) -> None:
    """Puts text on stderr as it is, if there is one to write to."""
    global _spoken
    _spoken = True
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _say(at: int, text: str) -> None:
    if at > _level:
        return
    if _before is not None:
        _before()
    word = _WORDS.get(at, "VERBOSE")
    if _level >= DEBUG:
        caller = sys._getframe(2)
        place = f"{caller.f_globals.get('__name__', '?')}.{caller.f_code.co_qualname}"
        head = f"{word:<7} [U={os.geteuid()},P={os.getpid()}] {place}(): "
    else:
        head = f"{word + ':':<8} "
    if _colour and at in _COLOURS:
        head = f"\x1b[{_COLOURS[at]}m{head}\x1b[0m"
    lines = printable(text).split("\n")
    write(head + f"\n{_INDENT}".join(lines) + "\n")
