"""Ends asked for from outside: Ctrl-C, SIGTERM and SIGHUP become exceptions, so that every `with` and `finally` cleans up.

For calls that stay in Python. A call that becomes a container needs nothing of this.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Ended(KeyboardInterrupt):
    """Asked to end by the signal `number`. A KeyboardInterrupt, so that nobody takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


_asked = 0
#: Seconds after which an end is asked for anew that came at a bad moment.
_AGAIN = 0.001


def end_cleanly() -> None:
    """From now on these signals are exceptions. Signals that the caller ignores (nohup) stay ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    sys.unraisablehook = unheard


def _end(number: int, frame: FrameType | None) -> None:
    """The first one raises, the second is too much, the third ends at once whatever is left."""
    global _asked
    if _is_within(unheard, frame):
        _come_again(number)
        return
    _asked += 1
    if _asked == 1:
        raise Ended(number)
    if _asked == 2:
        if sys.stderr is not None:
            os.write(2, b"\nWARNING: cleaning up; once more to end at once and leave temporary files\n")
        return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def unheard(what: sys.UnraisableHookArgs) -> None:
    """Exceptions count for nothing where the interpreter calls on its own account, as it does behind every import: there an
    end would be a trace on the screen and nothing else. It comes again a moment later."""
    global _asked
    if isinstance(what.exc_value, KeyboardInterrupt):
        _asked = 0
        _come_again(getattr(what.exc_value, "number", signal.SIGINT))
    else:
        sys.__unraisablehook__(what)


def _come_again(number: int) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _is_within(function: Callable[..., object], frame: FrameType | None) -> bool:
    """Whether a frame is the function's, or of something that it has called."""
    while frame is not None:
        if frame.f_code is function.__code__:
            return True
        frame = frame.f_back
    return False
