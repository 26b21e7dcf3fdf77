"""What a user reads: help, usage, version and failures, compared as text; and how a call ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import soliton
from soliton import messages
from soliton.cli import commands, main
from soliton.cli.invocation import Invocation
from soliton.errors import SolitonError, UsageError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of whoever runs the tests may matter, and no test's level of messages any other test."""
    for name in list(os.environ):
        if name.startswith(("SOLITON_", "APPTAINER_", "SINGULARITY_")):
            monkeypatch.delenv(name)
    yield
    messages.configure(messages.INFO, colour=False)


def answering(monkeypatch: pytest.MonkeyPatch, act: Callable[[Invocation], int]) -> None:
    """The command `version` does this instead."""
    monkeypatch.setattr(commands, "handler", lambda named: act)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def act(invocation: Invocation) -> int:
        raise error

    answering(monkeypatch, act)


@pytest.mark.parametrize(
    ("name", "words", "out"),
    [
        ("/usr/bin/soliton", ["--version"], f"soliton version {soliton.__version__}\n"),
        ("soliton", ["version"], f"{soliton.__version__}\n"),
        ("/opt/x/apptainer", ["--version"], "apptainer version 1.5.3\n"),
        ("singularity", ["--version"], "apptainer version 1.5.3\n"),
        ("singularity", ["version"], "1.5.3\n"),
        ("soliton-0.1", ["--version"], f"soliton version {soliton.__version__}\n"),
    ],
)
def test_the_version_by_the_name_of_the_call(capsys: Captured, name: str, words: list[str], out: str) -> None:
    assert main.run(["--invoked-as", name, *words]) == 0
    assert capsys.readouterr() == (out, "")


def test_run_singularity_runs_quietly() -> None:
    assert main.called_as(["--invoked-as", "/bin/run-singularity", "x.sif", "-a"]) == (
        "singularity",
        ["--quiet", "run", "x.sif", "-a"],
    )


def test_an_unknown_flag(capsys: Captured) -> None:
    assert main.run(["exec", "--bnid", "/x", "image", "true"]) == 1
    out, err = capsys.readouterr()
    assert err == 'Error for command "exec": unknown flag: --bnid\nDid you mean `--bind`?\n\n'
    assert out == (
        "Usage:\n"
        "  soliton [global options] exec [options] IMAGE COMMAND [ARGUMENT…]\n"
        "\n"
        "`soliton exec --help` explains more.\n"
    )


def test_an_unknown_command(capsys: Captured) -> None:
    assert main.run(["--invoked-as", "apptainer", "exce", "image", "true"]) == 1
    out, err = capsys.readouterr()
    assert (
        err
        == 'Error for command "apptainer": unknown command "exce" for "apptainer"\nDid you mean `exec`?\n\n'
    )
    assert out.startswith(
        "Usage:\n  apptainer [global options] COMMAND …\n\nCommands:\n  build, pull, exec, run,"
    )
    assert out.endswith("\n\n`apptainer --help` explains more.\n")


def test_a_group_without_a_command(capsys: Captured) -> None:
    assert main.run(["cache"]) == 1
    out, err = capsys.readouterr()
    assert err == 'Error for command "cache": a command of this group is missing\n\n'
    assert out == (
        "Usage:\n"
        "  soliton [global options] cache COMMAND …\n"
        "\n"
        "Commands:\n"
        "  list        show how much is kept\n"
        "  clean       delete what is kept\n"
        "\n"
        "`soliton cache --help` explains more.\n"
    )


def test_help_of_a_command(capsys: Captured) -> None:
    assert main.run(["cache", "list", "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "Show how much is kept.\n"
        "\n"
        "Usage:\n"
        "  soliton [global options] cache list [options]\n"
        "\n"
        "Examples:\n"
        "  soliton cache list --verbose                               # what takes the space?\n"
        "\n"
        "Options:\n"
        "  -T, --type KIND               only these of library, oci-tmp, shub, oras, ipfs, net, blob, steps\n"
        "                                (default all)\n"
        "  -v, --verbose                 each entry with its size and date\n"
    )


def test_help_names_variables_by_the_name_of_the_call(capsys: Captured) -> None:
    assert main.run(["--invoked-as", "apptainer", "help", "exec"]) == 0
    out = capsys.readouterr().out
    assert "  -c, --contain                 minimal /dev, empty home" in out
    assert "[APPTAINER_CONTAIN]" in out
    assert "SOLITON" not in out
    assert "apptainer exec image.sif cat /etc/os-release" in out


def test_help_of_the_program_shows_commands_in_the_order_of_work(capsys: Captured) -> None:
    assert main.run(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    starts = [
        out.index(f"\n  {name} ") for name in ("build", "pull", "exec", "run", "shell", "test", "inspect")
    ]
    assert starts == sorted(starts)
    assert "Known, not built yet:" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("path", [path for path, _ in commands.walk()], ids=" ".join)
def test_every_command_has_help_that_fits(capsys: Captured, path: tuple[str, ...]) -> None:
    assert main.run([*path, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"soliton [global options] {' '.join(path)}" in out
    assert [line for line in out.splitlines() if len(line) > 100 and "#" not in line] == []


def test_help_for_what_does_not_exist(capsys: Captured) -> None:
    assert main.run(["help", "sif", "dmp"]) == 1
    assert capsys.readouterr().err == (
        'Error for command "help": there is no command "sif dmp"\nDid you mean `dump`?\n\n'
    )


def test_a_failure_is_told_in_three_lines(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, SolitonError("`a.sif` cannot be read", why="it is\nempty", remedy="pull it again"))
    assert main.run(["version"]) == 255
    assert capsys.readouterr() == (
        "",
        "FATAL:   `a.sif` cannot be read\n         it is empty\n         pull it again\n",
    )


def test_a_failure_may_have_a_status_of_its_own(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, SolitonError("there is no app `x`", status=1))
    assert main.run(["version"]) == 1
    assert capsys.readouterr().err == "FATAL:   there is no app `x`\n"


def test_debug_shows_where(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, SolitonError("no"))
    assert main.run(["-d", "version"]) == 255
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert f"FATAL   [U={os.geteuid()},P={os.getpid()}] soliton.cli.main.run(): no" in err


def test_a_handler_may_refuse_the_command_line(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, UsageError("--a and --b exclude each other"))
    assert main.run(["version"]) == 1
    out, err = capsys.readouterr()
    assert err == 'Error for command "version": --a and --b exclude each other\n\n'
    assert out.startswith("Usage:\n  soliton [global options] version\n")


def test_a_defect_of_soliton_is_no_traceback(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyError("x"))
    assert main.run(["version"]) == 255
    assert capsys.readouterr().err == (
        "FATAL:   unexpected KeyError: 'x'\n"
        "         this is a mistake in soliton, not in what you asked for\n"
        "         `soliton -d …` shows where; please report it with that\n"
    )


def test_an_error_of_the_system_names_the_file(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"))
    assert main.run(["version"]) == 255
    assert capsys.readouterr().err == (
        "FATAL:   `/data/x`: No space left on device\n         run it again with -d to see where\n"
    )


def test_names_from_outside_cannot_steer_the_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, SolitonError("`\x1b[2Jevil\r\x07` and `b\udce4d` are bad"))
    assert main.run(["version"]) == 255
    assert capsys.readouterr().err == "FATAL:   `\\x1b[2Jevil \\x07` and `b\\xe4d` are bad\n"
    assert main.run(["exec", "--\x1b[2J"]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "variables", "level"),
    [
        ({}, {}, messages.INFO),
        ({"debug": True, "quiet": True}, {}, messages.DEBUG),
        ({"verbose": True}, {}, 4),
        ({"quiet": True}, {}, messages.LOG),
        ({"silent": True}, {}, messages.ERROR),
        ({}, {"APPTAINER_MESSAGELEVEL": "-3"}, -3),
        ({}, {"SOLITON_MESSAGELEVEL": "5", "SINGULARITY_MESSAGELEVEL": "-3"}, 5),
        ({}, {"APPTAINER_MESSAGELEVEL": "99999999999"}, 5),
        ({}, {"APPTAINER_MESSAGELEVEL": "loud"}, messages.INFO),
        ({"quiet": True}, {"APPTAINER_MESSAGELEVEL": "5"}, messages.LOG),
    ],
)
def test_how_much_is_said(options: dict[str, bool], variables: dict[str, str], level: int) -> None:
    main.configure(options, variables)
    assert messages.level() == level


def test_quiet_keeps_failures(capsys: Captured) -> None:
    assert main.run(["-q", "oci", "run", "x"]) == 255
    assert capsys.readouterr().err == "FATAL:   `soliton oci run` is not supported yet\n"


def start(
    *words: str,
    code: str = "",
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """The program as a process; `code` is run before it."""
    script = f"{code}\nfrom soliton.cli.main import run; import sys; sys.exit(run(sys.argv[1:]))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(soliton.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", script, *words], env=environment, stdin=stdin, stdout=stdout, stderr=stderr
    )


def test_a_reader_that_goes_away_is_no_failure() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start("exec", "--help", **pipes, code="import sys; sys.stdin.read()")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    assert process.wait() == -signal.SIGPIPE
    assert process.stderr.read() == b""


def test_usage_that_nobody_reads_changes_nothing() -> None:
    for target in ("/dev/full", "| true"):
        script = f'"$0" -m soliton exec --nope {target if target[0] == "|" else "> " + target}'
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {script}", sys.executable],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(soliton.__file__).parents[1])},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr == b'Error for command "exec": unknown flag: --nope\n\n'


def test_output_that_cannot_be_written_is_a_failure() -> None:
    with open("/dev/full", "wb") as full:
        process = start("exec", "--help", stdout=full.fileno(), stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert err.decode() == "FATAL:   the output cannot be written\n         No space left on device\n"
    assert process.returncode == 255


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_are_no_failure(closed: tuple[int, ...]) -> None:
    redirect = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m soliton exec --help {redirect}', sys.executable],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(soliton.__file__).parents[1])},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert (b"Usage:" in done.stdout) == (1 not in closed)
    assert done.stderr == b""


WORKING = """
import soliton.cli.sif, sys, time, contextlib
@contextlib.contextmanager
def work():
    try:
        yield
    finally:
        print("cleaned up", flush=True)
def new(invocation):
    with work():
        print("begun", flush=True)
        time.sleep(1000)
soliton.cli.sif.new = new
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_end_from_outside_is_quiet_and_cleans_up(number: signal.Signals) -> None:
    # Whoever runs the tests may ignore signals, as nohup(1) does, and what is ignored stays so in children.
    heed = f"import signal; signal.signal({number}, signal.SIG_DFL)\n"
    code = heed + "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + WORKING
    process = start("sif", "new", "x.sif", code=code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (-number, b"cleaned up\n", b"")
