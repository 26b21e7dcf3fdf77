"""A Ctrl-C counts whenever it comes, and is never answered by a trace: while the interpreter starts, in its own calls, at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import soliton
from soliton import core

#: Ends what it is put before by Ctrl-C in a call that the interpreter makes on its own account, where exceptions count for nothing.
UNHEARD = """
import os, signal, time, weakref
from soliton.cli import interruption
class Nothing:
    pass
def called_back(_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0)
interruption.end_cleanly()
nothing = Nothing()
reference = weakref.ref(nothing, called_back)
try:
    del nothing
    time.sleep(600)
except interruption.Ended as ended:
    print(ended.number)
"""
#: And again while it is being noted that nobody has heard of it.
TWICE = (
    UNHEARD
    + """
reference = weakref.ref(nothing := Nothing(), called_back)
come_again = interruption._come_again
def once_more(number):
    interruption._come_again = come_again
    called_back(None)
    come_again(number)
interruption._come_again, interruption._asked = once_more, 0
try:
    del nothing
    time.sleep(600)
except interruption.Ended as ended:
    print(ended.number)
"""
)


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(soliton.__file__).parents[1])}
    # What whoever runs the tests ignores would be ignored here, too.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.run(
        [sys.executable, "-c", heed + code, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("code", "out"), [(UNHEARD, "2\n"), (TWICE, "2\n2\n")], ids=["once", "twice"])
def test_an_interruption_that_nobody_could_hear_comes_again(code: str, out: str) -> None:
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, "")


def test_nor_does_a_call_lose_one_that_has_nothing_to_clean_up() -> None:
    trick = UNHEARD.partition("interruption.end_cleanly()")
    lines = [*trick[0].splitlines(), "def handler(invocation):", "    nothing = Nothing()"]
    lines += ["    reference = weakref.ref(nothing, called_back)", "    del nothing", "    time.sleep(600)"]
    lines += ["import soliton.cli.version as told", "told.version_line = handler"]
    done = run("\n".join([*lines, "from soliton.__main__ import main; main()"]), "--version")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_what_came_while_the_interpreter_started_ends_the_program_without_a_word() -> None:
    before = "import os\nsignal.pthread_sigmask(signal.SIG_BLOCK, {2}); os.kill(os.getpid(), 2)\n"
    before += "os.environ['_SOLITON_HELD'] = '1'\n"
    done = run(f"{before}from soliton.__main__ import main; main()", "version")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_native_program_holds_an_interruption_back_while_the_interpreter_starts(tmp_path: Path) -> None:
    program = shutil.copy(core.program(), tmp_path / "soliton")
    interpreter = tmp_path / "python3"
    interpreter.write_text('#!/bin/sh\necho "held: ${_SOLITON_HELD-}"; exec grep SigBlk: /proc/self/status\n')
    interpreter.chmod(0o755)

    def told() -> list[str]:
        return subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout.split()

    assert told() == ["held:", "1", "SigBlk:", f"{1 << (signal.SIGINT - 1):016x}"]
    # Where the caller does so itself, it stays.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        assert told() == ["held:", "SigBlk:", f"{1 << (signal.SIGINT - 1):016x}"]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_after_the_end_is_quiet(number: signal.Signals) -> None:
    late = (
        "import atexit, os, time\nimport soliton.cli.main as program\nfrom soliton.cli import interruption\n"
        "program.run = lambda words: interruption.end_cleanly() or 0\n"
        f"atexit.register(lambda: (os.kill(os.getpid(), {number:d}), time.sleep(600)))\n"
        "from soliton.__main__ import main; main()"
    )
    done = run(late)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
