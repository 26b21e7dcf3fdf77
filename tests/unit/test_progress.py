"""Progress: a rewritten line on a terminal, a plain line now and then in a log, nothing when quiet."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator

import pytest

from soliton import messages, progress

MIB = 1 << 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm")
    messages.configure(messages.INFO, colour=False)
    yield
    messages.configure(messages.INFO, colour=False)
    messages.set_before(None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def become_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From now on stderr is a terminal. Not a fixture: pytest takes stderr back between set-up and test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_log_gets_plain_lines_seconds_apart(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress.report("Pulling x") as work:
        one = work.task("layer 1/2", 100 * MIB)
        two = work.task("layer 2/2", 100 * MIB)
        for _ in range(10):
            clock.now += 1
            one.advance(10 * MIB)
        one.finish()
        clock.now += 1
        two.advance(MIB)
    assert capsys.readouterr().err == (
        "INFO:    Pulling x: 25%  50.0 MiB of 200.0 MiB  10.0 MiB/s  15s left  layer 1/2 and 1 more\n"
        "INFO:    Pulling x: 50%  100.0 MiB of 200.0 MiB  10.0 MiB/s  10s left  layer 1/2 and 1 more\n"
    )


def test_short_work_leaves_no_trace_in_a_log(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress.report("Pulling x") as work:
        task = work.task("layer", MIB)
        clock.now += 1
        task.advance(MIB)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = become_terminal(monkeypatch)
    with progress.report("Pulling x") as work:
        task = work.task("layer", 100 * MIB)
        clock.now += 1
        task.advance(25 * MIB)
        drawn = "\rPulling x  [=====               ]   25%  25.0 MiB of 100.0 MiB  25.0 MiB/s  3s left"
        assert terminal.getvalue() == f"{drawn[:80]}\x1b[K"
        messages.info("between")
        task.advance(1)
    assert terminal.getvalue() == f"{drawn[:80]}\x1b[K\r\x1b[KINFO:    between\n"


def test_the_line_goes_away_when_the_work_fails(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = become_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress.report("Pulling x") as work:
        clock.now += 1
        work.task("layer").advance(1)
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_quiet_work_shows_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = become_terminal(monkeypatch)
    with progress.report("Pulling x", quiet=True) as work:
        clock.now += 100
        work.task("layer", 100).advance(50)
    messages.configure(messages.LOG, colour=False)
    with progress.report("Pulling x") as work:
        clock.now += 100
        work.task("layer", 100).advance(50)
    assert terminal.getvalue() == ""


def test_what_was_fetched_before_says_nothing_about_the_speed(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    with progress.report("Pulling x") as work:
        task = work.task("layer", 100 * MIB, completed=50 * MIB)
        clock.now += 10
        task.advance(10 * MIB)
    assert capsys.readouterr().err == (
        "INFO:    Pulling x: 60%  60.0 MiB of 100.0 MiB  1.0 MiB/s  40s left\n"
    )


def test_work_without_a_known_total(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress.report("Packing", unit="items") as work:
        task = work.task("files")
        clock.now += 6
        task.update(completed=1234)
    assert capsys.readouterr().err == "INFO:    Packing: 1234\n"


def test_tasks_may_be_advanced_from_any_thread() -> None:
    with progress.report("Pulling x", quiet=True) as work:
        task = work.task("layer", 8000)

        def advance() -> None:
            for _ in range(1000):
                task.advance(1)

        threads = [threading.Thread(target=advance) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert task.completed == 8000
    assert work.completed() == 8000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (914 * MIB, "914.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert progress.size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (125, "2m05s"), (3720, "1h02m")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
