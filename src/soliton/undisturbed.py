"""A stretch of work that no Ctrl-C cuts in two: what makes a result appear, and what clears up.

Not for long work: whoever waits for the end of the program waits for the end of the stretch.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP meanwhile count when the block is done; a second one ends the program at once."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])


@contextlib.contextmanager
def passing_directory(prefix: str, parent: str) -> Iterator[str]:
    """A new directory that is gone when the block ends, whatever ends it and whenever that comes."""
    import shutil
    import tempfile

    path = None
    try:
        with undisturbed():
            path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        yield path
    finally:
        if path is not None:
            with undisturbed():
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def passing_file(path: str) -> Iterator[None]:
    """What the block writes to `path` it gives another name, or it is gone when the block ends, whatever ends it."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
