"""What a step prints, on its way to the user: at which line of its script a shell is, and the full log.

`sh -x` says what it does with PS4 in front. The script sets one that holds the line's number between two marks, which are
taken out again here, so that the user sees what every shell prints. Shells that do not know the number (Debian's) leave it
empty; then the line is the next one of the script that has what the shell says it does (`next_line`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Sequence

#: The first line of a script that `sh -ex` runs; its other lines keep their numbers if one is taken off.
FIRST = "PS4='+\x1d${LINENO-}\x1d '\n"
_NUMBER = re.compile(rb"\x1d([0-9]{0,7})\x1d ")
_LONGEST_FIRST = 200
#: The command behind an empty one, where the script's own shell runs it and no other that it has begun.
_COMMAND = re.compile(rb"(?:^|(?<=\n))\+\x1d\x1d ([^\n]{0,200})")
#: A mark of which the rest is yet to come, or the command behind it.
_BEGUN = re.compile(rb"(?:(?:^|(?<=\n))\++|\+*\x1d(?:[0-9]{0,7}\x1d?|\x1d [^\n]{0,200}))\Z")
#: Commands that are remembered to find the line: of a long loop the last ones do.
_MOST_COMMANDS = 500
_WORD = re.compile(r"[^\s;&|(){}\"'`]+")
#: Bytes of a log; what a step prints beyond that is on the screen only.
LARGEST_LOG = 64 << 20


class Watch:
    """One step's output. script: its lines, if its shell marks what it does."""

    def __init__(self, log: str | None = None, *, script: Sequence[str] | None = None) -> None:
        self._line = 0
        self._script = script
        self._commands: deque[str] = deque(maxlen=_MOST_COMMANDS)
        self._held: dict[int, bytes] = {}
        #: Streams of which something has come: the other one may be read before that of the shell.
        self._heard: set[int] = set()
        self._left = LARGEST_LOG
        self._log = -1
        if log is not None:
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._log = os.open(log, flags, 0o600)

    @property
    def line(self) -> int:
        """The line of the script that was last begun, 0 if unknown."""
        line = self._line
        for command in self._commands:
            line = next_line(self._script or (), line, command)
        return line

    def pass_on(self, source: int, data: bytes) -> bytes:
        """What of `data` is to be shown; the rest is kept until more comes."""
        shown = data if self._script is None else self._without_marks(source, data)
        self._write(shown)
        return shown

    def rest(self, source: int) -> bytes:
        """What was kept, once nothing more comes."""
        held = self._held.pop(source, b"")
        self._write(held)
        return held

    def close(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def _without_marks(self, source: int, data: bytes) -> bytes:
        data = self._held.pop(source, b"") + data
        if source not in self._heard and data.startswith(b"+"):
            # The shell tells of FIRST itself: before it counts, or with it.
            line, end, rest = data.partition(b"\n")
            if not end and len(data) < _LONGEST_FIRST:
                self._held[source] = data
                return b""
            data = rest if b" PS4=" in line and b"LINENO" in line else data
        self._heard.add(source)
        for match in _NUMBER.finditer(data):
            if match[1]:
                self._line = int(match[1]) - 1
        begun = _BEGUN.search(data)
        if begun is not None:
            self._held[source] = begun[0]
            data = data[: begun.start()]
        self._commands.extend(match[1].decode(errors="replace") for match in _COMMAND.finditer(data))
        return _NUMBER.sub(b" ", data)

    def _write(self, data: bytes) -> None:
        if self._log >= 0 and data and self._left > 0:
            self._left -= len(data)
            with contextlib.suppress(OSError):
                os.write(self._log, data)


def next_line(script: Sequence[str], line: int, command: str) -> int:
    """The line of a script, counted from 1, that a shell is at after `line` when it says that it runs `command`: the next that
    is just this, else the first from `line` on that has the command's first two words. What has not been found below is
    looked for above, as in a loop; `line` if nothing fits."""
    words = [word.strip("\"'") for word in command.split()[:2]]
    above, below = list(range(1, line)), list(range(line + 1, len(script) + 1))
    here = [line] if 0 < line <= len(script) else []
    for number in below + above + here:
        if script[number - 1].strip() == command.strip():
            return number
    for number in here + below + above:
        found = [word for word in _WORD.findall(script[number - 1]) if word in words]
        if words and found[: len(words)] == words:
            return number
    return line
