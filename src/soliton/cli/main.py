"""One call of the program: parse, call the handler, and tell in one place what went wrong.

Imports of what only some calls need stand inside functions: every module here is loaded at each start of a container.
"""

from __future__ import annotations

import os
import sys

from soliton import messages
from soliton.cli import commands
from soliton.cli.parser import CommandLineError, parse
from soliton.errors import FAILURE, USAGE, SolitonError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from soliton.cli.invocation import Invocation
    from soliton.site.witness import Witness

#: Watches over a call whose plan may be stored for the next (`launch/shortcut.py`).
witness: Witness | None = None

PROGRAMS = ("soliton", "apptainer", "singularity")


def run(words: Sequence[str]) -> int:
    """Runs one call and returns its exit status.

    words: as the native program hands them over: `--invoked-as NAME`, then what the user wrote; or `--report-failure RECORD`.
    """
    global witness
    give_standard_streams()
    if "_SOLITON_NAMES" in os.environ:
        from soliton.site.witness import Witness

        witness = Witness()
    program, words = called_as(words)
    path: tuple[str, ...] = ()
    try:
        try:
            let_interruptions_through()
            configure({}, os.environ)
            if words[:1] == ["--report-failure"] and len(words) == 2:
                return report_failure(words[1])
            invocation = parse(program, words, os.environ)
            path = invocation.command
            configure(invocation.global_options, os.environ)
            for at, text in invocation.notices:
                messages.say(at, text)
            if file := invocation.global_options.get("config"):
                from soliton.site.config import choose

                choose(str(file))
            status = call(invocation)
            flush_results()
            return status
        except CommandLineError as error:
            return wrong_usage(program, error, error.path)
        except UsageError as error:
            return wrong_usage(program, error, path)
        except SolitonError as error:
            show_trace()
            messages.failure(error)
            return error.status
        except BrokenPipeError:
            return die_quietly(13)
        except OSError as error:
            show_trace()
            messages.failure(unwritten_results(error) or system_error(error))
            return FAILURE
        except Exception as error:
            show_trace()
            messages.failure(defect(error, program))
            return FAILURE
    except KeyboardInterrupt as ended:
        return die_quietly(getattr(ended, "number", 2))


def let_interruptions_through() -> None:
    """A Ctrl-C that has come since the call waits until now, when it ends the program without a word (core/src/handover.rs)."""
    if "_SOLITON_HELD" in os.environ:
        import _signal  # type: ignore[import-not-found]

        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))


def unheard(what: sys.UnraisableHookArgs) -> None:
    """For what happens where exceptions count for nothing; only few calls need more than this."""
    from soliton.cli import interruption

    interruption.unheard(what)


def called_as(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The program's flavour by the name it was called under, and the user's words."""
    if words[:1] != ["--invoked-as"] or len(words) < 2:
        return "soliton", words
    name = os.path.basename(words[1])
    words = words[2:]
    if name == "run-singularity":
        return "singularity", ["--quiet", "run", *words]
    return (name if name in PROGRAMS else "soliton"), words


def configure(options: Mapping[str, object], environment: Mapping[str, str]) -> None:
    """How much is said: by the options before the command, else by the number in MESSAGELEVEL."""
    if options.get("debug"):
        level = messages.DEBUG
    elif options.get("verbose"):
        level = 4
    elif options.get("quiet"):
        level = messages.LOG
    elif options.get("silent"):
        level = messages.ERROR
    else:
        level = messages.INFO
        for prefix in ("SOLITON_", "APPTAINER_", "SINGULARITY_"):
            number = environment.get(f"{prefix}MESSAGELEVEL", "").strip()
            if number.isascii() and number.removeprefix("-").isdigit():
                level = max(messages.FATAL, min(int(number[:4]), messages.DEBUG))
                break
    messages.configure(level, colour=not options.get("nocolor"))


def call(invocation: Invocation) -> int:
    """Calls the command's handler."""
    if invocation.command == ("--version",):
        from soliton.cli.version import version_line

        return version_line(invocation)
    command = commands.at(invocation.command)
    assert command.handler is not None
    if not command.immediate:
        from soliton.cli.interruption import end_cleanly

        end_cleanly()
    # Names of files that are no text go out as the bytes they are.
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    return commands.handler(command.handler)(invocation)


def flush_results() -> None:
    """What is on its way to stdout is part of the work: it counts only if it arrives."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_results()
        raise SolitonError("the output cannot be written", why=error.strerror) from error


def unwritten_results(error: OSError) -> SolitonError | None:
    """The failure to write results, if that is what an error is: handlers themselves do nothing else that could fail so."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if error.filename is not None or place is None:
        return None
    if not str(place.tb_frame.f_globals.get("__name__")).startswith("soliton.cli."):
        return None
    abandon_results()
    return SolitonError("the output cannot be written", why=error.strerror)


def abandon_results() -> None:
    """Lets what stdout still holds go nowhere, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def report_failure(record: str) -> int:
    """Explains why the core could not start a container: the core calls this with its JSON record."""
    import json

    explain = __import__("soliton.site.reasons", fromlist=("explain",)).explain
    messages.failure(explain(json.loads(record)))
    return FAILURE


def wrong_usage(program: str, error: UsageError, path: tuple[str, ...]) -> int:
    """A command line that makes no sense: why on stderr, how it should look on stdout, as the peers do."""
    from soliton.cli.help import usage

    lines = [f'Error for command "{path[-1] if path else program}": {error.what}']
    lines += [part for part in (error.why, error.remedy) if part]
    messages.write(messages.printable("\n".join(lines)) + "\n\n")
    try:
        sys.stdout.write(usage(program, path))
        sys.stdout.flush()
    except OSError:
        abandon_results()
    return USAGE


def system_error(error: OSError) -> SolitonError:
    """An error of the system that nobody expected at its place."""
    reason = error.strerror or str(error)
    named = (
        f"`{os.fsdecode(error.filename)}`: {reason}" if isinstance(error.filename, (str, bytes)) else reason
    )
    return SolitonError(
        named, remedy=None if messages.shows(messages.DEBUG) else "run it again with -d to see where"
    )


def defect(error: Exception, program: str) -> SolitonError:
    """A mistake in soliton itself."""
    return SolitonError(
        f"unexpected {type(error).__name__}: {error}",
        why="this is a mistake in soliton, not in what you asked for",
        remedy=None
        if messages.shows(messages.DEBUG)
        else f"`{program} -d …` shows where; please report it with that",
    )


def show_trace() -> None:
    if messages.shows(messages.DEBUG):
        from traceback import format_exc

        messages.write(format_exc())


def die_quietly(number: int) -> int:
    """Ends as a program without handlers would, so that a shell sees what happened. Does not return in practice."""
    import signal

    try:
        sys.stdout.flush()
    except OSError:
        abandon_results()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def give_standard_streams() -> None:
    """Where stdin, stdout or stderr are closed, /dev/null takes their place: else a file opened later would."""
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        os.set_inheritable(number, True)
        number = os.dup(number)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
