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
from soliton.build import console, workspace
from soliton.build.definition import Section
from soliton.build.trace import Watch
from soliton.errors import BuildError, LaunchError, SolitonError
from soliton.launch.plan import Plan
from soliton.record import replace
from soliton.site import reasons

_LEAVE_IN_FILE = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
#: Lines of output repeated in an error.
_SHOWN = 5
#: With less bytes than this a file system is full.
_ROOM = 1 << 20


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
    child = core.start("launch", replace(plan, attached=True), env=environment)
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
    ended: console.Ended,
    section: Section,
    name: str,
    *,
    line: int = 0,
    log: str | None = None,
    folder: str = "",
) -> None:
    """Raises BuildError if a section's script failed. line: of the recipe, where it did. log, folder: see `failed`."""
    if ended.status != 0:
        raise failed(f"%{section.name}", f"{name}:{line or section.line}", ended, log, folder)


def failed(title: str, place: str, ended: console.Ended, log: str | None, folder: str) -> BuildError:
    """What the user reads of a step that failed. place: in the recipe. log: of its whole output. folder: where it wrote."""
    lines = ended.last_lines[-_SHOWN:]
    full = room_in(folder) if folder else None
    return BuildError(
        f"`{title}` failed with exit status {ended.status} ({place})",
        why="its last output: " + " | ".join(lines) if lines else "it printed nothing",
        remedy=where_more_is(log) if full is None else f"{full}: {ELSEWHERE}",
    )


def where_more_is(log: str | None) -> str | None:
    """For whoever wants to know more of a failed step."""
    if log is None or not os.path.exists(log):
        return None
    return f"all of it is in {log}; `--debug-shell` opens a shell in the failed step"


def _starter(plan: Plan, environment: Mapping[str, str], pass_fds: tuple[int, ...] = ()) -> console.Starter:
    bound = replace(plan, attached=True)

    def start(stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        return core.start(
            "launch", bound, pass_fds=pass_fds, stdin=stdin, stdout=stdout, stderr=stderr, env=environment
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
        # Where there is no room for the record, either, that is what it would have said.
        full = room_in(os.path.dirname(path))
        if full is not None:
            raise BuildError("the build cannot go on", why=full, remedy=ELSEWHERE) from None
        record = {"code": "died", "detail": text}
    raise explain(record)


#: What helps where a temporary directory is full.
ELSEWHERE = "make room there, or name another place with `--tmpdir` or SOLITON_TMPDIR"


def room_in(folder: str) -> str | None:
    """That there is no room for files in a directory, in words; None if there is."""
    try:
        there = os.statvfs(folder)
    except OSError:
        return None
    if there.f_bavail * there.f_frsize < _ROOM or (there.f_files and not there.f_favail):
        return f"the temporary directory `{folder.partition(f'/{workspace.NAME}')[0]}` is full"
    return None


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
