"""Carrying out one plan or host script, and telling what went wrong.

A plan is executed by the core as a child; if it cannot get as far as the payload, the core hands its record to the
plan's reporter, which here is a line of Python that leaves it in a file for us to explain.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from soliton import core
from soliton.build import console
from soliton.build.definition import Section
from soliton.build.trace import Watch
from soliton.errors import BuildError, LaunchError, SolitonError
from soliton.launch.plan import Plan
from soliton.site import reasons

_LEAVE_IN_FILE = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
#: Lines of output repeated in an error.
_SHOWN = 5


def reporter(path: str) -> tuple[str, ...]:
    """argv that leaves a failure's record at `path`."""
    return sys.executable, "-I", "-S", "-c", _LEAVE_IN_FILE, path


def execute(
    plan: Plan,
    environment: Mapping[str, str],
    *,
    pass_fds: tuple[int, ...] = (),
    watch: Watch | None = None,
) -> console.Ended:
    """Runs a plan to its payload's end, output going live to the user. environment: of the core itself.

    pass_fds: descriptors that the plan names as `/proc/self/fd/N`. watch: sees the output. Raises LaunchError if the payload could not be started.
    """
    ended = console.run(_starter(plan, environment, pass_fds), watch)
    _check_report(plan)
    return ended


def interactive(plan: Plan, environment: Mapping[str, str]) -> None:
    """Runs a plan at the user's terminal, whose signals it gets itself."""
    child = core.start("launch", plan, env=environment)
    try:
        while True:
            try:
                child.wait()
                break
            except KeyboardInterrupt:
                continue
    except BaseException:
        console.end(child)
        raise
    _check_report(plan)


def capture(plan: Plan, environment: Mapping[str, str], limit: int = 1 << 20) -> str:
    """What the payload prints. Raises LaunchError if it could not be started, BuildError if it fails."""
    child = _starter(plan, environment)(subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE)
    try:
        out, err = child.communicate()
    except BaseException:
        console.end(child)
        raise
    _check_report(plan)
    if child.returncode != 0:
        raise BuildError(
            f"`{' '.join(plan.process.argv)}` failed with status {child.returncode}",
            why=err.decode(errors="replace").strip()[-400:] or None,
        )
    return out[:limit].decode("utf-8", "replace")


def host_script(argv: tuple[str, ...], environment: Mapping[str, str], cwd: str) -> console.Ended:
    """Runs a script of the definition on the host, as the user."""

    def start(stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, env=dict(environment), cwd=cwd, umask=0o022
        )

    return console.run(start)


def check(
    ended: console.Ended, section: Section, name: str, *, line: int = 0, log: str | None = None
) -> None:
    """Raises BuildError if a section's script failed. line: of the recipe, where it did. log: of its whole output."""
    if ended.status == 0:
        return
    place = f"{name}:{line or section.line}"
    lines = ended.last_lines[-_SHOWN:]
    raise BuildError(
        f"`%{section.name}` failed with exit status {ended.status} ({place})",
        why="its last output: " + " | ".join(lines) if lines else "it printed nothing",
        remedy=where_more_is(log),
    )


def where_more_is(log: str | None) -> str | None:
    """For whoever wants to know more of a failed step."""
    if log is None or not os.path.exists(log):
        return None
    return f"all of it is in {log}; `--debug-shell` opens a shell in the failed step"


def _starter(plan: Plan, environment: Mapping[str, str], pass_fds: tuple[int, ...] = ()) -> console.Starter:
    def start(stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        return core.start(
            "launch", plan, pass_fds=pass_fds, stdin=stdin, stdout=stdout, stderr=stderr, env=environment
        )

    return start


def _check_report(plan: Plan) -> None:
    path = plan.reporter[-1] if plan.reporter else None
    if path is None or not os.path.exists(path):
        return
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read(1 << 16)
    os.unlink(path)
    try:
        record: dict[str, Any] = json.loads(text)
    except ValueError:
        record = {"code": "died", "detail": text}
    raise explain(record)


def explain(record: Mapping[str, Any]) -> SolitonError:
    """The failure as the user should read it; what is particular to a build is told here."""
    code, path = record.get("code"), record.get("path")
    reason = os.strerror(record["errno"]) if record.get("errno") else str(record.get("detail") or "")
    match code:
        case "overlay":
            return LaunchError(
                "the temporary directory cannot hold the changes of a build",
                why=f"its file system refuses to be the upper layer of an overlay ({reason})",
                remedy="name a directory on a local disk (ext4, xfs, btrfs, tmpfs) with `--tmpdir` or SOLITON_TMPDIR",
            )
        case "copy-source":
            return BuildError(f"`{path}` cannot be copied into the image", why=reason)
        case "copy-target":
            return BuildError(f"`{path}` in the image cannot be written by a copy", why=reason)
    return reasons.explain(record)
