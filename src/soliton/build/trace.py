"""What a step prints, on its way to the user: at which line of its script a shell is, and the full log.

`sh -x` says what it does with PS4 in front. The script sets one that holds the line's number between two marks, which are
taken out again here, so that the user sees what every shell prints. Shells that do not know the number leave it empty.
"""

from __future__ import annotations

import contextlib
import os
import re

#: The first line of a script that `sh -ex` runs; its other lines keep their numbers if one is taken off.
FIRST = "PS4='+\x1d${LINENO-}\x1d '\n"
_NUMBER = re.compile(rb"\x1d([0-9]{0,7})\x1d ")
_LONGEST_FIRST = 200
#: A mark of which the rest is yet to come.
_BEGUN = re.compile(rb"\x1d(?:[0-9]{0,7}\x1d?)?$")
#: Bytes of a log; what a step prints beyond that is on the screen only.
LARGEST_LOG = 64 << 20


class Watch:
    """One step's output. line: of the script that was last begun, 0 if unknown."""

    def __init__(self, log: str | None = None, *, numbered: bool = False) -> None:
        self.line = 0
        self._numbered = numbered
        self._held: dict[int, bytes] = {}
        self._first = True
        self._left = LARGEST_LOG
        self._log = -1
        if log is not None:
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._log = os.open(log, flags, 0o600)

    def pass_on(self, source: int, data: bytes) -> bytes:
        """What of `data` is to be shown; the rest is kept until more comes."""
        shown = self._without_marks(source, data) if self._numbered else data
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
        if self._first and data.startswith(b"+"):
            # The shell tells of FIRST itself: before it counts, or with it.
            line, end, rest = data.partition(b"\n")
            if not end and len(data) < _LONGEST_FIRST:
                self._held[source] = data
                return b""
            data = rest if b" PS4=" in line and b"LINENO" in line else data
        self._first = False
        for match in _NUMBER.finditer(data):
            if match[1]:
                self.line = int(match[1]) - 1
        data = _NUMBER.sub(b" ", data)
        begun = _BEGUN.search(data)
        if begun is not None:
            self._held[source] = begun[0]
            data = data[: begun.start()]
        return data

    def _write(self, data: bytes) -> None:
        if self._log >= 0 and data and self._left > 0:
            self._left -= len(data)
            with contextlib.suppress(OSError):
                os.write(self._log, data)
