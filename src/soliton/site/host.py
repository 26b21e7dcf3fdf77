"""Facts about the machine and the caller: every look that compiling a plan takes, taken beforehand."""

from __future__ import annotations

import os
import sys

from soliton.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


@record
class SubordinateIds:
    """The caller's first ranges in /etc/subuid and /etc/subgid: (first id, count)."""

    users: tuple[int, int]
    groups: tuple[int, int]
    newuidmap: str
    newgidmap: str


class Watched(dict[str, str]):
    """An environment that remembers which variables were asked for by name: what a plan depends on."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(environment)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str):
            self.asked.add(key)
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


@record
class Host:
    """groups: (name, number) of every group of the caller, the primary one first. cwd: None if it is gone.

    capabilities: of real root, who may lack some, as a set of bits; all of them for everybody else, who has them in a user
        namespace.
    mount_points: of every file system of the host, outer ones first; empty where nobody asked.
    """

    uid: int
    gid: int
    name: str
    gecos: str
    home: str
    shell: str
    groups: tuple[tuple[str, int], ...]
    cwd: str | None
    environment: Mapping[str, str]
    umask: int
    hostname: str
    resolv_conf: bool
    privileged: bool
    capabilities: int = -1
    mount_points: tuple[str, ...] = ()


def look(*, mount_points: bool = False) -> Host:
    """Takes the facts of this process. Names that the user database does not know are numbers.

    mount_points: whether those are asked for.
    """
    import pwd

    uid, gid = os.getuid(), os.getgid()
    environment = os.environ
    try:
        entry = pwd.getpwuid(uid)
        name, gecos, home, shell = entry.pw_name, entry.pw_gecos, entry.pw_dir, entry.pw_shell
    except KeyError:
        name, gecos, home, shell = str(uid), "", environment.get("HOME", "/"), "/bin/sh"
    # Mapped root of an outer container may mount too, but only within a user namespace of its own.
    privileged = uid == 0 and _in_first_namespace()
    return Host(
        uid=uid,
        gid=gid,
        name=name,
        gecos=gecos,
        home=environment.get("HOME") or home,
        shell=shell or "/bin/sh",
        groups=_groups(gid),
        cwd=_cwd(environment),
        environment=_own_environment(environment),
        umask=_umask(),
        hostname=os.uname().nodename,
        resolv_conf=os.path.exists("/etc/resolv.conf"),
        privileged=privileged,
        capabilities=_permitted() if privileged else -1,
        mount_points=_mount_points() if mount_points else (),
    )


def user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _groups(primary: int) -> tuple[tuple[str, int], ...]:
    return tuple((group_name(gid), gid) for gid in (primary, *sorted(set(os.getgroups()) - {primary})))


def _permitted() -> int:
    """The capabilities of this process (proc(5), CapPrm)."""
    with open("/proc/self/status", "rb") as status:
        return next((int(line.split()[1], 16) for line in status if line.startswith(b"CapPrm:")), -1)


def _mount_points() -> tuple[str, ...]:
    """Where file systems are mounted, outer ones first."""
    found: list[str] = []
    try:
        with open("/proc/self/mounts", "rb") as table:
            for line in table:
                name = line.split(b" ")[1]
                for code, character in (
                    (b"\\040", b" "),
                    (b"\\011", b"\t"),
                    (b"\\012", b"\n"),
                    (b"\\134", b"\\"),
                ):
                    name = name.replace(code, character)
                found.append(os.fsdecode(name))
    except OSError:
        return ()
    return tuple(sorted(set(found), key=lambda path: path.split("/")))


def _cwd(environment: Mapping[str, str]) -> str | None:
    """The path as the shell spells it, through links, where that is the same directory."""
    try:
        here = os.getcwd()
    except OSError:
        return None
    spelled = environment.get("PWD", "")
    if spelled.startswith("/") and spelled != here:
        try:
            if os.path.samestat(os.stat(spelled), os.stat(here)):
                return spelled
        except OSError:
            pass
    return here


def _own_environment(environment: Mapping[str, str]) -> Watched:
    """The caller's environment, without what the interpreter put there."""
    own = Watched(environment)
    if "_SOLITON_NO_LC_CTYPE" in environment:
        own.pop("LC_CTYPE", None)
    return own


def _umask() -> int:
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


def _in_first_namespace() -> bool:
    try:
        with open("/proc/self/uid_map", "rb") as table:
            return table.read().split() == [b"0", b"0", b"4294967295"]
    except OSError:
        return False


def subordinate_ids(uid: int, name: str) -> SubordinateIds | None:
    """What the caller may map by `newuidmap`: None without an entry in both tables or without the programs."""
    newuidmap, newgidmap = program("newuidmap"), program("newgidmap")
    users, groups = _range("/etc/subuid", uid, name), _range("/etc/subgid", uid, name)
    if newuidmap is None or newgidmap is None or users is None or groups is None:
        return None
    return SubordinateIds(users, groups, newuidmap, newgidmap)


def program(name: str) -> str | None:
    """Absolute path of a program, which an ordinary user's PATH may lack: by the directive `binary-path`."""
    from soliton.site import config as configuration

    chosen = configuration.current().config.binary_path
    for folder in chosen.replace("$PATH", os.environ.get("PATH", "")).split(":"):
        if not folder.startswith("/"):
            continue
        path = f"{folder}/{name}"
        # The interpreter tells of what is opened only (`site/witness.py`).
        sys.audit("soliton.looked_at", path)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _range(table: str, uid: int, name: str) -> tuple[int, int] | None:
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.strip().split(":")
                if len(fields) == 3 and fields[0] in (name, str(uid)):
                    first, count = int(fields[1]), int(fields[2])
                    if count >= 65535:
                        return first, count
    except (OSError, ValueError):
        return None
    return None
