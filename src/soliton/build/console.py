"""Running one step's program while its output goes live to where soliton's own output goes.

The last lines are kept, for the message if the program fails. Standard output and error stay apart unless both are
the same file, where one pipe keeps their order. Input is the terminal's if there is one, so that installers can ask;
otherwise none, so that nothing eats the input of a shell loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from soliton.build.trace import Watch

#: Lines kept, and bytes of each.
KEPT_LINES = 20
KEPT_BYTES = 400
#: Seconds a step has to end after Ctrl-C before it is killed.
PATIENCE = 5.0

#: Starts the program with the given (stdin, stdout, stderr).
Starter = Callable[[int, int, int], "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Ended:
    """status: as a shell has it, 128 + n for signal n. last_lines: of what it printed, without line ends."""

    status: int
    last_lines: tuple[str, ...]


class _Tail:
    """The last lines of streams of bytes, in bounded memory."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        #: What each stream has begun: a line of one does not go on in another.
        self._open: dict[int, bytes] = {}

    def feed(self, stream: int, data: bytes) -> None:
        *lines, begun = (self._open.get(stream, b"") + data).split(b"\n")
        self._lines.extend(line[:KEPT_BYTES] for line in lines[-KEPT_LINES:])
        self._open[stream] = begun[: KEPT_BYTES * 2]

    def lines(self) -> tuple[str, ...]:
        kept = [*self._lines, *(begun[:KEPT_BYTES] for begun in self._open.values())]
        # Of a line rewritten in place only the last state was to be seen.
        shown = (line.decode("utf-8", "replace").rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in kept)
        return tuple(line for line in shown if line)[-KEPT_LINES:]


def run(start: Starter, watch: Watch | None = None) -> Ended:
    """Runs a program to its end. An exception here, Ctrl-C too, ends the program before it is passed on.

    watch: sees what is printed first.
    """
    watch = watch or Watch()
    together = _same_file(1, 2)
    tail = _Tail()
    with contextlib.ExitStack() as stack:
        stdin = _input(stack)
        out_read, out_write = _pipe(stack)
        err_read, err_write = (out_read, out_write) if together else _pipe(stack)
        child = start(stdin, out_write.fileno(), err_write.fileno())
        try:
            out_write.close()
            err_write.close()
            sinks = {out_read.fileno(): 1, err_read.fileno(): 2}
            _copy(child, sinks, tail, watch)
            status = child.wait()
        except BaseException:
            end(child)
            raise
    return Ended(128 - status if status < 0 else status, tail.lines())


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a program that has a terminal's worth of time to end by itself."""
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def _copy(child: subprocess.Popen[bytes], sinks: dict[int, int], tail: _Tail, watch: Watch) -> None:
    """Until the program has ended: what others still hold of the pipes does not keep us."""
    ended = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            for fd in sinks:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            running = True
            while running:
                for key, _ in selector.select():
                    if key.fd == ended:
                        running = False
                    elif not _pass_on(key.fd, sinks[key.fd], tail, watch):
                        selector.unregister(key.fd)
            for fd, sink in sinks.items():
                while _pass_on(fd, sink, tail, watch, only_there=True):
                    pass
                _show(watch.rest(fd), sink, tail)
    finally:
        os.close(ended)


def _pass_on(source: int, sink: int, tail: _Tail, watch: Watch, *, only_there: bool = False) -> bool:
    """One piece of output. False at the end of the stream, or of what is there."""
    try:
        data = os.read(source, 65536)
    except BlockingIOError:
        return not only_there
    if not data:
        return False
    _show(watch.pass_on(source, data), sink, tail)
    return True


def _show(data: bytes, sink: int, tail: _Tail) -> None:
    tail.feed(sink, data)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:  # somebody made our terminal non-blocking
            with selectors.DefaultSelector() as selector:
                selector.register(sink, selectors.EVENT_WRITE)
                selector.select()
        except OSError as error:
            if error.errno == errno.EBADF:
                break
            raise


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def _input(stack: contextlib.ExitStack) -> int:
    try:
        if os.isatty(0):
            return 0
    except OSError:
        pass
    return stack.enter_context(open(os.devnull, "rb", buffering=0)).fileno()


def _pipe(stack: contextlib.ExitStack) -> tuple[_End, _End]:
    read, write = os.pipe()
    return stack.enter_context(_End(read)), stack.enter_context(_End(write))


class _End:
    """One end of a pipe, closed once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> _End:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
