"""Ends asked for from outside: Ctrl-C, SIGTERM and SIGHUP become exceptions, so that every `with` and `finally` cleans up.

For calls that stay in Python. A call that becomes a container needs nothing of this.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


class Ended(KeyboardInterrupt):
    """Asked to end by the signal `number`. A KeyboardInterrupt, so that nobody takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


_asked = 0


def end_cleanly() -> None:
    """From now on these signals are exceptions. Signals that the caller ignores (nohup) stay ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """The first one raises, the second is too much, the third ends at once whatever is left."""
    global _asked
    _asked += 1
    if _asked == 1:
        raise Ended(number)
    if _asked == 2:
        if sys.stderr is not None:
            os.write(2, b"\nWARNING: cleaning up; once more to end at once and leave temporary files\n")
        return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
