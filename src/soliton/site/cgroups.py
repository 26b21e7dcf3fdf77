"""Control groups (cgroup v2) of this process: where it is, what may be made there, and moving into a new one with limits.

Without privilege a group can be made where a part of the tree is delegated: by a user's systemd, which is asked for a scope, or by
whoever made a part of the tree above this process the caller's. Otherwise it is an error that names what is not delegated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soliton.errors import SolitonError

if TYPE_CHECKING:
    from soliton.launch.limits import Setting

#: A process of one of these belongs to a job, whose limits and end must stay its own.
_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "OAR_JOB_ID", "COBALT_JOBID")
_PREFIX = "soliton-"


@dataclass(frozen=True)
class Here:
    """mount: where the tree of cgroup v2 is mounted. path: this process's place in it, `/…`."""

    mount: str
    path: str

    def folder(self) -> str:
        return self.mount + self.path.rstrip("/")

    def ancestors(self) -> Iterator[str]:
        """The directory of this process's group, and those above it."""
        folder = self.folder()
        while len(folder) >= len(self.mount):
            yield folder
            folder = os.path.dirname(folder)


def look(pid: int | str = "self") -> Here:
    """Raises SolitonError where there is no cgroup v2."""
    mount = path = None
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines,
    ):
        for line in lines:
            fields = line.split()
            if "-" in fields and fields[fields.index("-") + 1] == "cgroup2":
                mount = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
                break
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as lines,
    ):
        for line in lines:
            if line.startswith("0::"):
                path = line[3:].rstrip("\n")
    if mount is None or path is None or path.startswith("/.."):
        raise SolitonError(
            "resources cannot be limited here",
            why="no tree of control groups of version 2 is mounted",
            remedy="leave the limits out, or use those of the batch system",
        )
    return Here(mount, path)


def enter(settings: Sequence[Setting], name: str, *, by_systemd: bool = True) -> str:
    """Moves this process into a new group with these limits. Returns its path in the tree.

    name: for people who look at the tree. by_systemd: whether the user's systemd may be asked. Raises SolitonError if that cannot be had; then nothing has changed.
    """
    wanted = sorted({setting.controller for setting in settings})
    here = look()
    refusals: list[str] = []
    for folder in here.ancestors():
        made = _make(folder, wanted, name, refusals)
        if made is not None:
            _fill(made, settings)
            return made[len(here.mount) :]
    if by_systemd and not any(os.environ.get(variable) for variable in _JOBS) and _scope(name):
        here = look()
        folder = here.folder()
        inner = os.path.join(folder, "container")
        with contextlib.suppress(OSError):
            os.mkdir(inner, 0o755)
            _write(os.path.join(inner, "cgroup.procs"), str(os.getpid()))
            _write(os.path.join(folder, "cgroup.subtree_control"), " ".join(f"+{one}" for one in wanted))
            _fill(inner, settings, entered=True)
            return inner[len(here.mount) :]
        refusals = [f"`{_missing(folder, wanted)}` is not delegated to `{folder}`"]
    what = f"{', '.join(f'`{one.origin}`' for one in settings[:3])} cannot be had here"
    if taken := sorted(_of_version_1() & set(wanted)):
        raise SolitonError(
            what,
            why=f"this machine uses {', '.join(taken)} for control groups of version 1, which cannot be delegated",
            remedy="ask the administrator to boot with `systemd.unified_cgroup_hierarchy=1`",
        )
    raise SolitonError(
        what,
        why=(refusals[0] if refusals else "no part of the tree of control groups is delegated to you")
        + ("" if by_systemd else ", and the configuration has `systemd-cgroups = false`"),
        remedy=f"ask the administrator to delegate the controllers {', '.join(wanted)} to users (systemd: `Delegate=` of user@.service)",
    )


@contextlib.contextmanager
def own(name: str) -> Iterator[None]:
    """Meanwhile this process is in a new group below the one that it was in, where that may be done: an init takes the group that it
    is started in for its own alone. The group stays for what was started in it, unless that failed.
    """
    made: str | None = None
    with contextlib.suppress(SolitonError):
        here = look()
        made = _make(here.folder(), (), name, [])
        if made is not None:
            try:
                _fill(made, ())
            except SolitonError:
                made = None
    if made is None:
        yield
        return
    try:
        yield
    except BaseException:
        _leave(here)
        remove(made[len(here.mount) :])
        raise
    _leave(here)


def _leave(before: Here) -> None:
    """Moves this process back to where it was."""
    with contextlib.suppress(OSError):
        _write(os.path.join(before.folder(), "cgroup.procs"), str(os.getpid()))


def remove(path: str) -> None:
    """Removes a group that was made here, and what was made in it, unless somebody stays in them."""
    if not os.path.basename(path).startswith(_PREFIX):
        return
    with contextlib.suppress(SolitonError):
        folder = look().mount + path
        # Who serves the file system of a container ends a little later.
        for _ in range(100):
            if _remove(folder):
                return
            time.sleep(0.01)


def join(path: str) -> None:
    """Moves this process into a group that is there: who joins a container shares its limits."""
    folder = look().mount + path
    try:
        _write(os.path.join(folder, "cgroup.procs"), str(os.getpid()))
    except OSError as error:
        raise SolitonError(
            "the control group of the container cannot be entered", why=f"`{folder}`: {error.strerror}"
        ) from None


def _make(folder: str, wanted: Sequence[str], name: str, refusals: list[str]) -> str | None:
    """A new group below `folder` that has the controllers, if that is possible."""
    if not os.access(folder, os.W_OK) or not os.access(os.path.join(folder, "cgroup.procs"), os.W_OK):
        refusals.append(f"`{folder}` may not be written")
        return None
    _sweep(folder)
    lacking = [one for one in wanted if one not in _words(os.path.join(folder, "cgroup.subtree_control"))]
    for controller in lacking:
        try:
            _write(os.path.join(folder, "cgroup.subtree_control"), f"+{controller}")
        except OSError as error:
            reason = "it has processes of its own" if error.errno == errno.EBUSY else error.strerror
            if controller not in _words(os.path.join(folder, "cgroup.controllers")):
                reason = f"it is not in `{os.path.join(folder, 'cgroup.controllers')}`"
            refusals.insert(0, f"the controller `{controller}` cannot be enabled in `{folder}`: {reason}")
            return None
    made = os.path.join(folder, f"{_PREFIX}{os.getpid()}-{name}-{secrets.token_hex(3)}")
    try:
        os.mkdir(made, 0o755)
    except OSError as error:
        refusals.insert(0, f"no group can be made in `{folder}`: {error.strerror}")
        return None
    return made


def _fill(folder: str, settings: Sequence[Setting], entered: bool = False) -> None:
    """Writes the limits, reads them back as far as they read as written, and enters."""
    try:
        for setting in settings:
            path = os.path.join(folder, setting.file)
            try:
                _write(path, setting.value)
            except OSError as error:
                raise SolitonError(
                    f"`{setting.origin}` cannot be had here",
                    why=f"`{setting.value}` cannot be written to `{path}`: {error.strerror}",
                ) from None
        if not entered:
            _write(os.path.join(folder, "cgroup.procs"), str(os.getpid()))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        raise SolitonError(
            "the control group of the container cannot be entered",
            why=f"`{os.path.join(folder, 'cgroup.procs')}`: {error.strerror}",
            remedy="the group above both has to be delegated, too",
        ) from None
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        raise


def _sweep(folder: str) -> None:
    """Removes groups whose containers have ended: the kernel refuses where there are processes."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            if entry.startswith(_PREFIX) and not os.path.exists(
                f"/proc/{entry.removeprefix(_PREFIX).partition('-')[0]}"
            ):
                _remove(os.path.join(folder, entry))


def _remove(folder: str) -> bool:
    """Of a container that lives nothing is taken. Whether the group is gone."""
    with contextlib.suppress(OSError):
        with open(os.path.join(folder, "cgroup.events"), encoding="ascii") as file:
            if "populated 0" not in file.read():
                return False
        for below, _, _ in os.walk(folder, topdown=False):
            os.rmdir(below)
    return not os.path.isdir(folder)


def _scope(name: str) -> bool:
    """Asks the user's systemd for a scope around this process; true if it is in one."""
    import shutil
    import subprocess

    program = shutil.which("busctl")
    if program is None or not _has_user_bus():
        return False
    before = look().path
    unit = f"{_PREFIX}{os.getpid()}-{name}-{secrets.token_hex(3)}.scope"
    call = [program, "--user", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]
    call += ["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", "2"]
    call += ["PIDs", "au", "1", str(os.getpid()), "Delegate", "b", "true", "0"]
    done = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    if done.returncode:
        return False
    # The answer comes before the deed.
    for _ in range(500):
        if look().path != before:
            return True
        time.sleep(0.01)
    return False


def _has_user_bus() -> bool:
    if os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return True
    return os.path.exists(os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "bus"))


def _missing(folder: str, wanted: Sequence[str]) -> str:
    there = _words(os.path.join(folder, "cgroup.controllers"))
    return ", ".join(one for one in wanted if one not in there) or ", ".join(wanted)


def _of_version_1() -> set[str]:
    """Controllers that no tree of version 2 can have, because one of version 1 has them."""
    found = set()
    with (
        contextlib.suppress(OSError),
        open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines,
    ):
        for line in lines:
            names = line.split(":", 2)[1]
            found |= {{"blkio": "io"}.get(name, name) for name in names.split(",")}
    return found


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode("ascii"))
    finally:
        os.close(fd)
