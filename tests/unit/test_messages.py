"""Messages: their form, their levels, and that they never fail the work."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import cast

import pytest

from soliton import messages
from soliton.errors import SolitonError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def ordinary() -> Iterator[None]:
    messages.configure(messages.INFO, colour=False)
    yield
    messages.configure(messages.INFO, colour=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def say_all() -> None:
    messages.debug("d")
    messages.verbose("v")
    messages.info("i")
    messages.warning("w")
    messages.error("e")
    messages.failure(SolitonError("f"))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (messages.FATAL, "FATAL:   f\n"),
        (messages.ERROR, "ERROR:   e\nFATAL:   f\n"),
        (messages.LOG, "WARNING: w\nERROR:   e\nFATAL:   f\n"),
        (messages.INFO, "INFO:    i\nWARNING: w\nERROR:   e\nFATAL:   f\n"),
        (4, "VERBOSE: v\nINFO:    i\nWARNING: w\nERROR:   e\nFATAL:   f\n"),
    ],
)
def test_each_level_shows_itself_and_what_matters_more(capsys: Captured, level: int, expected: str) -> None:
    messages.configure(level, colour=False)
    say_all()
    assert capsys.readouterr() == ("", expected)


def test_further_lines_are_aligned(capsys: Captured) -> None:
    messages.warning("one\ntwo")
    assert capsys.readouterr().err == "WARNING: one\n         two\n"


def test_a_terminal_gets_colour_on_the_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    messages.configure(messages.INFO, colour=True)
    messages.warning("text")
    assert cast(Terminal, sys.stderr).getvalue() == "\x1b[33mWARNING: \x1b[0mtext\n"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_may_refuse_colour(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    messages.configure(messages.INFO, colour=True)
    messages.warning("text")
    assert cast(Terminal, sys.stderr).getvalue() == "WARNING: text\n"


def test_a_stream_that_cannot_be_written_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
    for stream in (full, closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        messages.info("text")
