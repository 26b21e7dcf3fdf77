"""How far a long work has come: one line that is rewritten on a terminal, else a plain line now and then.

Drawn by hand: one line needs no library, and a batch log gets the same words without a bar. Nothing is shown with `-q`.
Tasks may be advanced from any thread.

    with progress.report("Pulling alpine") as work:
        layer = work.task("layer 1/3", total=size)
        layer.advance(len(chunk))
"""

from __future__ import annotations

import os
import sys
import threading
import time

from soliton import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Literal

#: Seconds between two drawings on a terminal, and between two plain lines in a log.
REDRAW, LINE = 0.1, 5.0
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """A number of bytes for people: `912.4 MiB`."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """A time for people: `4s`, `2m05s`, `1h02m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


class Task:
    """A part of the work. total, completed: in the report's unit; total is None while it is unknown."""

    __slots__ = ("_report", "completed", "finished", "label", "total")

    def __init__(self, report: Report, label: str, total: int | None) -> None:
        self._report = report
        self.label = label
        self.total = total
        self.completed = 0
        self.finished = False

    def advance(self, amount: int) -> None:
        with self._report.lock:
            self.completed += amount
        self._report.tick()

    def update(self, *, completed: int | None = None, total: int | None = None) -> None:
        """Sets absolute values, as a source that reports sums needs."""
        with self._report.lock:
            if completed is not None:
                self.completed = completed
            if total is not None:
                self.total = total
        self._report.tick()

    def finish(self) -> None:
        with self._report.lock:
            self.finished = True
            if self.total is None:
                self.total = self.completed
        self._report.tick()


class Report:
    """The progress of one work, a context manager; see the module."""

    def __init__(self, label: str, *, unit: Literal["bytes", "items"], quiet: bool) -> None:
        self.label = label
        self.unit = unit
        self.lock = threading.Lock()
        self.tasks: list[Task] = []
        self.started = time.monotonic()
        self._shown = not quiet and messages.shows(messages.INFO) and sys.stderr is not None
        self._terminal = self._shown and messages.is_terminal() and not messages.shows(messages.DEBUG)
        self._next = self.started + (REDRAW if self._terminal else LINE)
        self._drawn = False
        self._already = 0
        self._previous: Callable[[], None] | None = None

    def __enter__(self) -> Report:
        if self._terminal:
            self._previous = messages.set_before(self._erase)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._erase()
            messages.set_before(self._previous)

    def task(self, label: str, total: int | None = None, *, completed: int = 0) -> Task:
        """A new part. completed: what was done in an earlier run, which says nothing about the speed of this one."""
        task = Task(self, label, total)
        task.completed = completed
        with self.lock:
            self._already += completed
            self.tasks.append(task)
        return task

    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.started

    def completed(self) -> int:
        """The sum over all tasks."""
        with self.lock:
            return sum(task.completed for task in self.tasks)

    def tick(self) -> None:
        """Shows the state if it is time to. Called by tasks; cheap when there is nothing to do."""
        if not self._shown or time.monotonic() < self._next:
            return
        if not self.lock.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + (REDRAW if self._terminal else LINE)
            line = self._line(now - self.started)
        finally:
            self.lock.release()
        if self._terminal:
            self._draw(line)
        else:
            messages.info(f"{self.label}: {line}")

    def _line(self, elapsed: float) -> str:
        done = sum(task.completed for task in self.tasks)
        known = bool(self.tasks) and all(task.total is not None for task in self.tasks)
        total = sum(task.total or 0 for task in self.tasks) if known else 0
        rate = (done - self._already) / elapsed if elapsed > 0 else 0.0
        parts = []
        if total > 0:
            share = min(100, done * 100 // total)
            if self._terminal:
                parts.append(f"[{'=' * (share // 5):20}]")
            parts.append(f"{share:3d}%" if self._terminal else f"{share}%")
        if self.unit == "bytes":
            parts.append(f"{size(done)} of {size(total)}" if total else size(done))
            parts.append(f"{size(rate)}/s")
        else:
            parts.append(f"{done} of {total}" if total else f"{done}")
        if total > done > 0 and rate > 0:
            parts.append(f"{duration((total - done) / rate)} left")
        running = [task.label for task in self.tasks if not task.finished]
        if len(self.tasks) > 1 and running:
            parts.append(running[0] if len(running) == 1 else f"{running[0]} and {len(running) - 1} more")
        return "  ".join(parts)

    def _draw(self, line: str) -> None:
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
        except (OSError, ValueError):
            width = 80
        text = messages.printable(f"{self.label}  {line}")[: max(10, width - 1)]
        messages.write(f"\r{text}\x1b[K")
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._drawn = False
            messages.write("\r\x1b[K")


def report(label: str, *, unit: Literal["bytes", "items"] = "bytes", quiet: bool = False) -> Report:
    """A work that is about to begin. quiet: shows nothing, whatever the level of messages."""
    return Report(label, unit=unit, quiet=quiet)
