"""The commands instance start, run, stop, list and stats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from soliton import messages
from soliton.api import instance as instances
from soliton.cli.action import fetching_of, request_of
from soliton.errors import SolitonError, UsageError
from soliton.record import replace

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation
    from soliton.launch.instance import Instance
    from soliton.launch.request import Action

#: Options of exec, run, shell and test that count when an instance is joined. All others belong to its start.
_COUNT_WHEN_JOINING = frozenset(
    [
        "env",
        "env-file",
        "cleanenv",
        "no-env",
        "no-eval",
        "app",
        "home",
        "cwd",
        "pwd",
        "umask",
        "no-umask",
        "containall",
        "compat",
        "no-privs",
        "keep-privs",
        "add-caps",
        "drop-caps",
        "shell",
        "userns",
    ]
)


def start(invocation: Invocation) -> int:
    return _start("start", invocation)


def run(invocation: Invocation) -> int:
    return _start("run", invocation)


def _start(action: Action, invocation: Invocation) -> int:
    image, name, *arguments = invocation.positionals
    request = replace(request_of(action, invocation), image=image, argv=tuple(arguments))
    try:
        instances.start(request, name, pid_file=invocation.text("pid-file"), fetching=fetching_of(invocation))
    except instances.Told as failure:
        return failure.status
    messages.info("instance started successfully")
    return 0


def say_what_has_no_effect(invocation: Invocation) -> None:
    """Options on the command line that only the start of an instance could take."""
    idle = [
        name
        for name, origins in sorted(invocation.origins.items())
        if name not in _COUNT_WHEN_JOINING and any(origin.startswith("-") for origin in origins)
    ]
    if idle:
        messages.warning(
            f"{', '.join(f'`--{name}`' for name in idle)} has no effect in an instance that is running"
            if len(idle) == 1
            else f"{', '.join(f'`--{name}`' for name in idle)} have no effect in an instance that is running"
        )


def list_(invocation: Invocation) -> int:
    if invocation.flag("json") and invocation.flag("logs"):
        raise UsageError("`--json` and `--logs` exclude each other", why="the JSON has the paths of the logs")
    pattern = invocation.positionals[0] if invocation.positionals else "*"
    found = instances.find(pattern, user=invocation.text("user"), sharens=invocation.flag("all"))
    if invocation.flag("json"):
        print(as_json(found))  # noqa: T201 - results go to stdout
    elif invocation.flag("logs"):
        rows = [("INSTANCE NAME", "PID", "LOGS")]
        for one in found:
            rows += [(one.name, str(one.pid), one.log_err), ("", "", one.log_out)]
        print(table(rows))  # noqa: T201
    else:
        rows4 = [("INSTANCE NAME", "PID", "IP", "IMAGE")]
        rows4 += [(one.name, str(one.pid), one.ip, one.image) for one in found]
        print(table(rows4))  # noqa: T201
    return 0


def as_json(found: Sequence[Instance]) -> str:
    """As the peers print it, with what they escape."""
    entries = [
        {
            "instance": one.name,
            "pid": one.pid,
            "img": one.image,
            "ip": one.ip,
            "logErrPath": one.log_err,
            "logOutPath": one.log_out,
        }
        for one in found
    ]
    text = json.dumps({"instances": entries}, indent="\t", ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns four blanks apart; nothing that a name holds can steer a terminal."""
    shown = [[messages.printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) + 4 for column in range(len(shown[0]) - 1)]
    return "\n".join(
        "".join(f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=True)) + row[-1]
        for row in shown
    )


def stop(invocation: Invocation) -> int:
    everything, user = invocation.flag("all"), invocation.text("user")
    if bool(invocation.positionals) == everything:
        raise UsageError(
            "`--all` and a name exclude each other" if everything else "no instance was named",
            remedy="name one, or use `--all`",
        )
    asked = "SIGKILL" if invocation.flag("force") else invocation.text("signal")
    number = _signal(asked) if asked and (asked == "SIGKILL" or "signal" in invocation.origins) else None
    timeout = invocation.integer("timeout")
    if timeout is None or timeout < 0:
        raise SolitonError(f"`{timeout}` is not a number of seconds", why="`--timeout` takes 0 or more")
    pattern = invocation.positionals[0] if invocation.positionals else "*"
    found = instances.find(pattern, user=user, sharens=not everything)
    if not found:
        raise SolitonError(
            "no instance found" if everything else f"no instance found with name `{pattern}`",
            remedy="`instance list` shows those that run",
            status=1,
        )
    for one in found:
        messages.info(f"Stopping {one.name} instance of {one.image} (PID={one.pid})")
    for one in instances.stop(found, number=number, timeout=timeout):
        messages.info(f"Killing {one.name} instance of {one.image} (PID={one.pid}) (Timeout)")
    return 0


def _signal(text: str) -> int:
    """The number of a signal by its number or name, with or without SIG, in any case."""
    import signal

    name = text.strip().upper()
    if name.isascii() and name.isdigit() and 1 <= int(name[:4]) < signal.NSIG:
        return int(name)
    name = name if name.startswith("SIG") else f"SIG{name}"
    known = {one.name: int(one) for one in signal.Signals}
    if name not in known:
        raise SolitonError(
            f"`{text}` is not a signal", remedy="use a name as SIGTERM or TERM, or a number; see signal(7)"
        )
    return known[name]


def stats(invocation: Invocation) -> int:
    import sys
    import time

    from soliton.api.stats import usage

    name, user = invocation.positionals[0], invocation.text("user")
    found = instances.find(name, user=user, sharens=True)
    if len(found) != 1:
        raise SolitonError(
            f"no instance found with name `{name}`"
            if not found
            else f"`{name}` stands for {len(found)} instances",
            remedy="`instance list` shows those that run",
            status=1,
        )
    (one,) = found
    as_json, once = invocation.flag("json"), invocation.flag("no-stream")
    before = usage(one)
    if as_json:
        if not once:
            messages.warning("JSON output is only available for a single timepoint (--no-stream)")
        print(json.dumps(before.as_peers(), indent="\t"))  # noqa: T201
        return 0
    messages.info(f"Stats for {one.name} instance of {one.image} (PID={one.pid})")
    header = ("INSTANCE NAME", "CPU USAGE", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS")
    while True:
        time.sleep(1)
        now = usage(one)
        share = 100 * now.memory / now.limit if now.limit else 0.0
        row = (
            one.name,
            f"{now.share_since(before):.2f}%",
            f"{bytes_size(now.memory)} / {bytes_size(now.limit)}",
            f"{share:.2f}%",
            f"{bytes_size(now.read)} / {bytes_size(now.written)}",
            str(now.tasks),
        )
        if not once and sys.stdout.isatty():
            sys.stdout.write("\x1b[2J\x1b[H")
        print(table([header, row]), flush=True)  # noqa: T201
        if once:
            return 0
        before = now


def bytes_size(number: float) -> str:
    """As the peers write it: four digits, units of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            return f"{number:.4g}{unit}"
        number /= 1024
    return f"{number:.4g}PiB"
